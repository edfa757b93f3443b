"""What deserves a look in a prepared case: figures, and a sentence for each odd one."""

import csv
import io
from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from scipy import ndimage

from adn_jax.data.cases import CaseFacts
from adn_jax.io.files import write_text
from adn_jax.io.image import Image
from adn_jax.io.paths import Place
from adn_jax.prepare.quality_table import BRIGHT_HU, DARK_HU, METAL_HU, flags_of
from adn_jax.prepare.resample import box_around, shrink, spacing_of

Quality = dict[str, Any]

Flags = tuple[str, ...]

Volume = Float[np.ndarray, "z y x"]

Mask = Bool[np.ndarray, "z y x"]

Affine = Float[np.ndarray, "4 4"]

RIM_MM = 5.0
"""Left out at the edge of the mask: partial volume, bone, sinuses."""

NOISE_SMOOTHING_MM = 3.0

NOISE_SLICES = 16

DETAIL_MM = (0.0, 1.0, 1.0)
"""Bright and dark spots are looked for in voxels of this size (z y x)."""

METAL_MARGIN_MM = 10.0

LEAST_KEPT = 0.7
"""Share of an infarct's volume that its label on the prepared grid should have."""

WORKING_MM = (6.0, 4.0, 4.0)
"""Voxels are averaged to about this size (z y x) first: noise goes, sulci go."""

FEWEST_VOXELS = 100

WINDOW_HU = (0.0, 80.0)

STEPS = ((8.0, 6.0), (4.0, 3.0), (2.0, 1.5), (1.0, 0.75))
"""Degrees and mm by which the search walks around the best line so far."""

WALK = tuple((turn, shift) for turn in (-1, 0, 1) for shift in (-1, 0, 1))


def measure_quality(
    hu: Volume,
    brain: UInt8[np.ndarray, "z y x"],
    affine: Affine,
    grid_shape: tuple[int, int, int],
    grid_affine: Affine,
) -> tuple[Quality, Flags]:
    """Figures of a stripped scan on its own grid, and a sentence for each odd one.

    The names end in the unit; shares are from 0 to 1.
    """
    inside = brain.astype(bool)
    quality = {
        **_measure_geometry(inside, affine),
        "brain_outside_grid": share_outside(inside, affine, grid_shape, grid_affine),
        **_measure_values(hu, inside, affine),
    }
    return quality, flags_of(quality)


def _measure_geometry(inside: Mask, affine: Affine) -> Quality:
    """Size of the brain and of its voxels, and how large it is at the scan's ends."""
    spacing = spacing_of(affine)
    areas_cm2 = inside.sum(axis=(1, 2)) * spacing[1] * spacing[2] / 100
    return {
        "brain_ml": float(inside.sum() * np.prod(spacing) / 1000),
        "slices": int(inside.shape[0]),
        "slice_mm": round(spacing[0], 4),
        "pixel_mm": round(float(np.sqrt(spacing[1] * spacing[2])), 4),
        "brain_height_mm": float(np.count_nonzero(areas_cm2) * spacing[0]),
        "first_slice_cm2": float(areas_cm2[0]),
        "last_slice_cm2": float(areas_cm2[-1]),
    }


def _measure_values(hu: Volume, inside: Mask, affine: Affine) -> Quality:
    """What the CT numbers are like, in the brain and around it."""
    margins = [int(np.ceil(METAL_MARGIN_MM / size)) for size in spacing_of(affine)]
    box = box_around(inside, margins)
    near, brain = hu[box].astype(np.float32, copy=False), inside[box]
    return {
        "brain_hu": float(np.median(near[brain])),
        "air_hu": float(np.percentile(hu[::2, ::4, ::4], 1)),
        "noise_hu": noise_hu(near, brain, affine),
        "asymmetry_hu": mirror_residual_hu(near, brain, affine),
        **_measure_spots(near, brain, affine),
    }


def noise_hu(
    hu: Float32[np.ndarray, "z y x"], brain: Mask, affine: Affine
) -> float | None:
    """Robust standard deviation of what is finer than 3 mm in the slice.

    From the median of the absolute value, so that the edges of sulci and ventricles
    weigh little. None where the mask is no wider than its rim.
    """
    spacing = spacing_of(affine)
    filled = np.flatnonzero(brain.any(axis=(1, 2)))
    chosen = filled[np.linspace(0, len(filled) - 1, NOISE_SLICES).astype(int)]
    slices = np.clip(hu[np.unique(chosen)], -100, 200)
    sigma = (0.0, *(NOISE_SMOOTHING_MM / size for size in spacing[1:]))
    fine = slices - ndimage.gaussian_filter(slices, sigma, truncate=2.5)
    core = inner(brain[np.unique(chosen)], spacing)
    if not core.any():
        return None
    return float(1.4826 * np.median(np.abs(fine[core])))


