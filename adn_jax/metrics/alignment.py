"""How far an estimated mid-sagittal plane lies from the true one.

Planes are given in mm of the prepared grid, (x, y, z) from the grid's centre, x to the
patient's right and y to the front.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from adn_jax.io.image import Affine
from adn_jax.io.nifti import steps_mm, unit_axes


class Plane(NamedTuple):
    """A plane by its unit normal, which points to the patient's right, and a point."""

    normal: Float[np.ndarray, "3"]
    point: Float[np.ndarray, "3"]


class AlignmentError(NamedTuple):
    """Error of a mid-sagittal plane."""

    angle_deg: float
    """Angle between the two planes' traces in an axial slice, 0 to 90 degrees."""
    offset_mm: float
    """Distance of the head's true centre from the estimated plane."""


def true_plane(
    head_to_world: Float[np.ndarray, "4 4"],
    affine: Affine,
    shape_zyx: tuple[int, int, int],
) -> Plane:
    """The head's plane x = 0, carried through world mm onto the prepared grid.

    Args:
        head_to_world: head coordinates (mm, x to the patient's right, mid-sagittal
            plane x = 0) to world (mm, RAS).
        affine: voxel indices (x, y, z) of the prepared grid to world (mm, RAS).
        shape_zyx: voxels of the prepared grid.
    """
    centre = (np.array(shape_zyx[::-1]) - 1) / 2
    head_origin = np.linalg.solve(affine, head_to_world[:, 3])[:3]
    across = np.linalg.inv(head_to_world[:3, :3])[0]
    normal = unit_axes(affine).T @ across
    point = (head_origin - centre) * steps_mm(affine)
    return Plane(normal / np.linalg.norm(normal), point)


def in_world(plane: Plane, affine: Affine) -> Plane:
    """A plane of the prepared grid as it lies against the world (RAS), still in mm from
    the grid's centre: turned about z as the grid is.

    A tilt of the slices is left out (swing and twist): it is no turn of the head.
    """
    axes = unit_axes(affine)
    angle = np.arctan2(axes[1, 0] - axes[0, 1], axes[0, 0] + axes[1, 1])
    c, s = np.cos(angle), np.sin(angle)
    about_z = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    return Plane(about_z @ plane.normal, about_z @ plane.point)


def placed(plane: Plane, affine: Affine, shape_zyx: tuple[int, int, int]) -> Plane:
    """A plane of the prepared grid in world mm (RAS); arguments as in `true_plane`."""
    axes, centre = _axes_and_centre(affine, shape_zyx)
    return Plane(axes @ plane.normal, centre + axes @ plane.point)


def on_grid(plane: Plane, affine: Affine, shape_zyx: tuple[int, int, int]) -> Plane:
    """The inverse of `placed`, on any grid: in mm from its centre, along its axes.

    Where these are not at right angles, the normal is not of length 1.
    """
    axes, centre = _axes_and_centre(affine, shape_zyx)
    point = np.linalg.solve(axes, plane.point - centre)
    return Plane(axes.T @ plane.normal, point)


def _axes_and_centre(
    affine: Affine, shape_zyx: tuple[int, int, int]
) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, "3"]]:
    """Directions of a grid's axes, a column each, and its centre in world mm."""
    axes = unit_axes(affine)
    middle = (np.array(shape_zyx[::-1]) - 1) / 2
    return axes, affine[:3, :3] @ middle + affine[:3, 3]


def turn_deg(plane: Plane) -> float:
    """Turn of a head in an axial slice, -180 to 180 degrees, by its plane.

    As `in_plane_angle_deg`, but which way the normal points counts: half a turn is a
    head upside down.
    """
    return float(np.degrees(np.arctan2(plane.normal[1], plane.normal[0])))


def in_plane_angle_deg(plane: Plane) -> float:
    """Rotation of a plane's trace in an axial slice, -90 to 90 degrees.

    0 where the plane runs straight front to back; positive where the nose is turned to
    the patient's left (counter-clockwise with x to the right and y up).
    """
    return (turn_deg(plane) + 90.0) % 180.0 - 90.0


def offset_mm(plane: Plane) -> float:
    """Distance from the grid's centre to the plane, positive to the patient's right."""
    return float(plane.normal @ plane.point)


def alignment_error(estimate: Plane, truth: Plane) -> AlignmentError:
    """Compare an estimated mid-sagittal plane with the true one."""
    difference = abs(in_plane_angle_deg(estimate) - in_plane_angle_deg(truth))
    return AlignmentError(
        angle_deg=min(difference, 180.0 - difference),
        offset_mm=float(abs(estimate.normal @ (truth.point - estimate.point))),
    )
