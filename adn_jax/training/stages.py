"""The three stages of training, each from a batch to its loss and its validation score.

Stage align trains T, stage tissue the tissue net on aligned heads, stage joint D and F
together with T fixed, or F alone in a system without D.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from adn_jax.config import Recipe, StageSettings
from adn_jax.data.augment import augment, augmented_pose
from adn_jax.distributed.mesh import replicate_rows
from adn_jax.geometry.rigid import half_extents_mm
from adn_jax.geometry.sampler import mirror
from adn_jax.losses.recipes import (
    align_loss,
    joint_loss,
    segmentation_loss,
    segmentation_terms,
    weighted_joint_terms,
)
from adn_jax.losses.segmentation import tissue_cross_entropy
from adn_jax.metrics.overlap import voxel_ml
from adn_jax.models import apply_unet, network, probability_of
from adn_jax.models.patches import Patch, cut, draw_starts
from adn_jax.pipeline.adn import (
    AdnOutputs,
    Targets,
    apply_adn,
    learnt_label,
    make_targets,
    segment_input,
)
from adn_jax.pipeline.align import Alignment, estimate_alignment, first_pose
from adn_jax.training.runs import adn_params
from adn_jax.training.steps import (
    STATISTICS,
    LossAux,
    LossFunction,
    Metrics,
    Scalar,
    Step,
    WeightedTerms,
)
from adn_jax.types import Batch, Key, Params, Volume

CaseValues = Mapping[str, Float[Array, " b"]]
"""Named values of each case; NaN where it says nothing."""


@dataclass(frozen=True)
class Stage:
    """What the loop needs to know of a stage.

    The frozen argument of its functions is a dict: the weights of finished stages by
    their names, and for the align stage "search", the answers of the coarse search.
    """

    name: str
    settings: StageSettings
    loss: LossFunction
    evaluate: Callable[[Params, Any, Batch], CaseValues]
    """(params, frozen, batch) -> values of each case."""
    score: str
    """The value of `evaluate` that chooses the best weights."""
    may_lack: frozenset[str] = frozenset({"unmarked"})
    """Values of `evaluate` that no case needs to have."""
    terms: WeightedTerms | None = None
    """The weighted terms of `loss`, whose gradients can be measured each for itself."""


def make_stage(name: str, recipe: Recipe) -> Stage:
    """The stage `name` of a recipe."""
    in_patches = network(recipe.system.segment_net).sees_patches
    terms = None
    if name == "align":
        loss, evaluate, score = _align_loss, _evaluate_align, "unmatched"
    elif name == "tissue":
        loss, evaluate, score = _tissue_loss, _evaluate_tissue, "accuracy"
    else:
        loss = _patch_loss if in_patches else loss_of_joint
        evaluate = _evaluate_joint
        score = "score" if recipe.score_healthy else "dice"
        terms = partial(_patch_terms if in_patches else _terms_of_joint, recipe)
    settings = getattr(recipe, name)
    evaluate = partial(evaluate, recipe)
    return Stage(name, settings, partial(loss, recipe), evaluate, score, terms=terms)


def training_batch(
    key: Key, batch: Batch, settings: StageSettings, recipe: Recipe
) -> Batch:
    """The augmented batch, its label partial or cut at one half.

    Each case is whole on its devices: T may turn any row away.
    """
    batch = replace(batch, lesion=learnt_label(batch.lesion, recipe))
    with jax.named_scope("augment"):
        spacing_mm = recipe.system.prepare.spacing_mm
        batch = augment(key, batch, settings.augment, spacing_mm)
    return replace(
        batch,
        volume=replicate_rows(batch.volume),
        lesion=replicate_rows(batch.lesion),
        tissue=replicate_rows(batch.tissue),
    )


def _align_batch(recipe: Recipe, frozen: Any, batch: Batch) -> Batch:
    """X and the labels on its grid: what the tissue net sees in the joint stage."""
    alignment = estimate_alignment(frozen.get("align"), batch.volume, recipe.system)
    return Batch(
        volume=alignment.warp(batch.volume),
        lesion=alignment.warp_labels(batch.lesion),
        tissue=alignment.warp_labels(batch.tissue[..., None])[..., 0],
        case=batch.case,
    )


# Stage align: T


def needs_search(recipe: Recipe) -> bool:
    """Whether T's loss compares with the answer of the coarse search."""
    loss = recipe.align_loss
    return loss.pose_regression > 0 or loss.warm_start_steps > 0


