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
from adn_jax.io.image import Affine, Image, nearest_ras, spacing_of
from adn_jax.prepare.quality import flags_of, measure_lesion, measure_quality
from adn_jax.prepare.resample import (
    Grid,
    box_around,
    centred_grid,
    fill_beyond,
    resample,
    shift_origin,
    take_nearest,
)
from adn_jax.prepare.skull_strip import GIVEN_MASK, check_is_brain, find_brain
from adn_jax.prepare.tissue import atlas_tissue, given_tissue
from adn_jax.scans.dicom.straighten import SliceStack
from adn_jax.scans.hounsfield import to_window
from adn_jax.scans.read import RawScan, onto_scan

RIM = 2
"""Voxels kept around the brain, so that interpolation at its edge is the same."""
BRIGHTEST_HU = 90.0
"""Fresh blood reaches this; what is brighter in the rim is part bone."""
LEAST_SOFT = 0.05
"""Fraction of a prepared voxel that soft voxels must cover, to take their mean HU."""
MASK_ROUNDING = 0.2
"""By how much values of a resampled mask may lie beyond 0 and 1."""
MOST_LABELS = 64
"""A mask with more values than that is a scan; parcellations have fewer."""
BYTE = np.float32(255)
"""Fractions are rounded to steps of 1/255: what a byte of a batch holds."""


@dataclass(frozen=True)
class StrippedScan:
    """A scan in HU with its brain mask, axes flipped and permuted to be nearest RAS."""

    hu: Float32[np.ndarray, "z y x"]
    brain: UInt8[np.ndarray, "z y x"]
    affine: Affine
    flags: tuple[str, ...] = ()
    """What is doubtful about the mask, a sentence each."""

    @property
    def centre_mm(self) -> Float[np.ndarray, "3"]:
        """Centre of mass of the brain mask (x, y, z)."""
        z, y, x = ndimage.center_of_mass(self.brain)
        return (self.affine @ np.array([x, y, z, 1.0]))[:3]

    def onto(
        self, grid: Grid
    ) -> tuple[Float32[np.ndarray, "z y x"], Bool[np.ndarray, "z y x"]]:
        """HU and brain mask on the prepared grid.

        HU are averaged over the brain's soft voxels only, so that the skull does not
        shine into the rim; a prepared voxel is brain if at least half of it is. One
        that is brain and bone without a soft voxel takes the nearest soft one's HU.
        """
        box = box_around(self.brain, RIM)
        hu, inside = self.hu[box], self.brain[box].astype(np.float32)
        soft = inside * (hu <= BRIGHTEST_HU)
        affine = shift_origin(self.affine, [one.start for one in box])
        brain = resample(inside, affine, grid) >= 0.5
        weight = resample(soft, affine, grid)
        mean = resample(hu * soft, affine, grid) / np.maximum(weight, LEAST_SOFT)
        if (bony := brain & (weight < LEAST_SOFT)).any() and not bony.all():
            soft_hu = take_nearest(mean, weight >= LEAST_SOFT, grid.spacing_mm)
            mean[bony] = soft_hu[bony]
        return np.where(brain, mean, np.float32(0)), brain


def strip_scan(given: CaseInput) -> StrippedScan:
    """The given brain mask, else the one found; `UserError` if there is none."""
    hu, affine = nearest_ras(given.scan.image)
    if given.brain is None:
        brain, flags = find_brain(hu, affine)
        return StrippedScan(hu, brain, affine, flags)
    values = np.nan_to_num(given.brain.voxels)
    low, top = float(values.min()), float(values.max())
    valued = given.brain.holding(values, given.brain.meaning)
    of_scan = top > 1 + MASK_ROUNDING and (
        _is_graded(values) or _shows(valued, given.scan)
    )
    if low < -MASK_ROUNDING or of_scan:
        raise UserError(
            f"the given brain mask has values from {low:g} to {top:g}, as a scan has "
            "(FSL's bet writes the stripped scan, and its mask as *_mask); give a mask "
            "of 0 and 1."
        )
    mask = given.brain.holding((values > 0.5).astype(np.uint8), given.brain.meaning)
    brain = nearest_ras(onto_scan(mask, given.scan, is_mask=True))[0] > 0
    if not brain.any():
        raise UserError(
            "the given brain mask is empty; mark the brain with 1, or remove the mask."
        )
    check_is_brain(hu, brain, spacing_of(affine), of=GIVEN_MASK)
    return StrippedScan(hu, brain.astype(np.uint8), affine)


def _is_graded(values: Num[np.ndarray, "i j k"]) -> bool:
    """Whether there are more values, in a part of the voxels, than labels would be."""
    part = values[::3, ::3, ::2]
    return np.unique(part[part != 0]).size > MOST_LABELS


def _shows(mask: Image, scan: RawScan) -> bool:
    """Whether most values of a mask are those of the scan: it is the stripped scan."""
    values = onto_scan(mask, scan).voxels
    inside = values > 0.5
    return bool(np.mean(np.abs(values - scan.image.voxels)[inside] <= 0.5) > 0.5)


