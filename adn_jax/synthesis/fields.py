"""Random fields, and the two grids of a drawn head: knots and voxels.

What is smooth is computed on knots and interpolated to the voxels by three small
matrix products, which cost less than anything computed at each voxel.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from adn_jax.phantom.head import interpolation, knots
from adn_jax.types import Key, Tree

REACH_MM = 130.0
"""A random lattice covers +- this in every direction; its edge goes on outside."""

Bounds = tuple[float | Float[Array, ""], float | Float[Array, ""]]
"""The ends of an even draw."""

Maps = Float[Array, "z y x"]

Points = Float[Array, "3 *shape"]
"""Coordinates x, y, z in mm."""


class ScanGrid(NamedTuple):
    """Coordinates in mm from the centre of a prepared grid, and those of its knots.

    Along z every slice has knots.
    """

    z: Float[np.ndarray, " z"]
    y: Float[np.ndarray, " y"]
    x: Float[np.ndarray, " x"]
    knots_y: Float[np.ndarray, " k"]
    knots_x: Float[np.ndarray, " l"]

    @classmethod
    def of(
        cls, shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]
    ) -> "ScanGrid":
        """The grid of a shape and spacing (z y x)."""
        z, y, x = (
            ((np.arange(count) - (count - 1) / 2) * step).astype(np.float32)
            for count, step in zip(shape, spacing_mm, strict=True)
        )
        return cls(z, y, x, knots(y), knots(x))

    @property
    def half_mm(self) -> Float[np.ndarray, "3"]:
        """Half a voxel's size (x y z)."""
        axes = (self.x, self.y, self.z)
        return np.array([axis[1] - axis[0] for axis in axes], np.float32) / 2

    def knot_points(self) -> Float[np.ndarray, "3 z k l"]:
        """Coordinates of the knots."""
        z, y, x = np.meshgrid(self.z, self.knots_y, self.knots_x, indexing="ij")
        return np.stack([x, y, z])

    def refine(self, values: Float[Array, "f z k l"]) -> Float[Array, "f z y x"]:
        """Values at the knots -> values at the voxels (linear)."""
        # float32 products: coordinates bear no TF32
        along_y = jnp.einsum(
            "yk,fzkl->fzyl",
            interpolation(self.knots_y, self.y),
            values,
            precision="highest",
        )
        return jnp.einsum(
            "xl,fzyl->fzyx",
            interpolation(self.knots_x, self.x),
            along_y,
            precision="highest",
        )


def trilinear(
    values: Float[Array, "z y x c"],
    points: Points,
    first_mm: Float[np.ndarray, "3"],
    step_mm: Float[Array, "3"] | Float[np.ndarray, "3"],
) -> Float[Array, "c *shape"]:
    """Values at points (x y z in mm) of maps that begin at `first_mm` (x y z).

    Beyond the maps their edge goes on.
    """
    sizes = values.shape[2::-1]
    shape = points.shape[1:]
    lower, share = [], []
    for axis, size in enumerate(sizes):
        at = (points[axis].reshape(-1) - first_mm[axis]) / step_mm[axis]
        at = jnp.clip(at, 0.0, size - 1.001)
        floor = jnp.floor(at)
        lower.append(floor.astype(jnp.int32))
        share.append(at - floor)
    rows = values.reshape(-1, values.shape[-1])
    first = (lower[2] * sizes[1] + lower[1]) * sizes[0] + lower[0]
    total = jnp.zeros((first.size, rows.shape[-1]), jnp.float32)
    for corner in np.ndindex(2, 2, 2):
        dz, dy, dx = corner
        weight = 1.0
        for step, part in zip((dx, dy, dz), share, strict=True):
            weight = weight * (part if step else 1 - part)
        index = first + (dz * sizes[1] + dy) * sizes[0] + dx
        taken = rows.at[index].get(mode="promise_in_bounds")
        total += taken * jnp.asarray(weight)[:, None]
    return total.T.reshape(-1, *shape)


