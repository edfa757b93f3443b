"""Augmentation on the device: mirror, motion in plane, and intensity.

The draw of a case depends on the key and the case alone, so neither the batch around
it nor the number of devices can change it.
"""

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer, Num

from adn_jax.config import AugmentSettings
from adn_jax.geometry.rigid import (
    HalfExtents,
    Pose,
    half_extents_mm,
)
from adn_jax.geometry.sampler import mirror, sample
from adn_jax.synthesis.draw import DARKEST
from adn_jax.types import Batch, Key, Volume


class Variation(NamedTuple):
    """How one case, or each of a batch, is varied."""

    gamma: Float[Array, "*b"]
    flip: Bool[Array, "*b"]
    motion: Pose
    """Rotation and shift in plane."""
    zoom: Float[Array, "*b"]
    brightness: Float[Array, "*b"]
    noise: Float[Array, "*b"]
    """Deviation of the noise."""
    noise_key: Key


def augment(
    key: Key,
    batch: Batch,
    settings: AugmentSettings,
    spacing_mm: tuple[float, float, float],
) -> Batch:
    """Vary every case of a batch; lesion and tissue move along, nearest neighbour.

    What is known of drawn heads moves along, too, the pose by rigid motions alone.

    Args:
        key: randomness of this step; the case's index is folded in.
        batch: prepared cases.
        settings: ranges; whatever is 0 is left out.
        spacing_mm: voxel size (z y x); the rotation is a true one in mm.

    Returns:
        The varied batch, the volume still in [0, 1] and 0 outside the brain.
    """
    drawn = draw_all(key, batch.case, settings)
    if settings.mirror:
        batch = _mirror_some(batch, drawn.flip)
    if settings.rotation_deg > 0 or settings.translation > 0 or settings.zoom > 0:
        batch = _move_cases(batch, drawn, spacing_mm)
    return replace(batch, volume=_recolour(batch.volume, drawn, settings))


def draw_all(
    key: Key, case: Integer[Array, " b"], settings: AugmentSettings
) -> Variation:
    """The variation of every case."""
    keys = jax.vmap(lambda index: jax.random.fold_in(key, index))(case)
    return jax.vmap(lambda key: draw(key, settings))(keys)


def draw(key: Key, settings: AugmentSettings) -> Variation:
    """The variation of one case."""
    gamma_key, flip_key, turn_key, shift_key, *further = jax.random.split(key, 8)
    zoom_key, brightness_key, level_key, noise_key = further

    def around_zero(key: Key, width: float) -> Float[Array, ""]:
        return width * jax.random.uniform(key, (), minval=-1.0)

    limit = jnp.deg2rad(jnp.float32(settings.rotation_deg))
    turn = limit * jax.random.uniform(turn_key, (), minval=-1.0)
    shift = settings.translation * jax.random.uniform(shift_key, (2,), minval=-1.0)
    return Variation(
        gamma=1 + around_zero(gamma_key, settings.gamma),
        flip=jax.random.bernoulli(flip_key),
        motion=Pose.in_plane(turn, shift[0], shift[1]),
        zoom=1 + around_zero(zoom_key, settings.zoom),
        brightness=around_zero(brightness_key, settings.brightness),
        noise=settings.noise * jax.random.uniform(level_key, ()),
        noise_key=noise_key,
    )


def _recolour(volume: Volume, drawn: Variation, settings: AugmentSettings) -> Volume:
    """Exponent, brightness and noise of every case, in the brain alone."""
    wide = (slice(None), None, None, None, None)
    if settings.gamma > 0:
        volume = volume ** drawn.gamma[wide]
    if settings.brightness == settings.noise == 0:
        return volume
    added = drawn.brightness[wide]
    if settings.noise > 0:
        noise = jax.vmap(lambda key: jax.random.normal(key, volume.shape[1:]))
        added = added + drawn.noise[wide] * noise(drawn.noise_key)
    return jnp.where(volume > 0, jnp.clip(volume + added, DARKEST, 1.0), volume)


def _mirror_some(batch: Batch, flips: Bool[Array, " b"]) -> Batch:
    """Swap left and right of the cases with `flips`."""
    chosen = flips[:, None, None, None, None]

    def flip(maps: Num[Array, "b z y x c"]) -> Num[Array, "b z y x c"]:
        return jnp.where(chosen, mirror(maps), maps)

    truth = batch.truth
    if truth is not None:
        pose = _mirror_some_poses(truth.pose, flips)
        truth = replace(
            truth,
            pathological=flip(truth.pathological),
            tissue=flip(truth.tissue),
            pose=pose,
        )
    return Batch(
        volume=flip(batch.volume),
        lesion=flip(batch.lesion),
        tissue=flip(batch.tissue[..., None])[..., 0],
        case=batch.case,
        truth=truth,
    )


def _mirror_some_poses(pose: Pose, flips: Bool[Array, " b"]) -> Pose:
    """The poses of heads of which those with `flips` are mirrored."""
    chosen = partial(jnp.where, flips[:, None])
    return jax.tree.map(chosen, pose.mirrored(), pose)


def _move_cases(
    batch: Batch, drawn: Variation, spacing_mm: tuple[float, float, float]
) -> Batch:
    """Rotate about z, shift and zoom in plane, about the centre of the volume."""
    _, z, y, x, _ = batch.volume.shape
    extents = half_extents_mm((z, y, x), spacing_mm)
    matrix, _ = drawn.motion.matrices(extents)
    matrix = matrix.at[:, :2, :2].divide(drawn.zoom[:, None, None])
    labels = jnp.concatenate(
        [batch.lesion, batch.tissue[..., None].astype(jnp.float32)], axis=-1
    )
    labels = sample(labels, matrix, nearest=True, in_plane=True)
    truth = batch.truth
    if truth is not None:
        truth = replace(
            truth,
            pathological=sample(truth.pathological, matrix, in_plane=True),
            tissue=sample(truth.tissue, matrix, in_plane=True),
            pose=drawn.motion.inverse(extents).then(truth.pose, extents),
        )
    return Batch(
        volume=jnp.clip(sample(batch.volume, matrix, in_plane=True), 0.0, 1.0),
        lesion=labels[..., :1],
        tissue=labels[..., 1].astype(batch.tissue.dtype),
        case=batch.case,
        truth=truth,
    )


def augmented_pose(
    key: Key,
    pose: Pose,
    case: Integer[Array, " b"],
    settings: AugmentSettings,
    extents_mm: HalfExtents,
) -> Pose:
    """Pose of each augmented head, given the pose of the head before `augment`.

    With the mirror F and the motion A of the same key, M becomes A^-1 F M F.
    Only for poses that turn about z and shift along x and y.
    """
    drawn = draw_all(key, case, settings)
    if settings.mirror:
        pose = _mirror_some_poses(pose, drawn.flip)
    return drawn.motion.inverse(extents_mm).then(pose, extents_mm)
