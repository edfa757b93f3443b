from .config import PrepareSettings, Recipe, SystemSettings
from .config.recipe_file import load_recipe
from .data.batches import open_split, train_batches
from .data.cases import PreparedCase
from .data.manifest import read_manifest
from .datasets.raw import CaseInput
from .errors import UserError
from .evaluation.evaluate import evaluate_run
from .geometry.sampler import mirror, sample
from .inference.predict import Prediction, predict
from .io.image import Image
from .losses.recipes import align_loss, joint_loss
from .phantom.generate import write_phantoms
from .pipeline.adn import (
    AdnOutputs,
    AdnParams,
    Targets,
    apply_adn,
    init_adn,
    make_targets,
)
from .prepare.case import prepare_scan
from .prepare.dataset import prepare_dataset
from .scans.read import RawScan, read_scan
from .training.runs import TrainedModel, load_run
from .training.steps import TrainState, initial_state, make_train_step
from .training.train import train
from .types import Batch

__all__ = [
    "AdnOutputs",
    "AdnParams",
    "Batch",
    "CaseInput",
    "Image",
    "Prediction",
    "PrepareSettings",
    "PreparedCase",
    "RawScan",
    "Recipe",
    "SystemSettings",
    "Targets",
    "TrainState",
    "TrainedModel",
    "UserError",
    "align_loss",
    "apply_adn",
    "evaluate_run",
    "init_adn",
    "initial_state",
    "joint_loss",
    "load_recipe",
    "load_run",
    "make_targets",
    "make_train_step",
    "mirror",
    "open_split",
    "predict",
    "prepare_dataset",
    "prepare_scan",
    "read_manifest",
    "read_scan",
    "sample",
    "train",
    "train_batches",
    "write_phantoms",
]
