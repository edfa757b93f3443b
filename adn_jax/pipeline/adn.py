"""The whole chain, T to O: the one composition that every other part uses."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from adn_jax.config import SegmentNetSettings, SystemSettings, UNetSettings
from adn_jax.distributed.mesh import ring_reduce
from adn_jax.geometry.sampler import Rows, mirror, sample
from adn_jax.models import (
    apply_network,
    apply_unet_levels,
    init_alignment_net,
    init_network,
)
from adn_jax.pipeline.align import align_volume, aligns, find_view, is_in_plane
from adn_jax.pipeline.asymmetry import (
    anatomical_asymmetry,
    compensated_volume,
    salient_volume,
    total_asymmetry,
    within_both_sides,
)
from adn_jax.types import AdnOutputs, AdnParams, Index, Key, Matrix, Params, Volume


def init_adn(key: Key, system: SystemSettings) -> AdnParams:
    """Fresh parameters of T and D (None where the system does not use them), and F."""
    view_key, disentangle_key, segment_key = jax.random.split(key, 3)
    view = None
    if system.alignment.network:
        view = init_alignment_net(view_key, system.alignment_net, system.prepare.shape)
    disentangle = None
    if system.disentangles:
        disentangle = init_network(
            disentangle_key, system.disentangle_net, system.disentangle_channels
        )
    return AdnParams(
        view=view,
        disentangle=disentangle,
        segment=init_network(segment_key, system.segment_net, system.segment_channels),
    )


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
    """
    disentangle_key, segment_key = (
        (None, None) if key is None else jax.random.split(key)
    )
    with jax.named_scope("align"):
        view = find_view(params.view, volume, system)
        aligned, matrix, inverse = align_volume(volume, view, system)
    mirrored = mirror(aligned)
    asymmetry = total_asymmetry(aligned, mirrored)
    if rim := system.asymmetry.rim_voxels(system.prepare.spacing_mm):
        asymmetry = asymmetry * within_both_sides(aligned, mirrored, rim)
    pathological = anatomical = salient = compensated = None
    if system.disentangles:
        with jax.named_scope("disentangle"):
            pathological = _voxel_probability(
                params.disentangle,
                disentangle_input(aligned, mirrored, system),
                system.disentangle_net,
                disentangle_key,
                system,
            )
        anatomical = anatomical_asymmetry(asymmetry, pathological, system.asymmetry)
        salient = salient_volume(aligned, anatomical)
        compensated = compensated_volume(
            aligned, mirrored, pathological, system.asymmetry
        )
    with jax.named_scope("segment"):
        seen = segment_input(aligned, mirrored, salient, system)
        auxiliary_predictions = ()
        if _supervises_deeply(system) and segment_key is not None:
            aligned_prediction, *sides = _level_probabilities(
                params.segment, seen, segment_key, system
            )
            auxiliary_predictions = tuple(sides)
        else:
            aligned_prediction = _voxel_probability(
                params.segment, seen, system.segment_net, segment_key, system
            )
    return AdnOutputs(
        view=view,
        matrix=matrix,
        inverse=inverse,
        aligned=aligned,
        mirrored=mirrored,
        asymmetry=asymmetry,
        pathological=pathological,
        anatomical=anatomical,
        salient=salient,
        compensated=compensated,
        aligned_prediction=aligned_prediction,
        prediction=unalign(aligned_prediction, inverse, system),
        auxiliary_predictions=auxiliary_predictions,
    )


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


def _voxel_probability(
    params: Params,
    volume: Float[Array, "b z y x channels"],
    settings: SegmentNetSettings,
    key: Key | None,
    system: SystemSettings,
) -> Volume:
    """Sigmoid of a network's logits: P of D, Y of F."""
    logits = apply_network(
        params,
        volume,
        settings,
        key=key,
        precision=system.precision,
        remat=system.remat,
    )
    return jax.nn.sigmoid(logits)


def _supervises_deeply(system: SystemSettings) -> bool:
    """Whether levels of F below the last are compared with the label in training."""
    net = system.segment_net
    return isinstance(net, UNetSettings) and net.deep_supervision > 0


def _level_probabilities(
    params: Params,
    volume: Float[Array, "b z y x channels"],
    key: Key,
    system: SystemSettings,
) -> tuple[Volume, ...]:
    """Y of F, then the same from the levels below, each voxel repeated to full size."""
    levels = apply_unet_levels(
        params,
        volume,
        system.segment_net,
        key=key,
        precision=system.precision,
        remat=system.remat,
    )
    shape = volume.shape[1:4]
    return tuple(repeat_to(jax.nn.sigmoid(logits), shape) for logits in levels)


def repeat_to(
    volume: Volume, shape_zyx: tuple[int, ...]
) -> Float[Array, "b z2 y2 x2 c"]:
    """A map on a finer grid, each of whose sizes is a multiple (nearest neighbour)."""
    for axis, size in enumerate(shape_zyx, 1):
        times = size // volume.shape[axis]
        volume = jnp.repeat(volume, times, axis) if times > 1 else volume
    return volume


def unalign(volume: Volume, inverse: Matrix, system: SystemSettings) -> Volume:
    """Take a map from X's grid back to I's: sample(map, M^-1)."""
    if not aligns(system):
        return volume
    size, in_plane = volume.shape[2], is_in_plane(system)

    def contribution(
        block: Volume, matrix: Matrix, source: Index, target: Index
    ) -> Volume:
        rows = Rows(size, source, target)
        return sample(block, matrix, in_plane=in_plane, rows=rows)

    with jax.named_scope("align"):
        return ring_reduce(contribution)(volume, inverse)


def realign_labels(
    labels: Num[Array, "b z y x c"], matrix: Matrix, system: SystemSettings
) -> Num[Array, "b z y x c"]:
    """T(G): labels on X's grid, nearest neighbours."""
    if not aligns(system):
        return labels
    with jax.named_scope("align"):
        moved = sample(labels, matrix, nearest=True, in_plane=is_in_plane(system))
    return jax.lax.stop_gradient(moved)