def _align_loss(
    recipe: Recipe, params: Params, frozen: Any, batch: Batch, key: Key, step: Step
) -> tuple[Scalar, Metrics]:
    """L_T; if the recipe asks for it, the pose is also led to the search's answer.

    The search has looked at each head once; its answer follows the augmentation. Of
    drawn heads the true pose is known instead.
    """
    prepare = recipe.system.prepare
    varied = training_batch(key, batch, recipe.align, recipe)
    volume = varied.volume
    with jax.named_scope("align"):
        pose = first_pose(params, volume, recipe.system)
        alignment = Alignment.of(pose, recipe.system)
        aligned = alignment.warp(volume)
    mirrored = mirror(aligned)
    search_pose = pose
    if varied.truth is not None:
        search_pose = varied.truth.pose
    elif needs_search(recipe):
        search_pose = augmented_pose(
            key,
            frozen["search"][batch.case],
            batch.case,
            recipe.align.augment,
            half_extents_mm(prepare.shape, prepare.spacing_mm),
        )
    reconstruction = alignment.unwarp(mirrored)
    with jax.named_scope("loss"):
        return align_loss(
            aligned=aligned,
            mirrored=mirrored,
            volume=volume,
            reconstruction=reconstruction,
            pose=pose,
            search_pose=jax.lax.stop_gradient(search_pose),
            settings=recipe.align_loss,
            step=step,
        )


def _evaluate_align(
    recipe: Recipe,
    params: Params,
    frozen: Any,  # noqa: ARG001
    batch: Batch,
) -> CaseValues:
    """How well T alone aligns each head."""
    pose = first_pose(params, batch.volume, recipe.system)
    aligned = Alignment.of(pose, recipe.system).warp(batch.volume)
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


# Stage tissue: grey matter, white matter and CSF of an aligned head


def _tissue_loss(
    recipe: Recipe,
    params: Params,
    frozen: Any,
    batch: Batch,
    key: Key,
    step: Step,  # noqa: ARG001
) -> tuple[Scalar, Metrics]:
    """Cross-entropy of the tissue net against the maps, lesion voxels left out."""
    augment_key, dropout_key = jax.random.split(key)
    batch = training_batch(augment_key, batch, recipe.tissue, recipe)
    batch = _align_batch(recipe, frozen, batch)
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
) -> CaseValues:
    """Share of each head's tissue voxels that the tissue net gets right."""
    batch = _align_batch(recipe, frozen, batch)
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


# Stage joint: D and F, or F alone


def loss_of_joint(
    recipe: Recipe, params: Params, frozen: Any, batch: Batch, key: Key, step: Step
) -> tuple[Scalar, Metrics]:
    """L_F + lambda L_D of D and F (equation 6), with the training Dice beside it."""
    outputs, targets = _run_joint(recipe, params, frozen, batch, key)
    settings, spacing = recipe.joint_loss, recipe.system.prepare.spacing_mm
    with jax.named_scope("loss"):
        total, values = joint_loss(outputs, targets, settings, step, spacing)
        dice = hard_dice(outputs.prediction, targets.lesion, recipe.threshold)
        return total, {**values, "dice": dice.mean()}


def _terms_of_joint(
    recipe: Recipe, params: Params, frozen: Any, batch: Batch, key: Key, step: Step
) -> Metrics:
    """The weighted terms whose sum is `loss_of_joint`."""
    outputs, targets = _run_joint(recipe, params, frozen, batch, key)
    settings, spacing = recipe.joint_loss, recipe.system.prepare.spacing_mm
    return weighted_joint_terms(outputs, targets, settings, step, spacing)


def _run_joint(
    recipe: Recipe, params: Params, frozen: Any, batch: Batch, key: Key
) -> tuple[AdnOutputs, Targets]:
    """The chain on an augmented batch, and what its outputs should be."""
    augment_key, dropout_key = jax.random.split(key)
    batch = training_batch(augment_key, batch, recipe.joint, recipe)
    adn = adn_params(frozen.get("align"), params)
    outputs = apply_adn(adn, batch.volume, recipe.system, key=dropout_key)
    return outputs, make_targets(outputs, batch, recipe, frozen.get("tissue"))


