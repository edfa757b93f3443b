"""One scan becomes one prepared case, and results go back to the scan's own grid."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Num, UInt8
from scipy import ndimage

from adn_jax.config import PrepareSettings
from adn_jax.data.cases import PreparedCase
from adn_jax.datasets.raw import TISSUES, CaseInput
from adn_jax.errors import UserError
from adn_jax.io.image import Image, nearest_ras
from adn_jax.prepare.quality import (
    measure_lesion,
    measure_quality,
    measure_registration,
)
from adn_jax.prepare.resample import (
    box_around,
    centred_affine,
    fill_beyond,
    resample,
    shift_origin,
    spacing_of,
)
from adn_jax.prepare.skull_strip import find_brain
from adn_jax.prepare.tissue import atlas_tissue, strongest_tissue
from adn_jax.scans.hounsfield import to_window
from adn_jax.scans.read import RawScan, onto_scan

RIM = 2
"""Voxels kept around the brain, so that interpolation at its edge is the same."""

BRIGHTEST_HU = 90.0
"""Fresh blood reaches this; what is brighter in the rim is part bone."""

LEAST_SOFT = 0.05
"""Share of a prepared voxel that soft voxels must cover, to take their mean HU."""


@dataclass(frozen=True)
class Head:
    """A scan in HU with its brain mask, axes flipped and permuted to be nearest RAS."""

    hu: Float32[np.ndarray, "z y x"]
    brain: UInt8[np.ndarray, "z y x"]
    affine: Float[np.ndarray, "4 4"]
    flags: tuple[str, ...] = ()
    """What is doubtful about the mask, a sentence each."""


@dataclass(frozen=True)
class Grid:
    """Where the voxels of the prepared grid lie."""

    shape: tuple[int, int, int]
    affine: Float[np.ndarray, "4 4"]


def strip_scan(given: CaseInput) -> Head:
    """The given brain mask, else the one found; `UserError` where there is none."""
    hu, affine = nearest_ras(given.scan.image)
    if given.brain is None:
        brain, flags = find_brain(hu, affine)
        return Head(hu, brain, affine, flags)
    brain = nearest_ras(onto_scan(given.brain, given.scan))[0] > 0.5
    if not brain.any():
        raise UserError(
            "the given brain mask is empty; mark the brain with 1, or remove the mask."
        )
    return Head(hu, brain.astype(np.uint8), affine)


def prepare_scan(
    given: CaseInput,
    settings: PrepareSettings,
    head: Head | None = None,
    atlas: str = "",
) -> PreparedCase:
    """Prepare one scan in memory: strip, resample, window, label, tissue, quality.

    Args:
        given: the scan in HU and what belongs to it.
        settings: the prepared grid, the HU window, the label rule, the tissue way.
        head: the result of `strip_scan`, where it is at hand.
        atlas: folder of another tissue atlas; empty: ICBM 152.
    """
    head = strip_scan(given) if head is None else head
    affine = centred_affine(head.affine, _centre_of_mass(head), settings)
    grid = Grid(settings.shape, affine)
    hu, brain = _resample_brain(head, grid)
    if not brain.any():
        raise UserError(
            f"no voxel of the prepared grid ({settings.shape} of {settings.spacing_mm} "
            "mm, z y x) is brain; check the scan's voxel size, or take smaller voxels."
        )
    scan, lesion, loss = given.scan, given.lesion, given.pathological
    share = None if lesion is None else in_steps(onto(grid, lesion, scan))
    label = None if share is None else share >= 0.5
    loss = None if loss is None else onto(grid, loss, scan)
    slice_mm = spacing_of(head.affine)[0]
    tissue, overlap = _find_tissue(
        given, settings, hu, brain, label, grid, atlas, slice_mm
    )
    measured = (
        measure_quality(head.hu, head.brain, head.affine, settings.shape, affine),
        measure_lesion(lesion, label, brain, voxel_ml(grid)),
        measure_registration(overlap),
    )
    return PreparedCase(
        name=scan.name,
        volume=np.where(brain, to_window(hu, settings.window_hu), np.float32(0)),
        brain=brain.astype(np.uint8),
        affine=affine,
        geometry=_describe_grids(scan.image, grid),
        lesion=share,
        tissue=tissue,
        pathological=None if loss is None else loss / float(np.ptp(settings.window_hu)),
        quality={name: one for figures, _ in measured for name, one in figures.items()},
        flags=(
            *scan.flags,
            *head.flags,
            *(one for _, flags in measured for one in flags),
        ),
        source=scan.source,
        truth=dict(given.truth),
    )


def voxel_ml(grid: Grid) -> float:
    """Volume of a voxel."""
    return float(np.prod(spacing_of(grid.affine)) / 1000)


def in_steps(share: Float32[np.ndarray, "z y x"]) -> Float32[np.ndarray, "z y x"]:
    """Shares 0 to 1 rounded to 1/255: what a byte of a batch holds."""
    return np.rint(share * 255) / np.float32(255)


def onto(grid: Grid, image: Image, scan: RawScan) -> Float32[np.ndarray, "z y x"]:
    """An image that was drawn on the scan, resampled to the prepared grid."""
    return resample(*nearest_ras(onto_scan(image, scan)), grid.shape, grid.affine)


def _find_tissue(
    given: CaseInput,
    settings: PrepareSettings,
    hu: Float32[np.ndarray, "z y x"],
    brain: Bool[np.ndarray, "z y x"],
    label: Bool[np.ndarray, "z y x"] | None,
    grid: Grid,
    atlas: str,
    slice_mm: float,
) -> tuple[UInt8[np.ndarray, "z y x"] | None, float | None]:
    """Tissue labels on the prepared grid, the way the settings ask for.

    Also returns how well an atlas overlaps the brain; None where none was laid over.
    """
    maps = given.tissue
    if settings.tissue == "atlas":
        return atlas_tissue(hu, brain, grid.affine, slice_mm, label, atlas)
    if settings.tissue == "given" and maps is None:
        raise UserError(
            "no tissue maps are given (tissue/grey.nii.gz, white, csf, or SPM's c1 to "
            "c3); add them, or set tissue to auto, atlas or none."
        )
    if settings.tissue == "none" or maps is None:
        return None, None
    shares = [onto(grid, maps[name], given.scan) for name in TISSUES]
    return strongest_tissue(np.stack(shares), brain), None


def _centre_of_mass(head: Head) -> Float[np.ndarray, "3"]:
    """Centre of the brain mask in mm (x, y, z)."""
    weights = head.brain.astype(bool)
    index = [
        np.average(np.arange(n), weights=weights.sum(axis=others))
        for n, others in zip(weights.shape[::-1], ((0, 1), (0, 2), (1, 2)), strict=True)
    ]
    return (head.affine @ np.array([*index, 1.0]))[:3]


def _resample_brain(
    head: Head, grid: Grid
) -> tuple[Float32[np.ndarray, "z y x"], Bool[np.ndarray, "z y x"]]:
    """HU and brain mask on the prepared grid.

    HU are averaged over the brain's soft voxels only, so that the skull does not shine
    into the rim; a prepared voxel is brain where at least half of it is. One that is
    brain and bone without a soft voxel takes the nearest soft one's HU.
    """
    box = box_around(head.brain, RIM)
    hu, inside = head.hu[box], head.brain[box].astype(np.float32)
    soft = inside * (hu <= BRIGHTEST_HU)
    affine = shift_origin(head.affine, [one.start for one in box])

    def moved(volume: Float32[np.ndarray, "z y x"]) -> Float32[np.ndarray, "z2 y2 x2"]:
        return resample(volume, affine, grid.shape, grid.affine)

    brain, weight = moved(inside) >= 0.5, moved(soft)
    mean = moved(hu * soft) / np.maximum(weight, LEAST_SOFT)
    if (bony := brain & (weight < LEAST_SOFT)).any() and not bony.all():
        nearest = ndimage.distance_transform_edt(
            weight < LEAST_SOFT,
            sampling=spacing_of(grid.affine),
            return_distances=False,
            return_indices=True,
        )
        mean[bony] = mean[tuple(nearest[:, bony])]
    return np.where(brain, mean, np.float32(0)), brain


def _describe_grids(image: Image, grid: Grid) -> dict[str, Any]:
    """Both grids for `case.json`, shapes and affines in NIfTI's order (x, y, z)."""
    return {
        "native_shape": list(image.shape),
        "native_affine": image.affine.tolist(),
        "shape": list(grid.shape[::-1]),
        "affine": grid.affine.tolist(),
    }


def to_native(
    volume: Num[np.ndarray, "z y x"], geometry: Mapping[str, Any]
) -> Float32[np.ndarray, "i j k"]:
    """Bring a volume of the prepared grid onto the scan's own voxels, linearly.

    Args:
        volume: on the prepared grid. Of a mask the probability, or the share of each
            voxel; cut the result at 0.5.
        geometry: `PreparedCase.geometry`.

    Returns:
        Values in the order of the scan's file, for `Image.holding` of the scan.
    """
    affine = np.array(geometry["affine"], float)
    native_affine = np.array(geometry["native_affine"], float)
    native_shape = tuple(geometry["native_shape"][::-1])
    native = resample(
        fill_beyond(volume, affine, native_shape, native_affine),
        affine,
        native_shape,
        native_affine,
        average=False,
    )
    return native.transpose(2, 1, 0)
