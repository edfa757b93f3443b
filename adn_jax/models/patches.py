"""Patches of a volume, for networks that do not see it whole."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Integer, Key, Shaped

from adn_jax.types import Shape


class Patch(NamedTuple):
    """What a network predicts and sees at once, in voxels along z, y and x."""

    inner: Shape
    """Voxels that it predicts."""
    margin: Shape
    """Voxels that it sees more, on either side."""

    @property
    def outer(self) -> Shape:
        """All voxels that it sees."""
        sizes = zip(self.inner, self.margin, strict=True)
        z, y, x = (inner + 2 * margin for inner, margin in sizes)
        return z, y, x


def cut(
    volume: Shaped[Array, "b z y x c"],
    starts: Integer[Array, "b n 3"],
    patch: Patch,
) -> Shaped[Array, "b n z1 y1 x1 c"]:
    """Cut n patches out of each volume, margins included, zeros outside the volume.

    `starts` are the first voxels (z, y, x) of the inner parts, wherever these lie.
    """
    cut_one = partial(_cut_one, patch=patch)
    return jax.vmap(jax.vmap(cut_one, in_axes=(None, 0)))(volume, starts)


def _cut_one(volume, start, patch):
    z, y, x = (
        first - margin + jnp.arange(size, dtype=start.dtype)
        for first, margin, size in zip(start, patch.margin, patch.outer, strict=True)
    )
    zeros_outside = {"mode": "fill", "fill_value": 0, "wrap_negative_indices": False}
    # in two steps, else the places of all voxels are held in memory
    rows = volume.at[z[:, None], y].get(**zeros_outside)
    return rows.at[:, :, x].get(**zeros_outside)


def over_patches(
    function: Callable[[Float[Array, "b z1 y1 x1 c"]], Float[Array, "b z2 y2 x2 o"]],
    volume: Float[Array, "b z y x c"],
    patch: Patch,
) -> Float[Array, "b z y x o"]:
    """What `function` says of patches whose inner parts cover the volume side by side.

    It maps patches to their inner parts, all cases of the batch in a call and one
    patch after the other, so that memory holds the maps of one. The first begins at
    the volume's first voxel; outside the volume it sees zeros.
    """
    cases, *sizes, channels = volume.shape
    inner, margin = patch
    counts = [-(-size // part) for size, part in zip(sizes, inner, strict=True)]
    covered = [count * part for count, part in zip(counts, inner, strict=True)]
    edges = [
        (before, before + whole - size)
        for before, whole, size in zip(margin, covered, sizes, strict=True)
    ]
    padded = jnp.pad(volume, ((0, 0), *edges, (0, 0)))

    def one(start: Integer[Array, " 3"]) -> Float[Array, "b z2 y2 x2 o"]:
        outer = (cases, *patch.outer, channels)
        return function(lax.dynamic_slice(padded, (0, *start, 0), outer))

    starts = jnp.indices(counts).reshape(3, -1).T * jnp.array(inner)
    parts = lax.map(one, starts)
    grid = parts.reshape(*counts, *parts.shape[1:]).transpose(3, 0, 4, 1, 5, 2, 6, 7)
    z, y, x = sizes
    return grid.reshape(cases, *covered, parts.shape[-1])[:, :z, :y, :x]


def draw_starts(
    keys: Key[Array, " b"],
    lesion: Float[Array, "b z y x 1"],
    brain: Bool[Array, "b z y x 1"],
    patch: Patch,
    count: int,
    lesion_fraction: float,
) -> Integer[Array, "b count 3"]:
    """Draw where the inner parts of `count` patches of each case begin, by its key.

    The first count * lesion_fraction (a half counts as one) are centred on any lesion
    voxel (of at least one half), the others on any brain voxel without lesion; where a
    case has none, on any of its brain, and without brain on the centre of the volume.
    They are then moved into the volume; along an axis where they cover it, their centre
    is its own.
    """
    with_lesion = math.floor(count * lesion_fraction + 0.5)

    def draw_case(key, lesion, brain):
        lesion_key, brain_key = jax.random.split(key)
        on_lesion = _draw_voxels(lesion_key, _or_else(lesion, brain), with_lesion)
        beside = _or_else(brain & ~lesion, brain)
        on_brain = _draw_voxels(brain_key, beside, count - with_lesion)
        inner = jnp.array(patch.inner)
        last = jnp.array(lesion.shape) - inner
        starts = jnp.concatenate([on_lesion, on_brain]) - inner // 2
        return jnp.where(last > 0, jnp.clip(starts, 0, last), last // 2)

    return jax.vmap(draw_case)(keys, lesion[..., 0] >= 0.5, brain[..., 0])


def _or_else(mask, other):
    return jnp.where(mask.any(), mask, other)


def _draw_voxels(key, mask, count):
    """Voxels (z, y, x) of a mask, each as probable; of an empty one, the centre.

    The n-th voxel is looked up by the row in which it lies, then within that row.
    """
    height, width = mask.shape[1:]
    in_row = mask.sum(axis=2).ravel()
    ends = jnp.cumsum(in_row)
    rank = jax.random.randint(key, (count,), 0, jnp.maximum(ends[-1], 1))
    row = jnp.searchsorted(ends, rank, side="right")
    row = jnp.minimum(row, len(ends) - 1)
    rest = rank - (ends - in_row)[row]
    before = jnp.cumsum(mask.reshape(-1, width)[row], axis=1) <= rest[:, None]
    drawn = jnp.stack([*jnp.divmod(row, height), before.sum(axis=1)], axis=1)
    return jnp.where(ends[-1] > 0, drawn, jnp.array(mask.shape) // 2)
