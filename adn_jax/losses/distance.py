"""Exact Euclidean distances on a grid, computed inside a compiled program."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Mask = Bool[Array, "b z y x"]
Distance = Float[Array, "b z y x"]

ROWS_AT_ONCE = 4
"""Places of a line that one turn of the loop compares with: it saves memory traffic."""


def signed_distance(inside: Mask, spacing_mm: tuple[float, float, float]) -> Distance:
    """Distance in mm to the nearest voxel on the other side, negative inside.

    Distances are between voxel centres, so the surface lies half a voxel from either
    side's first voxels. A case that has no surface, all inside or all outside, is 0.
    `spacing_mm` is the voxel size z y x.
    """
    axes = (1, 2, 3)
    to_inside = jnp.sqrt(squared_distance(inside, spacing_mm))
    to_outside = jnp.sqrt(squared_distance(~inside, spacing_mm))
    has_surface = inside.any(axes, keepdims=True) & ~inside.all(axes, keepdims=True)
    return jnp.where(has_surface, jnp.where(inside, -to_outside, to_inside), 0)


def squared_distance(mask: Mask, spacing_mm: tuple[float, float, float]) -> Distance:
    """Squared distance in mm^2 of each voxel to the nearest of `mask`; inf without any.

    Axis by axis each voxel takes the least, over its line, of what was found so far and
    the squared distance along the line (Felzenszwalb and Huttenlocher 2012). Every pair
    of a line is compared, n^2 for n voxels, instead of their lower envelope: a few
    vector operations and no branches.
    """
    nearest = jnp.where(mask, 0.0, jnp.inf).astype(jnp.float32)
    for axis, spacing in zip((1, 2, 3), spacing_mm, strict=True):
        nearest = _along(nearest, axis, spacing)
    return nearest


def _along(nearest: Distance, axis: int, spacing: float) -> Distance:
    size = nearest.shape[axis]
    shape = [size if each == axis else 1 for each in range(nearest.ndim)]
    places = jnp.arange(size, dtype=jnp.float32).reshape(shape)

    def compare(place: Array, least: Distance) -> Distance:
        found = jax.lax.dynamic_slice_in_dim(nearest, place, 1, axis)
        apart = (places - place.astype(jnp.float32)) * spacing
        return jnp.minimum(least, found + jnp.square(apart))

    return jax.lax.fori_loop(0, size, compare, nearest, unroll=min(ROWS_AT_ONCE, size))
