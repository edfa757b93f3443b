"""Resampling of volumes under a matrix: trilinear or nearest, zeros outside.

The conventions are torch's `affine_grid` and `grid_sample` with
`align_corners=False`: normalised coordinates are -1 and 1 at the outer faces of the
grid, so that voxel i of n has its centre at (2 i + 1) / n - 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num, Shaped

from adn_jax.types import Index, Matrix

Tap = tuple[Int[Array, "..."], Float[Array, "..."]]
"""Index and weight of the voxel that each output voxel takes along one axis."""


@dataclass(frozen=True)
class Part:
    """The voxels of an axis of `size` that are at hand, and those that are wanted.

    `source` is the first of those at hand, `target` the first of the `wanted` ones
    (None: as many as are at hand).
    """

    size: int
    source: Index = 0
    target: Index = 0
    wanted: int | None = None

    def count(self, at_hand: int) -> int:
        """How many voxels are wanted."""
        return at_hand if self.wanted is None else self.wanted


Parts = tuple[Part, Part, Part]
"""Along z, y and x."""


def sample(
    volume: Num[Array, "b z y x c"],
    matrix: Matrix,
    *,
    nearest: bool = False,
    in_plane: bool = False,
    parts: Parts | None = None,
) -> Num[Array, "b z2 y2 x2 c"]:
    """Warp each volume: output(p) = volume(M p), zero outside the grid.

    Args:
        volume: floating point, interpolated in float32, or with `nearest` any numbers
            (labels).
        matrix: from output to input, on normalised (x, y, z).
        nearest: take the nearest voxel (halves to even) instead of interpolating.
        in_plane: the matrices only turn about z and shift along x and y. Each tap is
            then one row of z * c values, found once for all slices: 4 taps for 8. The
            matrix's entries that have to do with z are not looked at.
        parts: where the voxels of `volume` and those of the result lie in a larger
            grid, along z, y and x; None: they are all.

    Returns the warped volumes on the same grid, or with `parts` what these voxels give
    to the wanted ones; differentiable by volume and, unless `nearest`, by matrix.

    Example: one voxel along x.

        >>> row = jnp.array([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 1, 4, 1)
        >>> shift = jnp.eye(4)[None].at[0, 0, 3].set(2 / 4)
        >>> sample(row, shift).ravel()
        Array([2., 3., 4., 0.], dtype=float32)
    """
    if not nearest and not jnp.issubdtype(volume.dtype, jnp.floating):
        raise ValueError(f"{volume.dtype} cannot be interpolated; use nearest=True")
    parts, kind = parts or _whole(volume), volume.dtype
    if not nearest:
        # also for the sums of its gradients
        volume = volume.astype(jnp.float32 if kind.itemsize < 4 else kind)
    if not in_plane:
        return _sample_grid(volume, matrix, nearest, parts).astype(kind)
    volume = _part_of(volume, 1, parts[0])
    batch, z, y, x, channels = volume.shape
    columns = volume.transpose(0, 2, 3, 1, 4).reshape(batch, y, x, z * channels)
    warped = _sample_grid(columns, matrix, nearest, parts[1:]).astype(kind)
    return warped.reshape(*warped.shape[:3], z, channels).transpose(0, 3, 1, 2, 4)


def take_parts(
    volume: Num[Array, "b z y x c"], parts: Parts
) -> Num[Array, "b z2 y2 x2 c"]:
    """The wanted voxels of a volume as it lies, 0 for those that are not at hand."""
    for axis, part in enumerate(parts, 1):
        volume = _part_of(volume, axis, part)
    return volume


def _part_of(volume: Num[Array, "..."], axis: int, part: Part) -> Num[Array, "..."]:
    """The wanted voxels along one axis; `part` tells plain numbers."""
    at_hand = volume.shape[axis]
    before = part.source - part.target
    behind = part.count(at_hand) - before - at_hand
    edges: list[Any] = [(0, 0, 0)] * volume.ndim
    edges[axis] = (before, behind, 0)
    return jax.lax.pad(volume, jnp.zeros((), volume.dtype), edges)


def _whole(volume: Num[Array, "b z y x c"]) -> Parts:
    z, y, x = (Part(size) for size in volume.shape[1:4])
    return z, y, x


def _sample_grid(
    values: Num[Array, "b *grid c"],
    matrix: Matrix,
    nearest: bool,
    axes: Sequence[Part],
) -> Num[Array, "b *grid2 c"]:
    """Warp a grid of two axes (y x) or three (z y x)."""
    batch, *grid, channels = values.shape
    wanted = tuple(axis.count(size) for size, axis in zip(grid, axes, strict=True))
    positions = _source_positions(matrix, wanted, axes)
    taps = [
        _taps(position, axis.source, size, nearest)
        for position, axis, size in zip(positions, axes, grid, strict=True)
    ]
    flat = values.reshape(batch, -1, channels)
    warped = sum(_weighted_rows(flat, corner, grid) for corner in product(*taps))
    return jnp.reshape(warped, (batch, *wanted, channels))


def _source_positions(
    matrix: Matrix, grid: tuple[int, ...], axes: Sequence[Part]
) -> list[Float[Array, "b *grid"]]:
    """Voxel coordinates in the input of each output voxel, one array an axis.

    `grid` is the output's, `axes` say where it lies in the whole one. Offsets are
    counted in voxels from the centre of the whole grid, where the identity leads to
    whole numbers without rounding. Always float32.
    """
    matrix = matrix.astype(jnp.float32)
    entry = (slice(None), *[None] * len(grid))
    positions = []
    for target, size in enumerate(axis.size for axis in axes):
        row = len(grid) - 1 - target
        shift = matrix[:, row, 3][entry]
        position = _add_product(jnp.float32((size - 1) / 2), shift, size / 2)
        for source, (count, axis) in enumerate(zip(grid, axes, strict=True)):
            column, extent = len(grid) - 1 - source, axis.size
            offset = jnp.arange(count, dtype=jnp.float32) - (extent - 1) / 2
            offset += axis.target
            along = [-1 if axis == source else 1 for axis in range(len(grid))]
            slope = matrix[:, row, column][entry] * (size / extent)
            position = _add_product(position, slope, offset.reshape(along))
        positions.append(position)
    return positions


def _add_product(
    total: Float[Array, "..."],
    factor: Float[Array, "..."],
    count: Float[Array, "..."] | float,
) -> Float[Array, "..."]:
    """total + factor * count, the same to the last bit wherever it is compiled.

    A compiler may compute a position once for the index of a tap and again, with the
    product fused into the sum, for its weight; near a whole number the two would then
    speak of different voxels. So `factor` is split in halves of 12 bits, whose products
    with a `count` of up to 11 bits (half voxels) are exact, fused or not.
    """
    high = jax.lax.stop_gradient(jax.lax.reduce_precision(factor, 8, 12))
    return total + high * count + (factor - high) * count


def _taps(
    position: Float[Array, "..."], first: Index, size: int, nearest: bool
) -> list[Tap]:
    """Neighbours along one axis; those outside the voxels at hand weigh nothing."""
    if nearest:
        return [_tap(jnp.round(position) - first, jnp.ones_like(position), size)]
    lower = jnp.floor(position)
    fraction = position - lower
    index = lower - first
    return [_tap(index, 1 - fraction, size), _tap(index + 1, fraction, size)]


def _tap(index: Float[Array, "..."], weight: Float[Array, "..."], size: int) -> Tap:
    inside = (index >= 0) & (index < size)
    return (
        jnp.clip(index, 0, size - 1).astype(jnp.int32),
        jnp.where(inside, weight, 0),
    )


def _weighted_rows(
    rows: Shaped[Array, "b n c"], corner: tuple[Tap, ...], grid: list[int]
) -> Shaped[Array, "b m c"]:
    """One corner of the interpolation: the rows it takes times their weights."""
    index, weight = corner[0]
    for size, (next_index, next_weight) in zip(grid[1:], corner[1:], strict=True):
        index, weight = index * size + next_index, weight * next_weight
    batch, *_ = rows.shape
    taken = jax.vmap(_take_rows)(rows, index.reshape(batch, -1))
    return taken * weight.reshape(batch, -1, 1).astype(rows.dtype)


def _take_rows(
    rows: Shaped[Array, "n c"], index: Int[Array, " m"]
) -> Shaped[Array, "m c"]:
    return rows.at[index].get(mode="promise_in_bounds")


def mirror(volume: Shaped[Array, "b z y x c"]) -> Shaped[Array, "b z y x c"]:
    """Flip x, the left-right axis: X' of X.

    >>> mirror(jnp.arange(3).reshape(1, 1, 1, 3, 1)).ravel()
    Array([2, 1, 0], dtype=int32)
    """
    return jnp.flip(volume, axis=3)