def _measure_spots(
    hu: Float32[np.ndarray, "z y x"], brain: Mask, affine: Affine
) -> Quality:
    """Volume of what no plain brain has: contrast agent, air and streaks, metal."""
    small, grid = shrink(hu, affine, DETAIL_MM)
    mask = shrink(brain.astype(np.float32), affine, DETAIL_MM)[0] > 0.5
    spacing = spacing_of(grid)
    core, voxel_ml = inner(mask, spacing), float(np.prod(spacing) / 1000)
    around = ndimage.maximum_filter(mask, (1, *_width_of(METAL_MARGIN_MM, spacing)))
    return {
        "bright_ml": voxel_ml * int(np.count_nonzero(small[core] > BRIGHT_HU)),
        "dark_ml": voxel_ml * int(np.count_nonzero(small[core] < DARK_HU)),
        "metal_ml": voxel_ml * int(np.count_nonzero(small[around] > METAL_HU)),
    }


def inner(mask: Mask, spacing: tuple[float, float, float]) -> Mask:
    """The mask without its rim in the slice."""
    size = (1, *_width_of(RIM_MM, spacing))
    return ndimage.minimum_filter(mask, size, mode="constant")


def _width_of(radius_mm: float, spacing: tuple[float, float, float]) -> list[int]:
    """Voxels (y x) of a window that reaches `radius_mm` from its middle."""
    return [2 * round(radius_mm / size) + 1 for size in spacing[1:]]


def measure_registration(overlap: float | None) -> tuple[Quality, Flags]:
    """Dice of the registered atlas and the brain mask; None: nothing was registered."""
    quality = {} if overlap is None else {"registration_overlap": overlap}
    return quality, flags_of(quality)


def measure_lesion(
    native: Image | None,
    prepared: Mask | None,
    brain: Mask,
    prepared_voxel_ml: float,
) -> tuple[Quality, Flags]:
    """Volume of the labelled infarct, and whether it lies in the brain and the grid."""
    if native is None or prepared is None:
        return {}, ()
    voxel_ml = abs(np.linalg.det(native.affine[:3, :3])) / 1000
    volume_ml = float(np.count_nonzero(native.voxels) * voxel_ml)
    outside = float(np.mean(~brain[prepared])) if prepared.any() else 0.0
    prepared_ml = float(np.count_nonzero(prepared) * prepared_voxel_ml)
    quality = {
        "lesion_ml": volume_ml,
        "lesion_prepared_ml": prepared_ml,
        "lesion_outside_brain": outside,
    }
    if volume_ml > 0 and not prepared.any():
        return quality, ("the labelled infarct is lost on the prepared grid",)
    flags = flags_of(quality)
    if prepared_ml < LEAST_KEPT * volume_ml:
        kept = f"{prepared_ml:.1f} of {volume_ml:.1f} mL"
        flags += (f"of the labelled infarct {kept} are on the prepared grid",)
    return quality, flags


def share_outside(
    inside: Mask, affine: Affine, grid_shape: tuple[int, int, int], grid_affine: Affine
) -> float:
    """Share of the brain that lies outside the prepared grid, at 1 mm."""
    every = [max(1, int(1 / size)) for size in spacing_of(affine)]
    counted = inside[tuple(slice(None, None, step) for step in every)]
    index = (np.argwhere(counted) * every)[:, ::-1]
    to_grid = np.linalg.inv(grid_affine) @ affine
    there = index @ to_grid[:3, :3].T + to_grid[:3, 3]
    within = (there >= -0.5) & (there <= np.array(grid_shape[::-1]) - 0.5)
    return float(1 - within.all(axis=1).mean())


def write_quality_table(path: Place, cases: Iterable[CaseFacts]) -> None:
    """Write `quality.csv`: a row a case, its figures and its flags."""
    rows = [
        {"case": case.name, **case.quality, "flags": "; ".join(case.flags)}
        for case in cases
    ]
    columns = dict.fromkeys(name for row in rows for name in row if name != "flags")
    text = io.StringIO()
    table = csv.DictWriter(text, [*columns, "flags"], lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_text(path, text.getvalue())


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