def random_fields(
    key: Key, points: Points, length_mm: float, even: int, odd: int, own: int
) -> Float[Array, "f *shape"]:
    """Smooth random fields of variance near 1 at points of the head.

    The first `even` are the same on both sides, the next `odd` change their sign from
    side to side, the last `own` differ. `length_mm` is half the wave length.
    """
    step = length_mm / 2
    half = int(np.ceil(REACH_MM / step))
    size = 2 * half + 1
    lattice = white_noise(key, (size, size, size, even + odd + own))
    # products, which no compiler fuses: it would draw each number again for its
    # neighbours
    smooth = _neighbours(size)
    lattice = jnp.einsum("az,by,zyxf->abxf", smooth, smooth, lattice)
    lattice = jnp.einsum("cx,abxf->abcf", smooth, lattice)
    mirrored = jnp.flip(lattice, axis=2)
    sign = np.repeat([1.0, -1.0, 0.0], [even, odd, own])
    scale = np.repeat([0.5**0.5, 0.5**0.5, 1.0], [even, odd, own])
    lattice = (lattice + sign * mirrored) * scale
    first = np.full(3, -half * step, np.float32)
    return trilinear(lattice, points, first, np.full(3, step, np.float32))


def _neighbours(size: int) -> Float[np.ndarray, "n n"]:
    """Weights 1 2 1 of neighbours along an axis, which keep the variance."""
    apart = np.abs(np.arange(size)[:, None] - np.arange(size))
    return (np.maximum(2 - apart, 0) / np.sqrt(6)).astype(np.float32)


def grid_noise(key: Key, shape: tuple[int, int, int], factor: int) -> Maps:
    """Normal noise on a grid, independent every `factor` voxels in the slice."""
    z, y, x = shape
    coarse = white_noise(key, (z, -(-y // factor) + 1, -(-x // factor) + 1))
    if factor == 1:
        return coarse[:, :y, :x]
    along_y = jnp.einsum("yk,zkl->zyl", _stretch(y, coarse.shape[1], factor), coarse)
    return jnp.einsum("xl,zyl->zyx", _stretch(x, coarse.shape[2], factor), along_y)


def voxels_apart(distance_mm: float, half_mm: float) -> int:
    """Nearest number of voxels of that half size, at least one, to a distance."""
    return max(1, round(distance_mm / (2 * half_mm)))


def _stretch(size: int, count: int, factor: int) -> Float[np.ndarray, "n k"]:
    """Weights from `count` knots, `factor` voxels apart, to `size` voxels."""
    knots = np.arange(count, dtype=np.float32) * factor
    return interpolation(knots, np.arange(size, dtype=np.float32))


def materialise(tree: Tree, real: Bool[Array, ""]) -> Tree:
    """Arrays as they are if `real` holds, else zeros; in memory, once.

    XLA drops optimization barriers on a CPU, and computes what is read at several
    neighbours, or by several maps, once for each. It fuses nothing through a branch.
    """
    return jax.lax.cond(
        real,
        lambda kept: kept,
        lambda kept: jax.tree.map(jnp.zeros_like, kept),
        tree,
    )


def ball(
    points: Points,
    centre: Float[Array, "3"],
    radius: Float[Array, ""] | float,
    blur_mm: Float[np.ndarray, "3"],
) -> Float[Array, "*shape"]:
    """Share of each voxel that a small ball fills, its edge as soft as the voxels.

    `blur_mm` is the voxels' half size (x y z).
    """
    wide = [jnp.sqrt(radius**2 + blur**2) for blur in blur_mm]
    away = sum(
        ((points[axis] - centre[axis]) / (1.6 * wide[axis])) ** 2 for axis in range(3)
    )
    filled = radius**3 / (wide[0] * wide[1] * wide[2])
    return filled * jnp.maximum(1 - away, 0.0) ** 2


def white_noise(key: Key, shape: tuple[int, ...]) -> Float[Array, "*shape"]:
    """Independent normal values.

    Drawn in a row: counters of several axes take XLA seconds more to compile.
    """
    return jax.random.normal(key, (math.prod(shape),)).reshape(shape)


def between(share: Float[Array, "*shape"], bounds: Bounds) -> Float[Array, "*shape"]:
    """A share, 0 to 1, of the way between two bounds."""
    low, high = bounds
    return low + (high - low) * share


def uniform(
    key: Key, bounds: Bounds, shape: tuple[int, ...] = ()
) -> Float[Array, "*shape"]:
    """Even draw between two bounds."""
    return jax.random.uniform(key, shape, minval=bounds[0], maxval=bounds[1])
