"""The brain in a head CT: soft tissue that bone surrounds, followed slice by slice.

Slices of a stroke CT are 3 to 10 mm thick, so everything is done in the slice, with
radii in mm; only the tracing and the filling of holes go from slice to slice.
"""

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage

from adn_jax.errors import UserError
from adn_jax.prepare.gap import MARGIN_MM, Gap, find_gap, wall_of
from adn_jax.prepare.plausible import check_is_brain, check_median, check_size
from adn_jax.prepare.resample import (
    box_around,
    resample,
    shift_origin,
    shrink,
    spacing_of,
)
from adn_jax.prepare.trace import disk, rays_that_meet, trace
from adn_jax.scans.hounsfield import AIR_HU, background_of, cut_ends

BONE_HU = 150.0
SOFT_HU = (-30.0, 120.0)
"""Brain, blood and CSF, after smoothing; dark from hardened beams, or part bone."""
FAT_HU = -60.0
HALF_BONE_HU = 500.0
"""A voxel half of brain (30 HU) and half of the skull's tables (1,000 HU)."""
SMOOTHING_MM = 1.0
EROSION_MM = 3.0
"""Parts the brain from what touches it through foramina."""
RAYS_TO_BONE = 7
"""Of eight rays in the slice, how many must meet bone for a voxel to lie inside."""
NECK_MM = 6.0
"""What is narrower than twice this is no brain: clefts of the skull base."""
CORNER_MM = 2.5
"""How far a right-angled corner of the brain reaches beyond a disk of `NECK_MM`."""
WORKING_MM = (2.5, 0.9, 0.9)
"""Voxels are averaged to about this size (z y x) first, to be quick."""
MOST_BONE = 0.05
"""Share of a stripped scan that is bone and not of its rim; of a head 0.17 and more."""
RIM_MM = 5.0
"""Bone and ringing at the edge of a stripped scan reach no deeper."""
STRIPPED = (
    "the scan has no skull and one value around the brain: it was stripped before, and "
    "all that is left is taken for the brain"
)
BESIDE = ndimage.generate_binary_structure(2, 1)[None]
"""A voxel and its four neighbours in the slice."""


def find_brain(
    hu: Float[np.ndarray, "z y x"], affine: Float[np.ndarray, "4 4"]
) -> tuple[UInt8[np.ndarray, "z y x"], tuple[str, ...]]:
    """Mask of the brain (with CSF spaces and cerebellum) on the scan's grid.

    `hu` has its slices along z. Nothing above `BONE_HU` is brain, calcifications and
    metal neither, but voxels of the rim that are at least half brain. A scan that was
    stripped before is all brain. Also returns a sentence where that is so, or where the
    skull has a gap. Raises `UserError` where no brain is found.
    """
    small, small_affine = shrink(hu, affine, WORKING_MM)
    spacing = spacing_of(small_affine)
    if is_stripped(small, spacing):
        extent = own_extent(hu)
        check_size(extent, spacing_of(affine))
        check_median(hu, extent)
        return extent.astype(np.uint8), (STRIPPED, *cut_flags(hu[extent]))
    bone = small > BONE_HU
    gap = find_gap(small, bone, spacing, BONE_HU)
    if gap is None:
        coarse, flags = brain_in_skull(small, bone, spacing), ()
    else:
        coarse = brain_behind(gap, small, bone, spacing)
        flags = (
            f"the skull is open over {gap.cm2:.0f} cm² (surgery, a fontanelle or the "
            "edge of the image): where the brain ends there is an estimate",
        )
    if coarse.shape != hu.shape:
        coarse = enlarge(coarse, small_affine, hu.shape, affine)
    return with_rim(hu, coarse).astype(np.uint8), flags


def is_stripped(
    hu: Float[np.ndarray, "z y x"], spacing_mm: tuple[float, float, float]
) -> bool:
    """Whether a scan was stripped before: one value outside, and no shell of bone."""
    extent = tissue_of(hu)
    if extent is None or not extent.any():
        return False
    inner = ndimage.binary_erosion(fill_holes(extent), disk(RIM_MM, spacing_mm[1:]))
    thick = 2 * round(RIM_MM / spacing_mm[0]) + 1
    inner = ndimage.minimum_filter1d(inner, thick, axis=0)
    return bool(((hu > BONE_HU) & inner).sum() <= MOST_BONE * extent.sum())


def cut_flags(hu: Float[np.ndarray, "voxels"]) -> tuple[str, ...]:
    """A sentence where the values of a stripped scan were clipped, too."""
    ends = " and ".join(f"{end:g}" for end in cut_ends(hu))
    return (f"values of the stripped scan were cut off at {ends} HU",) if ends else ()


def own_extent(hu: Float[np.ndarray, "z y x"]) -> Bool[np.ndarray, "z y x"]:
    """All that a stripped scan holds, without holes."""
    extent = tissue_of(hu)
    return fill_holes(largest_part(ndimage.binary_closing(extent, BESIDE) | extent))


def tissue_of(hu: Float[np.ndarray, "z y x"]) -> Bool[np.ndarray, "z y x"] | None:
    """What differs from the background and is no fat; None: no one value surrounds it.

    Voxels that interpolation mixed with a background of air or less are left out.
    """
    outside = background_of(hu)
    if outside is None:
        return None
    return (np.abs(hu - outside) > 1) & ((hu > FAT_HU) | (outside > FAT_HU))


