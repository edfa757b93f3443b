"""Augmented batches with labels as a stage learns them, and X of a batch."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from adn_jax.config import AugmentSettings, Recipe, StageSettings
from adn_jax.data.augment import augment
from adn_jax.distributed.mesh import keep_whole
from adn_jax.pipeline.adn import realign_labels
from adn_jax.pipeline.align import align_volume, find_view
from adn_jax.types import Batch, Key


def training_batch(
    key: Key, batch: Batch, settings: StageSettings, recipe: Recipe
) -> Batch:
    """The augmented batch, its label partial or cut at one half."""
    if not recipe.soft_labels:
        batch = replace(batch, lesion=jnp.round(batch.lesion))
    return augment_whole(key, batch, settings.augment, recipe)


def augment_whole(
    key: Key, batch: Batch, settings: AugmentSettings, recipe: Recipe
) -> Batch:
    """The augmented batch, each case whole on its devices: T may turn any row away."""
    with jax.named_scope("augment"):
        batch = augment(key, batch, settings, recipe.system.prepare.spacing_mm)
    return replace(
        batch,
        volume=keep_whole(batch.volume),
        lesion=keep_whole(batch.lesion),
        tissue=keep_whole(batch.tissue),
    )


def align_batch(recipe: Recipe, frozen: Any, batch: Batch) -> Batch:
    """X and the labels on its grid: what the tissue net sees in the joint stage."""
    view = find_view(frozen.get("align"), batch.volume, recipe.system)
    aligned, matrix, _ = align_volume(batch.volume, view, recipe.system)
    return Batch(
        volume=aligned,
        lesion=realign_labels(batch.lesion, matrix, recipe.system),
        tissue=realign_labels(batch.tissue[..., None], matrix, recipe.system)[..., 0],
        case=batch.case,
    )
