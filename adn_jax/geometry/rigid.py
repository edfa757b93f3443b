"""Rigid motions of the head: from the six numbers of a view to matrices and back.

Matrices act on normalised (x, y, z) coordinates, -1 and 1 at the outer faces of the
first and last voxel, and lead from the output of a warp to its input. All products
are elementwise: a matrix product may run at reduced precision on accelerators.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from adn_jax.types import Matrix, View

HalfExtents = tuple[float, float, float]
"""Half the field of view along x, y, z in mm."""


def half_extents_mm(
    shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]
) -> HalfExtents:
    """Half the field of view (x, y, z) of a grid with shape and spacing in (z, y, x).

    It is the size in mm of one unit of normalised coordinates.
    """
    z, y, x = (size * step / 2 for size, step in zip(shape, spacing_mm, strict=True))
    return x, y, z


def view_to_matrices(
    view: View, half_extents_mm: HalfExtents | None = None
) -> tuple[Matrix, Matrix]:
    """Matrix M = T R of each view and its exact inverse R^T T(-t).

    R = Rz Ry Rx turns by the view's angles, T shifts by its last three numbers
    (authors' code, transform_net.py). Normalised axes of unequal extent would shear
    the head, so with `half_extents_mm` (diagonal S) R becomes S^-1 R S, a true
    rotation in mm. None, or equal extents, gives the authors' matrices.
    """
    rotation = _rotation(view[:, :3])
    scale = _relative_extents(half_extents_mm, view.dtype)
    shift = view[:, 3:]
    forward = rotation * scale
    backward = jnp.swapaxes(rotation, 1, 2) * scale
    return _homogeneous(forward, shift), _homogeneous(backward, -_turn(backward, shift))


def compose_in_plane(
    first: View, second: View, half_extents_mm: HalfExtents | None = None
) -> View:
    """View of warping by `first` and the result by `second`: M = M_first M_second.

    Only for views that turn about z and shift along x and y; other numbers of
    `second` must be 0.
    """
    matrix, _ = view_to_matrices(first, half_extents_mm)
    shift = first[:, 3:] + _turn(matrix[:, :3, :3], second[:, 3:])
    return jnp.concatenate([first[:, :3] + second[:, :3], shift], axis=1)


def in_plane_angle_deg(
    matrix: Matrix, half_extents_mm: HalfExtents | None = None
) -> Float[Array, " b"]:
    """Angle about z, in degrees, of matrices that only turn about z."""
    x, y, _ = half_extents_mm or (1.0, 1.0, 1.0)
    return jnp.rad2deg(jnp.arctan2(matrix[:, 1, 0] * (y / x), matrix[:, 0, 0]))


def mid_plane(
    matrix: Matrix, half_extents_mm: HalfExtents
) -> tuple[Float[Array, "b 3"], Float[Array, "b 3"]]:
    """Where the plane x = 0 of the aligned head X lies in I.

    Returns its unit normal, pointing to X's positive x, and the point that X's centre
    has in I; both in mm along I's (x, y, z), from I's centre.
    """
    extents = jnp.asarray(half_extents_mm, matrix.dtype)
    in_mm = matrix[:, :3, :3] * extents[:, None] / extents
    normal = jnp.cross(in_mm[:, :, 1], in_mm[:, :, 2])
    length = jnp.sqrt(jnp.sum(normal**2, axis=1, keepdims=True))
    return normal / length, matrix[:, :3, 3] * extents


def _rotation(angles: Float[Array, "b 3"]) -> Float[Array, "b 3 3"]:
    """Write out Rz Ry Rx for angles about x, y, z in radians."""
    (sx, sy, sz), (cx, cy, cz) = jnp.sin(angles).T, jnp.cos(angles).T
    rows = [
        [cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx],
        [sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx],
        [-sy, cy * sx, cy * cx],
    ]
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=1)


def _relative_extents(
    half_extents_mm: HalfExtents | None, dtype: jnp.dtype
) -> Float[Array, "3 3"]:
    """Factors s_j / s_i that turn R_ij into (S^-1 R S)_ij."""
    extents = half_extents_mm or (1.0, 1.0, 1.0)
    return jnp.asarray([[j / i for j in extents] for i in extents], dtype)


def _turn(
    rotation: Float[Array, "b 3 3"], vector: Float[Array, "b 3"]
) -> Float[Array, "b 3"]:
    return jnp.sum(rotation * vector[:, None, :], axis=2)


def _homogeneous(rotation: Float[Array, "b 3 3"], shift: Float[Array, "b 3"]) -> Matrix:
    upper = jnp.concatenate([rotation, shift[:, :, None]], axis=2)
    last = jnp.zeros_like(upper[:, :1]).at[:, :, 3].set(1)
    return jnp.concatenate([upper, last], axis=1)
