"""Augmentation on the device: gamma, left-right mirror, in-plane rotation and shift.

The draw of a case depends on the key and the case alone, so neither the batch around
it nor the number of devices can change it.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from adn_jax.config import AugmentSettings
from adn_jax.geometry.mirror import mirror
from adn_jax.geometry.rigid import (
    HalfExtents,
    compose_in_plane,
    half_extents_mm,
    view_to_matrices,
)
from adn_jax.geometry.sampler import sample
from adn_jax.types import Batch, Key, View


def augment(
    key: Key,
    batch: Batch,
    settings: AugmentSettings,
    spacing_mm: tuple[float, float, float],
) -> Batch:
    """Vary every case of a batch; lesion and tissue move along, nearest neighbour.

    Args:
      key: randomness of this step; the case's index is folded in.
      batch: prepared cases.
      settings: ranges; whatever is 0 is left out.
      spacing_mm: voxel size (z y x); the rotation is a true one in mm.

    Returns:
      The varied batch, the volume still in [0, 1] and 0 outside the brain.
    """
    gammas, flips, views = draw_all(key, batch.case, settings)
    if settings.mirror:
        batch = mirror_some(batch, flips)
    if settings.rotation_deg > 0 or settings.translation > 0:
        batch = move(batch, views, spacing_mm)
    if settings.gamma > 0:
        volume = batch.volume ** gammas[:, None, None, None, None]
        batch = Batch(volume, batch.lesion, batch.tissue, batch.case)
    return batch


def draw_all(
    key: Key, case: Integer[Array, " b"], settings: AugmentSettings
) -> tuple[Float[Array, " b"], Bool[Array, " b"], View]:
    """Exponent, whether to mirror, and the motion in plane of every case."""
    keys = jax.vmap(lambda index: jax.random.fold_in(key, index))(case)
    return jax.vmap(lambda key: draw(key, settings))(keys)


def draw(
    key: Key, settings: AugmentSettings
) -> tuple[Float[Array, ""], Bool[Array, ""], Float[Array, " 6"]]:
    """Exponent, whether to mirror, and the motion in plane of one case."""
    gamma_key, flip_key, turn_key, shift_key = jax.random.split(key, 4)
    gamma = 1 + settings.gamma * jax.random.uniform(gamma_key, (), minval=-1.0)
    flip = jax.random.bernoulli(flip_key)
    limit = jnp.deg2rad(jnp.float32(settings.rotation_deg))
    turn = limit * jax.random.uniform(turn_key, (), minval=-1.0)
    shift = settings.translation * jax.random.uniform(shift_key, (2,), minval=-1.0)
    zero = jnp.zeros(())
    return gamma, flip, jnp.stack([zero, zero, turn, shift[0], shift[1], zero])


def mirror_some(batch: Batch, flips: Bool[Array, " b"]) -> Batch:
    """Swap left and right of the cases with `flips`."""
    chosen = flips[:, None, None, None, None]
    tissue = batch.tissue[..., None]
    return Batch(
        volume=jnp.where(chosen, mirror(batch.volume), batch.volume),
        lesion=jnp.where(chosen, mirror(batch.lesion), batch.lesion),
        tissue=jnp.where(chosen, mirror(tissue), tissue)[..., 0],
        case=batch.case,
    )


def move(batch: Batch, views: View, spacing_mm: tuple[float, float, float]) -> Batch:
    """Rotate about z and shift in plane, about the centre of the volume."""
    extents = half_extents_mm(batch.volume.shape[1:4], spacing_mm)
    matrix, _ = view_to_matrices(views, extents)
    labels = jnp.concatenate(
        [batch.lesion, batch.tissue[..., None].astype(jnp.float32)], axis=-1
    )
    labels = sample(labels, matrix, nearest=True, in_plane=True)
    return Batch(
        volume=jnp.clip(sample(batch.volume, matrix, in_plane=True), 0.0, 1.0),
        lesion=labels[..., :1],
        tissue=labels[..., 1].astype(batch.tissue.dtype),
        case=batch.case,
    )


def augmented_view(
    key: Key,
    view: View,
    case: Integer[Array, " b"],
    settings: AugmentSettings,
    extents_mm: HalfExtents,
) -> View:
    """View of each augmented head, given the view of the head before `augment`.

    With the mirror F and the motion A of the same key, M becomes A^-1 F M F.
    Only for views that turn about z and shift along x and y.
    """
    _, flips, motions = draw_all(key, case, settings)
    if settings.mirror:
        signs = jnp.array([1, 1, -1, -1, 1, 1], view.dtype)
        view = jnp.where(flips[:, None], view * signs, view)
    _, inverse = view_to_matrices(motions, extents_mm)
    undo = jnp.concatenate([-motions[:, :3], inverse[:, :3, 3]], axis=1)
    return compose_in_plane(undo, view, extents_mm)
