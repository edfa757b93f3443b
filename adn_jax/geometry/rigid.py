"""Rigid motions of the head: poses and their matrices.

Matrices act on normalised (x, y, z) coordinates, -1 and 1 at the outer faces of the
first and last voxel, and lead from the output of a warp to its input. All products
are elementwise: a matrix product may run at reduced precision on accelerators.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from adn_jax.types import Matrix, register_arrays

HalfExtents = tuple[float, float, float]
"""Half the field of view along x, y, z in mm."""


def half_extents_mm(
    shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]
) -> HalfExtents:
    """Half the field of view (x, y, z) of a grid with shape and spacing in (z, y, x).

    It is the size in mm of one unit of normalised coordinates.

    >>> half_extents_mm((20, 160, 128), (6.0, 1.25, 1.5))
    (96.0, 100.0, 60.0)
    """
    z, y, x = (size * step / 2 for size, step in zip(shape, spacing_mm, strict=True))
    return x, y, z


@register_arrays
@dataclass(frozen=True)
class Pose:
    """How each head of a batch lies: a rotation, then a translation.

    Where a method takes `half_extents_mm`, rotations are true ones in mm on a grid of
    these half-extents; None, or equal extents, gives the authors' matrices.

    >>> pose = Pose.in_plane(angle=jnp.array([0.2]), x=jnp.array([0.1]), y=jnp.zeros(1))
    >>> forward, backward = pose.matrices()
    >>> bool(jnp.allclose(forward @ backward, jnp.eye(4), atol=1e-6))
    True
    >>> bool(jnp.allclose(pose.then(pose.inverse()).translation, 0, atol=1e-6))
    True
    """

    rotation: Float[Array, "*b 3"]
    """Angles about x, y, z in radians: R = Rz Ry Rx."""
    translation: Float[Array, "*b 3"]
    """Along x, y, z in half-extents, the unit of normalised coordinates."""

    @classmethod
    def identity(cls, batch: int) -> "Pose":
        """Heads that lie as the grid does."""
        return cls(jnp.zeros((batch, 3)), jnp.zeros((batch, 3)))

    @classmethod
    def in_plane(
        cls, angle: Float[Array, "*b"], x: Float[Array, "*b"], y: Float[Array, "*b"]
    ) -> "Pose":
        """Turn by an angle (radians) about z and shift along x and y (half-extents)."""
        zero = jnp.zeros_like(angle)
        return cls(
            jnp.stack([zero, zero, angle], axis=-1), jnp.stack([x, y, zero], axis=-1)
        )

    @property
    def in_plane_angle(self) -> Float[Array, "*b"]:
        """Angle about z in radians."""
        return self.rotation[..., 2]

    def __getitem__(self, index: Any) -> "Pose":
        """The poses of some heads."""
        return jax.tree.map(lambda part: part[index], self)

    # A program of its own: its gradient is one sum, to which others are added.
    @partial(jax.jit, static_argnames="half_extents_mm")
    def matrices(
        self, half_extents_mm: HalfExtents | None = None
    ) -> tuple[Matrix, Matrix]:
        """Matrix M = T R of each pose and its exact inverse R^T T(-t).

        Normalised axes of unequal extent would shear the head, so with the
        half-extents as the diagonal S, R becomes S^-1 R S.
        """
        extents = half_extents_mm or (1.0, 1.0, 1.0)
        scale = jnp.asarray(
            [[j / i for j in extents] for i in extents], self.rotation.dtype
        )
        rotation = rotation_matrix(self.rotation)
        forward = rotation * scale
        backward = jnp.swapaxes(rotation, 1, 2) * scale
        back_shift = -_times(backward, self.translation)
        return (
            _homogeneous(forward, self.translation),
            _homogeneous(backward, back_shift),
        )

    def turned(self, angle: Float[Array, ""] | Float[Array, " b"] | float) -> "Pose":
        """Turned further about z by an angle in radians, about the same centre."""
        return Pose(self.rotation.at[..., 2].add(angle), self.translation)

    def half_turned(self, times: Float[Array, " b"]) -> "Pose":
        """The aligned head turned by so many half turns about its own z axis.

        Its mirror plane stays: R is multiplied from the right, and since
        Ry(b) Rx(a) Rz(pi) = Rz(pi) Ry(-b) Rx(-a), the other angles change their signs.
        """
        tilt = self.rotation[..., :2]
        odd = jnp.mod(times, 2)[..., None] == 1
        turned = self.rotation.at[..., :2].set(jnp.where(odd, -tilt, tilt))
        return Pose(turned, self.translation).turned(jnp.pi * times)

    def mirrored(self) -> "Pose":
        """The pose of the head flipped along x: F M F."""
        signs = jnp.array([[1, -1, -1], [-1, 1, 1]], self.rotation.dtype)
        return Pose(self.rotation * signs[0], self.translation * signs[1])

    def then(
        self, second: "Pose", half_extents_mm: HalfExtents | None = None
    ) -> "Pose":
        """Pose of warping by this one and the result by `second`: M = M_self M_second.

        Only for poses that turn about z and shift along x and y; other numbers of
        `second` must be 0.
        """
        matrix, _ = self.matrices(half_extents_mm)
        shift = self.translation + _times(matrix[:, :3, :3], second.translation)
        return Pose(self.rotation + second.rotation, shift)

    def inverse(self, half_extents_mm: HalfExtents | None = None) -> "Pose":
        """Pose whose M is the inverse, of poses that turn about z alone."""
        _, inverse = self.matrices(half_extents_mm)
        return Pose(-self.rotation, inverse[:, :3, 3])


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


def rotation_matrix(angles: Float[Array, "b 3"]) -> Float[Array, "b 3 3"]:
    """Rz Ry Rx of angles about x, y, z in radians (authors' code, transform_net.py).

    Written out, for a matrix product may run at reduced precision.
    """
    (sx, sy, sz), (cx, cy, cz) = jnp.sin(angles).T, jnp.cos(angles).T
    rows = [
        [cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx],
        [sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx],
        [-sy, cy * sx, cy * cx],
    ]
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=1)


def _times(
    matrix: Float[Array, "b 3 3"], vector: Float[Array, "b 3"]
) -> Float[Array, "b 3"]:
    return jnp.sum(matrix * vector[:, None, :], axis=2)


def _homogeneous(rotation: Float[Array, "b 3 3"], shift: Float[Array, "b 3"]) -> Matrix:
    upper = jnp.concatenate([rotation, shift[:, :, None]], axis=2)
    last = jnp.zeros_like(upper[:, :1]).at[:, :, 3].set(1)
    return jnp.concatenate([upper, last], axis=1)
