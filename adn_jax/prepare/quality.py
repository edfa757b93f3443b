"""What deserves a look in a prepared case: figures, flags, a picture."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from jaxtyping import Bool, Float, UInt8
from matplotlib.image import imsave
from scipy import ndimage

from adn_jax.data.cases import CaseFacts
from adn_jax.data.nifti import read_voxels
from adn_jax.prepare.resample import spacing_of
from adn_jax.prepare.window import hounsfield_flags
from adn_jax.runtime.files import atomic_path, write_text

USUAL_BRAIN_ML = (900.0, 1900.0)
LARGEST_SLICE_MM = 10.0
CUT_CM2 = 20.0
"""A brain that is still this large in the first or last slice goes on outside it."""
LESION_OUTSIDE = 0.1
MOSAIC_COLUMNS = 8
MOSAIC_MM = 1.0
CONTOUR_RGB = (255, 60, 60)


def measure_quality(
    hu: Float[np.ndarray, "z y x"],
    brain: UInt8[np.ndarray, "z y x"],
    affine: Float[np.ndarray, "4 4"],
    grid_shape: tuple[int, int, int],
    grid_affine: Float[np.ndarray, "4 4"],
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Figures of a stripped scan on its own grid, and a sentence for each odd one."""
    spacing = spacing_of(affine)
    inside = brain.astype(bool)
    areas_cm2 = inside.sum(axis=(1, 2)) * spacing[1] * spacing[2] / 100
    quality = {
        "brain_ml": float(inside.sum() * np.prod(spacing) / 1000),
        "slices": int(hu.shape[0]),
        "spacing_mm": [round(size, 4) for size in spacing],
        "brain_height_mm": float(np.count_nonzero(areas_cm2) * spacing[0]),
        "brain_hu_median": float(np.median(hu[inside])),
        "brain_outside_grid": share_outside(inside, affine, grid_shape, grid_affine),
    }
    return quality, (
        *hounsfield_flags(hu, inside),
        *geometry_flags(quality, areas_cm2),
    )


def geometry_flags(
    quality: dict[str, Any], areas_cm2: Float[np.ndarray, " z"]
) -> tuple[str, ...]:
    """What is odd about the size and place of the brain, a sentence each."""
    low, high = USUAL_BRAIN_ML
    checks = {
        f"the brain mask holds {quality['brain_ml']:.0f} mL instead of {low:.0f} to "
        f"{high:.0f}": not low <= quality["brain_ml"] <= high,
        f"{quality['brain_outside_grid']:.0%} of the brain lies outside the prepared "
        "grid": quality["brain_outside_grid"] > 0.005,
        f"slices are {quality['spacing_mm'][0]:.1f} mm apart": (
            quality["spacing_mm"][0] > LARGEST_SLICE_MM
        ),
        "the scan starts inside the brain": areas_cm2[0] > CUT_CM2,
        "the scan ends inside the brain": areas_cm2[-1] > CUT_CM2,
    }
    return tuple(sentence for sentence, odd in checks.items() if odd)


def measure_lesion(
    native: nib.Nifti1Image | None,
    prepared: Bool[np.ndarray, "z y x"] | None,
    brain: Bool[np.ndarray, "z y x"],
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Volume of the labelled infarct, and whether it lies in the brain and the grid."""
    if native is None or prepared is None:
        return {}, ()
    voxel_ml = abs(np.linalg.det(native.affine[:3, :3])) / 1000
    volume_ml = float(np.count_nonzero(read_voxels(native, np.uint8)) * voxel_ml)
    outside = float(np.mean(~brain[prepared])) if prepared.any() else 0.0
    quality = {"lesion_ml": volume_ml, "lesion_outside_brain": outside}
    if volume_ml > 0 and not prepared.any():
        return quality, ("the labelled infarct is lost on the prepared grid",)
    if outside > LESION_OUTSIDE:
        return quality, (f"{outside:.0%} of the infarct lies outside the brain mask",)
    return quality, ()


def share_outside(
    inside: Bool[np.ndarray, "z y x"],
    affine: Float[np.ndarray, "4 4"],
    grid_shape: tuple[int, int, int],
    grid_affine: Float[np.ndarray, "4 4"],
) -> float:
    """Share of the brain's voxels whose centre lies outside the prepared grid."""
    index = np.argwhere(inside)[:, ::-1]
    to_grid = np.linalg.inv(grid_affine) @ affine
    there = index @ to_grid[:3, :3].T + to_grid[:3, 3]
    within = (there >= -0.5) & (there <= np.array(grid_shape[::-1]) - 0.5)
    return float(1 - within.all(axis=1).mean())


def write_quality_table(path: Path, cases: Iterable[CaseFacts]) -> None:
    """Write `quality.csv`: a row a case, its figures and its flags."""
    rows = [
        {"case": case.name, **case.quality, "flags": "; ".join(case.flags)}
        for case in cases
    ]
    columns = dict.fromkeys(name for row in rows for name in row)
    text = io.StringIO()
    table = csv.DictWriter(text, list(columns), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_text(path, text.getvalue())


def write_mosaic(
    path: Path,
    hu: Float[np.ndarray, "z y x"],
    brain: UInt8[np.ndarray, "z y x"],
    affine: Float[np.ndarray, "4 4"],
) -> None:
    """Write a PNG of every slice with the outline of the brain.

    The front is up and the patient's left on the image's right, as in all figures.
    """
    step = max(1, round(MOSAIC_MM / spacing_of(affine)[1]))
    hu, inside = hu[:, ::-step, ::-step], brain[:, ::-step, ::-step].astype(bool)
    grey = np.clip((hu + 20) * (255 / 120), 0, 255).astype(np.uint8)
    picture = np.repeat(grey[..., None], 3, axis=-1)
    picture[inside & ~ndimage.binary_erosion(inside, np.ones((1, 3, 3)))] = CONTOUR_RGB
    with atomic_path(path) as temporary:
        imsave(temporary, tile(picture), format="png")


def tile(slices: UInt8[np.ndarray, "z y x 3"]) -> UInt8[np.ndarray, "rows columns 3"]:
    """Slices side by side, the lowest first, in rows of `MOSAIC_COLUMNS`."""
    missing = -len(slices) % MOSAIC_COLUMNS
    filled = np.pad(slices, ((0, missing), (0, 0), (0, 0), (0, 0)))
    _, height, width, _ = filled.shape
    rows = filled.reshape(-1, MOSAIC_COLUMNS, height, width, 3).transpose(0, 2, 1, 3, 4)
    return rows.reshape(-1, MOSAIC_COLUMNS * width, 3)