def _evaluate_joint(
    recipe: Recipe, params: Params, frozen: Any, batch: Batch
) -> CaseValues:
    """Dice of each case on the prepared grid, NaN without an infarct there: one too
    thin for a voxel, or cut off where a head was drawn.

    With `score_healthy` also whether healthy ones are left unmarked, NaN for the
    others, and as the score the one or the other. What is too thin for a voxel makes
    no case healthy: it has neither.
    """
    adn = adn_params(frozen.get("align"), params)
    prediction = apply_adn(adn, batch.volume, recipe.system).prediction
    dice = hard_dice(prediction, batch.lesion, recipe.threshold)
    has_infarct = (batch.lesion >= 0.5).any((1, 2, 3, 4))
    values = {"dice": jnp.where(has_infarct, dice, jnp.nan)}
    if not recipe.score_healthy:
        return values
    healthy = (batch.lesion == 0).all((1, 2, 3, 4))
    unmarked = jnp.where(healthy, is_unmarked(prediction, recipe), jnp.nan)
    score = jnp.where(has_infarct, dice, unmarked)
    return {**values, "unmarked": unmarked, "score": score}


def is_unmarked(prediction: Volume, recipe: Recipe) -> Bool[Array, " b"]:
    """Whether nothing of a case is called infarct, or less than counts as a lesion."""
    marked = (prediction >= recipe.threshold).sum((1, 2, 3, 4))
    marked_ml = marked * voxel_ml(recipe.system.prepare.spacing_mm)
    return (marked == 0) | (marked_ml < recipe.least_lesion_ml)


def hard_dice(
    prediction: Volume, lesion: Volume, threshold: float
) -> Float[Array, " b"]:
    """2 |O and G| / (|O| + |G|) of each case; 1 if both are empty."""
    axes = (1, 2, 3, 4)
    found = (prediction >= threshold).astype(jnp.float32)
    label = (lesion >= 0.5).astype(jnp.float32)
    both = (found * label).sum(axes)
    sizes = found.sum(axes) + label.sum(axes)
    return jnp.where(sizes > 0, 2 * both / jnp.maximum(sizes, 1.0), 1.0)


# Stage joint with an F that sees patches of a head (DeepMedic, SEAN)


def _patch_loss(
    recipe: Recipe, params: Params, frozen: Any, batch: Batch, key: Key, step: Step
) -> tuple[Scalar, LossAux]:
    """L_F of patches, with their Dice and the next running statistics of F."""
    prediction, labels, statistics = _run_patches(recipe, params, frozen, batch, key)
    settings, spacing = recipe.joint_loss, recipe.system.prepare.spacing_mm
    with jax.named_scope("loss"):
        total, values = segmentation_loss(prediction, labels, settings, step, spacing)
        dice = hard_dice(prediction, labels, recipe.threshold).mean()
        moved = {"segment": {STATISTICS: statistics}}
        return total, {**values, "dice": dice, STATISTICS: moved}


def _patch_terms(
    recipe: Recipe, params: Params, frozen: Any, batch: Batch, key: Key, step: Step
) -> Metrics:
    """The weighted terms whose sum is the loss of patches."""
    prediction, labels, _ = _run_patches(recipe, params, frozen, batch, key)
    settings, spacing = recipe.joint_loss, recipe.system.prepare.spacing_mm
    terms = segmentation_terms(prediction, labels, settings, step, spacing)
    return terms.weighted()


def _run_patches(
    recipe: Recipe, params: Params, frozen: Any, batch: Batch, key: Key
) -> tuple[Volume, Volume, Params]:
    """F on patches of an augmented batch, some of them on lesion: its probability, the
    label there, and its next running statistics."""
    augment_key, draw_key, dropout_key = jax.random.split(key, 3)
    batch = training_batch(augment_key, batch, recipe.joint, recipe)
    batch = _align_batch(recipe, frozen, batch)
    form = network(recipe.system.segment_net).patches(recipe.system.aligned_shape)
    keys = jax.vmap(partial(jax.random.fold_in, draw_key))(batch.case)
    starts = draw_starts(
        keys,
        batch.lesion,
        batch.volume > 0,
        form.training,
        form.settings.samples,
        form.settings.lesion_fraction,
    )
    seen = segment_input(batch.volume, mirror(batch.volume), None, recipe.system)
    patches = cut(seen, starts, form.training)
    labels = cut(batch.lesion, starts, Patch(form.training.inner, (0, 0, 0)))
    with jax.named_scope("segment"):
        logits, statistics = form.apply(
            params["segment"],
            patches.reshape(-1, *patches.shape[2:]),
            form.settings,
            key=dropout_key,
            precision=recipe.system.precision,
        )
    return probability_of(logits), labels.reshape(logits.shape), statistics
