"""How symmetric a brain is about the best mid-line in its slices, quickly found."""

import numpy as np
from jaxtyping import Bool, Float, Float32
from scipy import ndimage

from adn_jax.prepare.resample import shrink, spacing_of

WORKING_MM = (6.0, 4.0, 4.0)
"""Voxels are averaged to about this size (z y x) first: noise goes, sulci go."""
FEWEST_VOXELS = 100
WINDOW_HU = (0.0, 80.0)
STEPS = ((8.0, 6.0), (4.0, 3.0), (2.0, 1.5), (1.0, 0.75))
"""Degrees and mm by which the search walks around the best line so far."""
WALK = tuple((turn, shift) for turn in (-1, 0, 1) for shift in (-1, 0, 1))


def mirror_residual_hu(
    hu: Float[np.ndarray, "z y x"],
    brain: Bool[np.ndarray, "z y x"],
    affine: Float[np.ndarray, "4 4"],
) -> float | None:
    """Mean |X - X'| in the brain, in HU, about the in-plane axis where it is least.

    X is the windowed scan, 0 outside the brain; X' its mirror image. The search starts
    from the long axis of the mask. Lesions, one-sided atrophy, a roll of the head and
    above all a mask that lacks a part make it larger. None for a mask of few voxels.
    """
    inside = np.where(brain, np.clip(hu, *WINDOW_HU), 0).astype(np.float32)
    small, grid = shrink(inside, affine, WORKING_MM)
    share = shrink(brain.astype(np.float32), affine, WORKING_MM)[0]
    step_mm = np.array(spacing_of(grid)[1:])
    core = share > 0.5
    if np.count_nonzero(core) < FEWEST_VOXELS:
        return None
    flat = share.sum(axis=0)
    centre = np.array(ndimage.center_of_mass(flat))
    best = (long_axis_deg(flat, step_mm), 0.0)
    least = residual(small, core, step_mm, centre, *best)
    for degrees, mm in STEPS:
        start = best
        for turn, shift in WALK:
            line = (start[0] + turn * degrees, start[1] + shift * mm)
            if line == start:
                continue
            found = residual(small, core, step_mm, centre, *line)
            if found < least:
                least, best = found, line
    return least


def long_axis_deg(
    flat: Float32[np.ndarray, "y x"], step_mm: Float[np.ndarray, "2"]
) -> float:
    """Angle in degrees from y to the long axis of a mask's shadow, turning to x."""
    index = np.argwhere(flat > 0)
    spread = np.cov((index * step_mm).T, aweights=flat[flat > 0])
    y, x = np.linalg.eigh(spread)[1][:, -1]
    return float(np.degrees(np.arctan(x / y))) if abs(y) > 1e-9 else 90.0


def residual(
    volume: Float32[np.ndarray, "z y x"],
    brain: Bool[np.ndarray, "z y x"],
    step_mm: Float[np.ndarray, "2"],
    centre: Float[np.ndarray, "2"],
    angle_deg: float,
    shift_mm: float,
) -> float:
    """Mean |X - X'| in the brain about one line in the slices.

    The line is turned by `angle_deg` from y to x and lies `shift_mm` off `centre`.
    """
    angle = np.radians(angle_deg)
    normal = np.array([-np.sin(angle), np.cos(angle)])  # y x, in mm
    mirror = np.eye(2) - 2 * np.outer(normal, normal)
    matrix = mirror * step_mm / step_mm[:, None]
    offset = centre - matrix @ centre + 2 * shift_mm * normal / step_mm
    matrix_zyx, offset_zyx = np.eye(3), np.concatenate([[0.0], offset])
    matrix_zyx[1:, 1:] = matrix
    mirrored = ndimage.affine_transform(volume, matrix_zyx, offset_zyx, order=1)
    return float(np.abs(volume - mirrored)[brain].mean())
