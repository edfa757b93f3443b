"""The stages of training as the loop sees them; stages align and tissue themselves."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from adn_jax.config import Recipe, StageSettings, UNetSettings
from adn_jax.data.augment import augmented_view
from adn_jax.geometry.rigid import half_extents_mm
from adn_jax.geometry.sampler import mirror
from adn_jax.losses.recipes import align_loss
from adn_jax.losses.segmentation import tissue_cross_entropy
from adn_jax.models import apply_unet
from adn_jax.pipeline.adn import unalign
from adn_jax.pipeline.align import align_volume, first_view
from adn_jax.training.joint import (
    align_batch,
    augment_whole,
    evaluate_joint,
    loss_of_joint,
    terms_of_joint,
    training_batch,
)
from adn_jax.training.patches import loss_of_windows, terms_of_windows
from adn_jax.training.steps import Loss, Metrics
from adn_jax.training.term_gradients import WeightedTerms
from adn_jax.types import Batch, Key, Params, Volume

Evaluate = Callable[[Params, Any, Batch], Mapping[str, Float[Array, " b"]]]
"""(params, frozen, batch) -> named values of each case."""


@dataclass(frozen=True)
class Stage:
    """What the loop needs to know of a stage.

    The frozen argument of `loss` and `evaluate` is a dict: the weights of finished
    stages by their names, and what `align_frozen` adds.
    """

    name: str
    settings: StageSettings
    loss: Loss
    evaluate: Evaluate
    score: str
    """The value of `evaluate` that chooses the best weights."""
    terms: WeightedTerms | None = None
    """The weighted terms of `loss`, whose gradients can be measured each for itself."""


def make_stage(name: str, recipe: Recipe) -> Stage:
    """The stage `name` of a recipe."""
    sees_all = isinstance(recipe.system.segment_net, UNetSettings)
    losses = {
        "align": loss_of_align,
        "tissue": _loss_of_tissue,
        "joint": loss_of_joint if sees_all else loss_of_windows,
    }
    terms = {"joint": terms_of_joint if sees_all else terms_of_windows}
    evaluations = {
        "align": ("unmatched", _evaluate_align),
        "tissue": ("accuracy", _evaluate_tissue),
        "joint": ("dice", evaluate_joint),
    }
    score, evaluate = evaluations[name]
    return Stage(
        name=name,
        settings=getattr(recipe, name),
        loss=partial(losses[name], recipe),
        evaluate=partial(evaluate, recipe),
        score=score,
        terms=partial(terms[name], recipe) if name in terms else None,
    )


def loss_of_align(
    recipe: Recipe,
    params: Params,
    frozen: Any,
    batch: Batch,
    key: Key,
    step: Integer[Array, ""],
) -> tuple[Float[Array, ""], Metrics]:
    """L_T; where the recipe asks for it, the view is also led to the search's answer.

    The search has looked at each head once; its answer follows the augmentation.
    """
    spacing, augmentation = recipe.system.prepare.spacing_mm, recipe.align.augment
    volume = augment_whole(key, batch, augmentation, recipe).volume
    with jax.named_scope("align"):
        view = first_view(params, volume, recipe.system)
        aligned, _, inverse = align_volume(volume, view, recipe.system)
    mirrored = mirror(aligned)
    search_view = view
    if needs_search(recipe):
        search_view = augmented_view(
            key,
            frozen["search"][batch.case],
            batch.case,
            augmentation,
            half_extents_mm(recipe.system.prepare.shape, spacing),
        )
    reconstruction = unalign(mirrored, inverse, recipe.system)
    with jax.named_scope("loss"):
        return align_loss(
            aligned=aligned,
            mirrored=mirrored,
            volume=volume,
            reconstruction=reconstruction,
            view=view,
            search_view=jax.lax.stop_gradient(search_view),
            settings=recipe.align_loss,
            step=step,
        )


def needs_search(recipe: Recipe) -> bool:
    """Whether T's loss compares with the answer of the coarse search."""
    loss = recipe.align_loss
    return loss.pose_regression > 0 or loss.warm_start_steps > 0


def _evaluate_align(
    recipe: Recipe,
    params: Params,
    frozen: Any,  # noqa: ARG001
    batch: Batch,
) -> Mapping[str, Float[Array, " b"]]:
    """How well T alone aligns each head."""
    view = first_view(params, batch.volume, recipe.system)
    aligned, _, _ = align_volume(batch.volume, view, recipe.system)
    return {"unmatched": unmatched_share(batch.volume, aligned)}


def unmatched_share(volume: Volume, aligned: Volume) -> Float[Array, " b"]:
    """Share of each head's intensity without an equal partner on the other side.

    (sum |X - X'| / 2 + what of I is out of view) / sum I: 0 is a symmetric head, and
    unlike mean |X - X'| it does not fall when the head is pushed out of view.
    """
    axes = (1, 2, 3, 4)
    total = volume.sum(axes)
    unequal = jnp.abs(aligned - mirror(aligned)).sum(axes) / 2
    out_of_view = jnp.maximum(total - aligned.sum(axes), 0.0)
    return (unequal + out_of_view) / jnp.maximum(total, 1e-6)


def _loss_of_tissue(
    recipe: Recipe,
    params: Params,
    frozen: Any,
    batch: Batch,
    key: Key,
    step: Integer[Array, ""],  # noqa: ARG001
) -> tuple[Float[Array, ""], Metrics]:
    """Cross-entropy of the tissue net against the maps, lesion voxels left out."""
    augment_key, dropout_key = jax.random.split(key)
    batch = training_batch(augment_key, batch, recipe.tissue, recipe)
    batch = align_batch(recipe, frozen, batch)
    with jax.named_scope("tissue"):
        logits = apply_unet(
            params,
            batch.volume,
            recipe.tissue_net,
            key=dropout_key,
            precision=recipe.system.precision,
            remat=recipe.system.remat,
        )
    with jax.named_scope("loss"):
        total = tissue_cross_entropy(logits, batch.tissue, 1 - batch.lesion[..., 0])
        return total, {"accuracy": tissue_accuracy(logits, batch).mean()}


def _evaluate_tissue(
    recipe: Recipe, params: Params, frozen: Any, batch: Batch
) -> Mapping[str, Float[Array, " b"]]:
    """Share of each head's tissue voxels that the tissue net gets right."""
    batch = align_batch(recipe, frozen, batch)
    logits = apply_unet(
        params, batch.volume, recipe.tissue_net, precision=recipe.system.precision
    )
    return {"accuracy": tissue_accuracy(logits, batch)}


def tissue_accuracy(logits: Volume, batch: Batch) -> Float[Array, " b"]:
    """Share of right voxels among those of grey matter, white matter and CSF."""
    axes = (1, 2, 3)
    inside = batch.tissue > 0
    right = (jnp.argmax(logits, axis=-1) == batch.tissue) & inside
    return right.sum(axes) / jnp.maximum(inside.sum(axes), 1)
