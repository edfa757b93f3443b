"""Stage joint: D and F together, T fixed; F alone in a system without D."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from adn_jax.config import AugmentSettings, Recipe, StageSettings
from adn_jax.data.augment import augment
from adn_jax.distributed.mesh import replicate_rows
from adn_jax.losses.recipes import joint_loss, weighted_joint_terms
from adn_jax.pipeline.adn import apply_adn, realign_labels
from adn_jax.pipeline.align import align_volume, find_view
from adn_jax.pipeline.targets import make_targets
from adn_jax.training.runs import adn_params
from adn_jax.training.steps import Metrics
from adn_jax.types import AdnOutputs, Batch, Key, Params, Targets, Volume


def loss_of_joint(
    recipe: Recipe,
    params: Params,
    frozen: Any,
    batch: Batch,
    key: Key,
    step: Integer[Array, ""],
) -> tuple[Float[Array, ""], Metrics]:
    """L_F + lambda L_D of D and F (equation 6), with the training Dice beside it."""
    outputs, targets = _learn_from(recipe, params, frozen, batch, key)
    settings, spacing = recipe.joint_loss, recipe.system.prepare.spacing_mm
    with jax.named_scope("loss"):
        total, values = joint_loss(outputs, targets, settings, step, spacing)
        dice = hard_dice(outputs.prediction, targets.lesion, recipe.threshold)
        return total, {**values, "dice": dice.mean()}


def terms_of_joint(
    recipe: Recipe,
    params: Params,
    frozen: Any,
    batch: Batch,
    key: Key,
    step: Integer[Array, ""],
) -> Metrics:
    """The weighted terms whose sum is `loss_of_joint`."""
    outputs, targets = _learn_from(recipe, params, frozen, batch, key)
    settings, spacing = recipe.joint_loss, recipe.system.prepare.spacing_mm
    return weighted_joint_terms(outputs, targets, settings, step, spacing)


def _learn_from(
    recipe: Recipe, params: Params, frozen: Any, batch: Batch, key: Key
) -> tuple[AdnOutputs, Targets]:
    """The chain on an augmented batch, and what its outputs should be."""
    augment_key, dropout_key = jax.random.split(key)
    batch = training_batch(augment_key, batch, recipe.joint, recipe)
    adn = adn_params(frozen.get("align"), params)
    outputs = apply_adn(adn, batch.volume, recipe.system, key=dropout_key)
    return outputs, make_targets(outputs, batch, recipe, frozen.get("tissue"))


def evaluate_joint(
    recipe: Recipe, params: Params, frozen: Any, batch: Batch
) -> Mapping[str, Float[Array, " b"]]:
    """Dice of each case on the prepared grid."""
    adn = adn_params(frozen.get("align"), params)
    outputs = apply_adn(adn, batch.volume, recipe.system)
    return {"dice": hard_dice(outputs.prediction, batch.lesion, recipe.threshold)}


def hard_dice(
    prediction: Volume, lesion: Volume, threshold: float
) -> Float[Array, " b"]:
    """2 |O and G| / (|O| + |G|) of each case; 1 where both are empty."""
    axes = (1, 2, 3, 4)
    found = (prediction >= threshold).astype(jnp.float32)
    label = (lesion >= 0.5).astype(jnp.float32)
    both = (found * label).sum(axes)
    sizes = found.sum(axes) + label.sum(axes)
    return jnp.where(sizes > 0, 2 * both / jnp.maximum(sizes, 1.0), 1.0)


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
        volume=replicate_rows(batch.volume),
        lesion=replicate_rows(batch.lesion),
        tissue=replicate_rows(batch.tissue),
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
