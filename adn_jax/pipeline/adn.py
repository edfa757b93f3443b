"""The whole chain, T to O: the one composition that every other part uses."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from adn_jax.config import (
    AsymmetrySettings,
    Recipe,
    SegmentNetSettings,
    SystemSettings,
)
from adn_jax.distributed.mesh import replicate_rows
from adn_jax.errors import UserError
from adn_jax.geometry.sampler import mirror
from adn_jax.models import (
    apply_unet,
    init_alignment_net,
    network,
    probability_of,
)
from adn_jax.pipeline.align import Alignment, estimate_alignment
from adn_jax.types import (
    Batch,
    Key,
    MovedVolume,
    Params,
    Volume,
    register_arrays,
)

TISSUE_VALUES = (1, 2, 3)
"""Label values of grey matter, white matter and CSF."""


@register_arrays
@dataclass(frozen=True)
class AdnParams:
    """Parameters of T (None: alignment by search), D (None: a system without it), F."""

    align: Params
    disentangle: Params
    segment: Params


@register_arrays
@dataclass(frozen=True)
class AdnOutputs:
    """All that the chain computes for a batch of volumes I (letters: `adn_jax.types`).

    What D makes is None in a system without it. `pathological_probability` is D's
    output, of which P is made. `auxiliary_predictions` are Y as the decoder levels
    below the last give it (deep supervision), the finest first, each voxel repeated to
    X's grid; there are none in inference.
    """

    alignment: Alignment
    aligned: Volume
    mirrored: Volume
    asymmetry: Volume
    pathological_probability: Volume | None
    pathological: Volume | None
    anatomical: Volume | None
    salient: Volume | None
    compensated: Volume | None
    aligned_prediction: Volume
    prediction: MovedVolume
    auxiliary_predictions: tuple[Volume, ...] = ()


@register_arrays
@dataclass(frozen=True)
class Targets:
    """What the loss terms compare with: G on I's grid and on X's, tissue on X's.

    `tissue` holds grey matter, white matter and CSF as 0 or 1 in its three channels;
    the terms that want normal tissue only leave the lesion's voxels out themselves.
    """

    lesion: Float[Array, "b z y x 1"]
    aligned_lesion: Float[Array, "b z2 y2 x2 1"]
    tissue: Float[Array, "b z2 y2 x2 3"]


def init_adn(key: Key, system: SystemSettings) -> AdnParams:
    """Fresh parameters of T and D (None if the system does not use them), and F."""
    align_key, disentangle_key, segment_key = jax.random.split(key, 3)
    align = disentangle = None
    if system.alignment.network:
        align = init_alignment_net(
            align_key, system.alignment_net, system.prepare.shape
        )
    if system.disentangles:
        disentangle = network(system.disentangle_net).init(
            disentangle_key, system.disentangle_channels
        )
    segment = network(system.segment_net).init(segment_key, system.segment_channels)
    return AdnParams(align=align, disentangle=disentangle, segment=segment)


def apply_adn(
    params: AdnParams, volume: Volume, system: SystemSettings, *, key: Key | None = None
) -> AdnOutputs:
    """Run T, the asymmetry split, D and F on prepared scans (Fig. 2 of the paper).

    Systems without D, the baselines of Table 1, run the same chain: their F sees X.

    Args:
        params: parameters of T, D and F; no gradient reaches T's.
        volume: I, one channel in [0, 1] on the system's prepared grid.
        system: networks, alignment and reading of the equations; static under jit.
        key: randomness of dropout; None leaves out dropout and the side predictions.

    Returns:
        Every intermediate by its name; unused ones cost nothing under jit.

    Raises:
        UserError: the volume has another grid.
    """
    if volume.shape[1:4] != system.prepare.shape:
        raise UserError(
            f"the volume has {volume.shape[1:4]} voxels, the system's prepare.shape is "
            f"{system.prepare.shape}; prepare the scan on that grid, or change it."
        )
    disentangle_key, segment_key = (
        (None, None) if key is None else jax.random.split(key)
    )
    with jax.named_scope("align"):
        alignment = estimate_alignment(params.align, volume, system)
        aligned = alignment.warp(volume)
    mirrored = mirror(aligned)
    asymmetry = total_asymmetry(aligned, mirrored)
    if rim := system.asymmetry.rim_voxels(system.prepare.spacing_mm):
        asymmetry = asymmetry * within_both_sides(aligned, mirrored, rim)
    probability = pathological = anatomical = salient = compensated = None
    if system.disentangles:
        with jax.named_scope("disentangle"):
            probability, *_ = _probabilities(
                params.disentangle,
                disentangle_input(aligned, mirrored, system),
                system.disentangle_net,
                disentangle_key,
                system,
            )
        pathological = pathological_asymmetry(asymmetry, probability, system.asymmetry)
        anatomical = anatomical_asymmetry(asymmetry, pathological, system.asymmetry)
        salient = salient_volume(aligned, anatomical)
        compensated = compensated_volume(
            aligned, mirrored, pathological, system.asymmetry
        )
    with jax.named_scope("segment"):
        seen = segment_input(aligned, mirrored, salient, system)
        aligned_prediction, *sides = _probabilities(
            params.segment, seen, system.segment_net, segment_key, system
        )
    return AdnOutputs(
        alignment=alignment,
        aligned=aligned,
        mirrored=mirrored,
        asymmetry=asymmetry,
        pathological_probability=probability,
        pathological=pathological,
        anatomical=anatomical,
        salient=salient,
        compensated=compensated,
        aligned_prediction=aligned_prediction,
        prediction=alignment.unwarp(aligned_prediction),
        auxiliary_predictions=() if key is None else tuple(sides),
    )


def total_asymmetry(aligned: Volume, mirrored: Volume) -> Volume:
    """A = max(X' - X, 0): how much darker a voxel is than its mirror (equation 2)."""
    return jax.nn.relu(mirrored - aligned)


def within_both_sides(aligned: Volume, mirrored: Volume, rim: int) -> Volume:
    """1 where X and X' are brain, `rim` voxels or more inside it in the slice; else 0.

    The surface of the brain mixes with bone, not alike on both sides, so that A lights
    up along it brighter than most infarcts. Voxels of 0 inside the brain (CSF darker
    than the window) are closed first, as far as they are no wider than two.
    """
    inside = ((aligned > 0) & (mirrored > 0)).astype(aligned.dtype)
    grown = _extremum_in_slice(inside, jax.lax.max, 1)
    return jax.lax.stop_gradient(_extremum_in_slice(grown, jax.lax.min, 1 + rim))


def _extremum_in_slice(volume: Volume, pick: Callable[..., Any], reach: int) -> Volume:
    """The greatest or least value within `reach` voxels along x and y."""
    start = -jnp.inf if pick is jax.lax.max else jnp.inf
    width = 2 * reach + 1
    return jax.lax.reduce_window(
        volume, start, pick, (1, 1, width, width, 1), (1, 1, 1, 1, 1), "SAME"
    )


def pathological_asymmetry(
    asymmetry: Volume, probability: Volume, settings: AsymmetrySettings
) -> Volume:
    """P: D's output itself, or the part of A that it names."""
    return asymmetry * probability if settings.adds_up else probability


def anatomical_asymmetry(
    asymmetry: Volume, pathological: Volume, settings: AsymmetrySettings
) -> Volume:
    """Q = A - P, or its positive part in the authors' code."""
    difference = asymmetry - pathological
    if settings.anatomical == "positive_part":
        return jax.nn.relu(difference)
    return difference


def salient_volume(aligned: Volume, anatomical: Volume) -> Volume:
    """X_hat = X + Q: only pathological asymmetry is left (equation 3)."""
    return aligned + anatomical


def compensated_volume(
    aligned: Volume,
    mirrored: Volume,
    pathological: Volume,
    settings: AsymmetrySettings,
) -> Volume:
    """X_tilde = X + P: only anatomical asymmetry is left.

    The authors' code stops at the brighter of the two sides, max(X, X').
    """
    total = aligned + pathological
    if settings.compensated == "clipped":
        return jnp.minimum(total, jnp.maximum(aligned, mirrored))
    return total


def disentangle_input(
    aligned: Volume, mirrored: Volume, system: SystemSettings
) -> Float[Array, "b z y x channels"]:
    """What D sees: X, alone or beside X' as two channels."""
    if system.disentangle_input == "aligned":
        return aligned
    return jnp.concatenate([aligned, mirrored], axis=-1)


def segment_input(
    aligned: Volume, mirrored: Volume, salient: Volume | None, system: SystemSettings
) -> Float[Array, "b z y x channels"]:
    """What F sees: X_hat or X alone, X and X', or all three, as channels."""
    choices = {"aligned": (aligned,), "mirror_pair": (aligned, mirrored)}
    if salient is not None:
        choices["salient"] = (salient,)
        choices["salient_triple"] = (salient, aligned, mirrored)
    seen = jnp.concatenate(choices[system.segment_input], axis=-1)
    return zscored(seen) if system.zscore_in_brain else seen


def zscored(
    volume: Float[Array, "b z y x channels"],
) -> Float[Array, "b z y x channels"]:
    """Mean 0 and deviation 1 over the brain's voxels (those above 0), 0 outside."""
    axes = (1, 2, 3)
    inside = (volume > 0).astype(volume.dtype)
    count = jnp.maximum(inside.sum(axes, keepdims=True), 1)
    mean = (volume * inside).sum(axes, keepdims=True) / count
    centred = (volume - mean) * inside
    variance = jnp.square(centred).sum(axes, keepdims=True) / count
    return centred * jax.lax.rsqrt(jnp.maximum(variance, 1e-12))


def _probabilities(
    params: Params,
    volume: Float[Array, "b z y x channels"],
    settings: SegmentNetSettings,
    key: Key | None,
    system: SystemSettings,
) -> tuple[Volume, ...]:
    """Sigmoid of a network's logits, P of D or Y of F, then of its lower levels.

    Those are the levels of deep supervision, each voxel repeated to full size.
    """
    levels = network(settings).apply(
        params, volume, key=key, precision=system.precision, remat=system.remat
    )
    shape = volume.shape[1:4]
    return tuple(repeat_to(probability_of(logits), shape) for logits in levels)


def repeat_to(
    volume: Volume, shape_zyx: tuple[int, ...]
) -> Float[Array, "b z2 y2 x2 c"]:
    """A map on a finer grid, each of whose sizes is a multiple (nearest neighbour)."""
    for axis, size in enumerate(shape_zyx, 1):
        times = size // volume.shape[axis]
        volume = jnp.repeat(volume, times, axis) if times > 1 else volume
    return volume


def make_targets(
    outputs: AdnOutputs, batch: Batch, recipe: Recipe, tissue_params: Params = None
) -> Targets:
    """G on both grids and the tissue on X's; the loss terms leave lesion voxels out.

    G is partial or cut at one half, as the recipe has it.
    """
    alignment = outputs.alignment
    # whole on devices that share rows, for T may turn any away
    lesion = replicate_rows(learnt_label(batch.lesion, recipe))
    aligned_lesion = alignment.warp_labels(lesion)
    if recipe.tissue_source == "network":
        with jax.named_scope("tissue"):  # as the frozen tissue net sees it on X
            logits = apply_unet(
                tissue_params,
                jax.lax.stop_gradient(outputs.aligned),
                recipe.tissue_net,
                precision=recipe.system.precision,
            )
            tissue = one_hot_tissue(jnp.argmax(logits, axis=-1))
    elif recipe.tissue_source == "maps":
        moved = alignment.warp_labels(batch.tissue[..., None])
        with jax.named_scope("tissue"):
            tissue = one_hot_tissue(moved[..., 0])
    else:
        tissue = jnp.zeros((*aligned_lesion.shape[:4], len(TISSUE_VALUES)), jnp.float32)
    return Targets(lesion=lesion, aligned_lesion=aligned_lesion, tissue=tissue)


def learnt_label(lesion: Volume, recipe: Recipe) -> Volume:
    """The share of each voxel that is infarct, or whether most of it is."""
    return lesion if recipe.soft_labels else jnp.round(lesion)


def one_hot_tissue(
    labels: Integer[Array, "b z y x"] | Float[Array, "b z y x"],
) -> Float[Array, "b z y x 3"]:
    """Channels grey, white, CSF from labels 1, 2, 3."""
    channels = jnp.stack([labels == tissue for tissue in TISSUE_VALUES], axis=-1)
    return jax.lax.stop_gradient(channels.astype(jnp.float32))
