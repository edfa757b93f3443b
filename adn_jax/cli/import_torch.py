"""`import-torch`: the authors' PyTorch checkpoints become a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from adn_jax.cli.arguments import LocalFolder, parse
from adn_jax.config import Recipe
from adn_jax.config.recipe_file import load_recipe
from adn_jax.config.serialization import sections
from adn_jax.config.validation import check_recipe
from adn_jax.errors import UserError
from adn_jax.io.files import check_fetched
from adn_jax.models.torch_names import State, TorchNetSettings, from_torch, torch_widths
from adn_jax.pipeline.adn import AdnParams
from adn_jax.training.runs import write_run
from adn_jax.types import Params


@dataclass(frozen=True)
class ImportTorch:
    """Turn the authors' PyTorch checkpoints into a run for evaluate and predict."""

    run: Annotated[LocalFolder, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the new run."""
    t: Path
    """Checkpoint of network T (.pth with `state_dict`)."""
    df: Path
    """Checkpoint of D and F (.pth with `asym_state_dict` and `seg_state_dict`)."""
    tissue: Path | None = None
    """Checkpoint of the tissue network (.pth with `state_dict`)."""
    recipe: Path = Path("configs/adn_reference.py")
    """Recipe of the run, with T and D; its widths and tissue source follow the
    checkpoints."""


def main(arguments: Sequence[str]) -> None:
    """Read the checkpoints, write the run, say where it is."""
    command = parse(ImportTorch, "import-torch", arguments)
    recipe, params, tissue = import_networks(command)
    write_run(command.run, recipe, params, tissue)
    print(f"The run is in {command.run}; `evaluate` and `predict` accept it.")


def import_networks(command: ImportTorch) -> tuple[Recipe, AdnParams, Params]:
    """The recipe with the widths that were found, and the networks' parameters."""
    recipe = load_recipe(command.recipe)
    for lacking, name in (
        (not recipe.system.alignment.network, "T"),
        (not recipe.system.disentangles, "D"),
    ):
        if lacking:
            raise UserError(
                f"the recipe {recipe.name!r} has no network {name}, of which the "
                "checkpoints are; give one that has, as configs/adn_reference.py."
            )
    inputs = {
        "disentangle_net": recipe.system.disentangle_channels,
        "segment_net": recipe.system.segment_channels,
    }
    joint = read_checkpoint(command.df)
    states = {
        "alignment_net": (read_checkpoint(command.t), "state_dict", "T"),
        "disentangle_net": (joint, "asym_state_dict", "D"),
        "segment_net": (joint, "seg_state_dict", "F"),
    }
    if command.tissue is not None:
        tissue = read_checkpoint(command.tissue)
        states["tissue_net"] = (tissue, "state_dict", "the tissue network")

    params = {}
    for field, (checkpoint, key, network) in states.items():
        state = network_state(checkpoint, key, network)
        own = dict(sections(recipe))[f"{field}."]
        settings = fitted_settings(own, state, network)
        params[field] = from_torch(state, settings, network, inputs.get(field, 1))
        recipe = recipe.with_fields(**{field: settings})
    if command.tissue is not None:
        recipe = replace(recipe, tissue_source="network")
    elif recipe.tissue_source == "network":
        recipe = replace(recipe, tissue_source="maps")
    check_recipe(recipe)
    adn = AdnParams(
        align=params["alignment_net"],
        disentangle=params["disentangle_net"],
        segment=params["segment_net"],
    )
    return recipe, adn, params.get("tissue_net")


def fitted_settings(
    settings: TorchNetSettings, state: State, network: str
) -> TorchNetSettings:
    """The settings with the widths and outputs of a state dict."""
    widths = torch_widths(state, settings)
    if not widths:
        begin = ", ".join(list(state)[:3]) or "nothing"
        raise UserError(
            f"the checkpoint of {network} has none of its parameters (it begins with "
            f"{begin}); give the file of this network."
        )
    changes: dict[str, Any] = {"widths": widths}
    if "final_conv.bias" in state:  # T has none
        changes["outputs"] = len(state["final_conv.bias"])
    return replace(settings, **changes)


def network_state(checkpoint: Mapping[str, Any], key: str, network: str) -> State:
    """One network's arrays in a checkpoint, without the prefix `module.`."""
    if not isinstance(checkpoint.get(key), Mapping):
        raise UserError(
            f"the checkpoint of {network} has no {key} (it has "
            f"{', '.join(map(str, checkpoint)) or 'nothing'}); give the authors' file."
        )
    state = {
        name.removeprefix("module."): value.float().numpy()
        for name, value in checkpoint[key].items()
        if hasattr(value, "float")
    }
    for name, values in state.items():
        if not np.isfinite(values).all():
            raise UserError(
                f"the checkpoint of {network} has values in {name} that are no finite "
                "numbers, as of a training that diverged; give an earlier one."
            )
    return state


def read_checkpoint(path: Path) -> Mapping[str, Any]:
    """Load a .pth file, tensors and plain containers only."""
    try:
        import torch
    except ModuleNotFoundError as error:
        raise UserError(
            "reading .pth files needs PyTorch, which is not installed; "
            'pip install "adn-jax[torch]", then run the command again.'
        ) from error
    check_fetched(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist; give the path of a .pth file.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path} cannot be read as a checkpoint of weights only ({reason}); "
            "give a .pth file as the authors publish it."
        ) from error
    if not isinstance(checkpoint, Mapping):
        raise UserError(f"{path} holds no table of networks; give the authors' file.")
    return checkpoint