def prepare_scan(
    given: CaseInput,
    settings: PrepareSettings,
    stripped: StrippedScan | None = None,
    atlas: str = "",
) -> PreparedCase:
    """Prepare one scan in memory: strip, resample, window, label, tissue, quality.

    Args:
        given: the scan in HU and what belongs to it.
        settings: the prepared grid, the HU window, the label rule, the tissue way.
        stripped: the result of `strip_scan`, if it is at hand.
        atlas: folder of another tissue atlas; empty: ICBM 152.

    Raises:
        UserError: no brain is found, or none of it lies on the prepared grid; wanted
            tissue maps or their atlas are missing.
    """
    if settings.tissue == "given" and given.tissue is None:
        raise UserError(
            "no tissue maps are given (tissue/grey.nii.gz, white, csf, or SPM's c1 to "
            "c3); add them, or set tissue to auto, atlas or none."
        )
    scan = given.scan
    stripped = strip_scan(given) if stripped is None else stripped
    grid = centred_grid(stripped.affine, stripped.centre_mm, settings)
    hu, brain = stripped.onto(grid)
    if not brain.any():
        raise UserError(
            f"no voxel of the prepared grid ({settings.shape} of {settings.spacing_mm} "
            "mm, z y x) is brain; check the scan's voxel size, or take smaller voxels."
        )

    def moved(image: Image) -> Float32[np.ndarray, "z y x"]:
        """An image that was drawn on the scan, on the prepared grid."""
        return resample(*nearest_ras(onto_scan(image, scan)), grid)

    lesion = label = pathological = None
    if given.lesion is not None:
        lesion = np.rint(moved(given.lesion) * BYTE) / BYTE
        label = lesion >= 0.5
    if given.pathological is not None:
        pathological = moved(given.pathological) / float(np.ptp(settings.window_hu))
    quality = measure_quality(stripped.hu, stripped.brain, stripped.affine, grid)
    quality |= measure_lesion(given.lesion, label, brain, grid.voxel_ml)
    tissue = None
    if settings.tissue == "atlas":
        slice_mm = quality["slice_mm"]
        tissue, overlap = atlas_tissue(hu, brain, grid.affine, slice_mm, label, atlas)
        quality["registration_overlap"] = overlap
    elif given.tissue is not None and settings.tissue != "none":
        maps = np.stack([moved(given.tissue[name]) for name in TISSUES])
        tissue, quality["tissue_share"] = given_tissue(maps, brain)
    return PreparedCase(
        name=scan.name,
        volume=np.where(brain, to_window(hu, settings.window_hu), np.float32(0)),
        brain=brain.astype(np.uint8),
        affine=grid.affine,
        geometry={  # in the axis order of NIfTI
            "native_shape": list(scan.image.shape),
            "native_affine": scan.image.affine.tolist(),
            "shape": list(grid.shape[::-1]),
            "affine": grid.affine.tolist(),
        },
        lesion=lesion,
        tissue=tissue,
        pathological=pathological,
        quality=quality,
        flags=(*scan.flags, *stripped.flags, *flags_of(quality)),
        source=scan.source,
        truth=dict(given.truth),
    )


def to_native(
    volume: Num[np.ndarray, "z y x"], geometry: Mapping[str, Any]
) -> Float32[np.ndarray, "i j k"]:
    """Bring a volume of the prepared grid onto the scan's own voxels, linearly.

    Args:
        volume: on the prepared grid. Of a mask the probability, or the fraction of each
            voxel; cut the result at 0.5.
        geometry: `PreparedCase.geometry`.

    Returns:
        Values in the order of the scan's file, for `Image.holding` of the scan.
    """
    affine = np.array(geometry["affine"], float)
    scan = _scan_grid(geometry)
    filled = fill_beyond(volume, affine, scan)
    return resample(filled, affine, scan, average=False).transpose(2, 1, 0)


def to_slices(
    volume: Num[np.ndarray, "z y x"], geometry: Mapping[str, Any], stack: SliceStack
) -> Float32[np.ndarray, "i j k"]:
    """As `to_native`, onto the slices of a series as they were taken.

    Each pixel is sampled where it lies, not by way of the straightened scan, whose
    linear interpolation would be a second one.
    """
    affine = np.array(geometry["affine"], float)
    scan = _scan_grid(geometry)
    filled = fill_beyond(volume, affine, scan)
    columns, rows, _ = stack.values.shape
    slices = np.empty(stack.values.shape, np.float32, order="F")
    for z, origin in enumerate(stack.origins_mm):
        one = stack.affine.copy()
        one[:3, 3] = origin
        grid = Grid((1, rows, columns), one)
        slices[:, :, z] = resample(filled, affine, grid, average=False)[0].T
    return slices


def _scan_grid(geometry: Mapping[str, Any]) -> Grid:
    """The scan's own grid."""
    shape, affine = geometry["native_shape"], geometry["native_affine"]
    return Grid(tuple(shape[::-1]), np.array(affine, float))