def brain_in_skull(
    hu: Float[np.ndarray, "z y x"],
    bone: Bool[np.ndarray, "z y x"],
    spacing_mm: tuple[float, float, float],
) -> Bool[np.ndarray, "z y x"]:
    """The brain without its rim inside a closed skull; `UserError` if it is none."""
    box = bounding_box(bone)
    found = np.zeros(hu.shape, bool)
    found[box] = brain_in_box(hu[box], bone[box], spacing_mm[1:])
    check_is_brain(hu, found, bone, spacing_mm)
    return found


def brain_behind(
    gap: Gap,
    hu: Float[np.ndarray, "z y x"],
    bone: Bool[np.ndarray, "z y x"],
    spacing_mm: tuple[float, float, float],
) -> Bool[np.ndarray, "z y x"]:
    """The same with a wall in the gaps of the skull, which may lie beside the image."""
    margins = [0, *(int(np.ceil(MARGIN_MM / size)) for size in spacing_mm[1:])]
    around = [(margin, margin) for margin in margins]
    wide = np.pad(hu, around, constant_values=AIR_HU)
    wall = wall_of(gap, wide.shape, spacing_mm, margins)
    found = brain_in_skull(wide, np.pad(bone, around) | wall, spacing_mm)
    return found[tuple(slice(m, m + n) for m, n in zip(margins, hu.shape, strict=True))]


def enlarge(
    mask: Bool[np.ndarray, "z2 y2 x2"],
    affine: Float[np.ndarray, "4 4"],
    to_shape: tuple[int, int, int],
    to_affine: Float[np.ndarray, "4 4"],
) -> Bool[np.ndarray, "z y x"]:
    """A mask of averaged voxels on the scan's; its edge goes on to the scan's edge."""
    margin = 2
    padded = np.pad(mask, margin, mode="edge").astype(np.float32)
    padded_affine = shift_origin(affine, [-margin] * 3)
    return resample(padded, padded_affine, to_shape, to_affine) > 0.5


def bounding_box(mask: Bool[np.ndarray, "z y x"]) -> tuple[slice, ...]:
    """The slices that hold every true voxel; `UserError` where there is none."""
    if not mask.any():
        raise UserError(
            f"no voxel is above {BONE_HU:.0f} HU, so there is no skull; "
            "give a head CT in Hounsfield units, or say with --hu-range to which HU "
            "the values were clipped."
        )
    return box_around(mask, 0)


def brain_in_box(
    hu: Float[np.ndarray, "z y x"],
    bone: Bool[np.ndarray, "z y x"],
    spacing_mm: tuple[float, float],
) -> Bool[np.ndarray, "z y x"]:
    """The brain without its rim in a volume that is cut to the skull's box."""
    sigma = (0.0, SMOOTHING_MM / spacing_mm[0], SMOOTHING_MM / spacing_mm[1])
    dull = np.clip(hu, -BONE_HU, BONE_HU)
    smooth = ndimage.gaussian_filter(dull, sigma, mode="nearest", truncate=2.0)
    soft = (smooth > SOFT_HU[0]) & (smooth < SOFT_HU[1]) & ~bone
    inside = rays_that_meet(bone) >= RAYS_TO_BONE
    core = ndimage.binary_erosion(soft, disk(EROSION_MM, spacing_mm)) & inside
    traced = trace(core, spacing_mm)
    grown = ndimage.binary_dilation(traced, disk(EROSION_MM + 1, spacing_mm)) & soft
    wide = ndimage.binary_opening(grown, disk(NECK_MM, spacing_mm))
    corners = ndimage.binary_dilation(wide, disk(CORNER_MM, spacing_mm)) & grown
    return fill_holes(corners)


def fill_holes(mask: Bool[np.ndarray, "z y x"]) -> Bool[np.ndarray, "z y x"]:
    """Add what the mask encloses in three dimensions: bone of the base stays out."""
    labels, _ = ndimage.label(np.pad(~mask, 1, constant_values=True))
    return (labels != labels[0, 0, 0])[1:-1, 1:-1, 1:-1]


def largest_part(mask: Bool[np.ndarray, "z y x"]) -> Bool[np.ndarray, "z y x"]:
    """The largest connected component."""
    labels, _ = ndimage.label(mask)
    return labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])


def with_rim(
    hu: Float[np.ndarray, "z y x"], coarse: Bool[np.ndarray, "z y x"]
) -> Bool[np.ndarray, "z y x"]:
    """Settle the rim on the scan's own voxels: one voxel of it may be part bone."""
    box = box_around(coarse, 3)
    hu, found = hu[box], np.zeros(coarse.shape, bool)
    tissue = (hu > FAT_HU) & (hu <= BONE_HU)
    grown = ndimage.binary_dilation(coarse[box] & tissue, BESIDE) & tissue
    filled = fill_holes(largest_part(grown))
    outline = ndimage.binary_dilation(filled, BESIDE)
    rim = outline & ~ndimage.binary_erosion(outline, BESIDE)
    part_bone = rim & (hu > FAT_HU) & (hu < HALF_BONE_HU)
    found[box] = largest_part((filled & (hu <= BONE_HU)) | part_bone)
    return found
