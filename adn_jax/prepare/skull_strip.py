"""The brain in a head CT: soft tissue that bone surrounds, followed slice by slice.

Slices of a stroke CT are 3 to 10 mm thick, so everything is done in the slice, with
radii in mm; only the tracing and the filling of holes go from slice to slice. What was
found and is no brain is refused with the reason.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from scipy import ndimage

from adn_jax.errors import UserError
from adn_jax.io.image import Affine, spacing_of
from adn_jax.metrics.overlap import Mask, Spacing
from adn_jax.prepare.resample import Grid, box_around, resample, shift_origin, shrink
from adn_jax.prepare.skull_gaps import (
    SLICE_MARGIN_MM,
    Gap,
    disk,
    find_gap,
    rays_that_meet,
)
from adn_jax.scans.hounsfield import (
    AIR_HU,
    BONE_HU,
    BRAIN_HU,
    HuVolume,
    background_of,
    cut_ends,
)

SLICE_CM2 = (60.0, 320.0)
"""The largest slice: about 70 in a newborn, 130 to 200 in an adult."""
LARGEST_BRAIN_ML = 3000.0
RIM_AT_BONE = 0.6
"""Fraction of the rim, in the slice, with bone beside it: 0.98 and more in heads."""
BESIDE_MM = 4.0
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
"""Fraction of a stripped scan that is bone inside its rim; of a head 0.17 and more."""
RINGS = 0.02
"""Voxels beside tissue within 1 HU of the background but not of its value, to those of
tissue: splines leave 0.03 and more, CSF at the rim of a brain is less than 0.01."""
RING_HEIGHT = 0.25
"""Of the tissue's contrast: higher than rings of splines, lower than CSF."""
RIM_MM = 5.0
"""Bone, ringing, partial volume and sinuses at the edge of a brain reach no deeper."""
BESIDE = ndimage.generate_binary_structure(2, 1)[None]
"""A voxel and its four neighbours in the slice."""
START_CM2 = 15.0
"""The largest slice of a brain is larger than this, eroded."""
CANAL_CM2 = 5.0
"""Below the foramen magnum the canal is smaller than this, eroded."""
REGION_CM2 = 1.0
"""Smaller regions of a slice, eroded, are no brain: air cells, marrow, orbit."""
OVERLAP = 0.5
"""Fraction of a region that must lie under or over the brain of the slice before."""


class Region(NamedTuple):
    """How messages call what should be a brain, and what they ask for instead."""

    what: str
    where: str
    wanted: str
    least_cm2: float
    """Of its largest slice."""


IN_SKULL = Region(
    "what lies inside the bone", "skull", "CT of a whole head", SLICE_CM2[0]
)
GIVEN_MASK = Region(
    "the given brain mask",
    "given brain mask",
    "mask of 1 in the brain, and a head CT",
    20.0,  # of a preterm child, whose skull may not be found
)

STRIPPED = (
    "the scan has no skull and one value around the brain: it was stripped before, and "
    "all that is left is taken for the brain"
)


def find_brain(
    hu: HuVolume, affine: Affine
) -> tuple[UInt8[np.ndarray, "z y x"], tuple[str, ...]]:
    """Mask of the brain (with CSF spaces and cerebellum) on the scan's grid.

    `hu` has its slices along z. Nothing above `BONE_HU` is brain, calcifications and
    metal neither, but voxels of the rim that are at least half brain. A scan that was
    stripped before is all brain. Also returns a sentence if that is so, or if the skull
    has a gap. Raises `UserError` if no brain is found.
    """
    small, small_affine = shrink(hu, affine, WORKING_MM)
    spacing = spacing_of(small_affine)
    extent = _extent_of_stripped(hu, small, spacing)
    if extent is not None:
        check_is_brain(hu, extent, spacing_of(affine))
        ends = " and ".join(f"{end:g}" for end in cut_ends(hu[extent]))
        cut = f"values of the stripped scan were cut off at {ends} HU"
        return extent.astype(np.uint8), (STRIPPED, *[cut] * bool(ends))
    bone = small > BONE_HU
    gap = find_gap(small, bone, spacing, BONE_HU)
    if gap is None:
        coarse, flags = _brain_in_skull(small, bone, spacing), ()
    else:
        coarse = _brain_behind(gap, small, bone, spacing)
        flags = (
            f"the skull is open over {gap.cm2:.0f} cm² (surgery, a fontanelle or the "
            "edge of the image): where the brain ends there is an estimate",
        )
    if coarse.shape != hu.shape:
        # its edge goes on to the edge of the scan
        wide = np.pad(coarse, 2, mode="edge").astype(np.float32)
        wide_affine = shift_origin(small_affine, [-2] * 3)
        coarse = resample(wide, wide_affine, Grid(hu.shape, affine)) > 0.5
    return with_rim(hu, coarse).astype(np.uint8), flags


def _extent_of_stripped(
    hu: HuVolume, small: Float[np.ndarray, "z2 y2 x2"], spacing_mm: Spacing
) -> Mask | None:
    """All that a scan holds that was stripped before, without holes; None: it was not.

    One value surrounds such a scan, and it has no shell of bone; `small` is the scan in
    averaged voxels of this spacing.
    """
    extent = _tissue_of(small)
    if extent is None or not extent.any():
        return None
    filled = ndimage.binary_fill_holes(extent)
    inner = ndimage.binary_erosion(filled, disk(RIM_MM, spacing_mm[1:]))
    thick = 2 * round(RIM_MM / spacing_mm[0]) + 1
    inner = ndimage.minimum_filter1d(inner, thick, axis=0)
    if ((small > BONE_HU) & inner).sum() > MOST_BONE * extent.sum():
        return None
    extent = _tissue_of(hu)
    closed = ndimage.binary_closing(extent, BESIDE) | extent
    return ndimage.binary_fill_holes(_largest_part(closed))


def _tissue_of(hu: HuVolume) -> Mask | None:
    """What differs from the background and is no fat; None: no one value surrounds it.

    Voxels that interpolation mixed with a background of air or less are left out, and,
    where splines rang beside one of soft tissue, what is nearer to it than rings are.
    """
    outside = background_of(hu)
    if outside is None:
        return None
    contrast = np.abs(hu - outside)
    tissue = contrast > 1
    if outside <= FAT_HU:
        return tissue & (hu > FAT_HU)
    if tissue.all() or not tissue.any():
        return tissue
    # what 16 bits make of the background is one value, too
    is_near = np.abs(hu - np.median(hu[~tissue])) > 1e-3
    is_near &= ~(tissue | ndimage.binary_closing(tissue, np.ones((3, 3, 3))))
    if np.count_nonzero(is_near) <= RINGS * np.count_nonzero(tissue):
        return tissue
    return contrast > max(1.0, RING_HEIGHT * float(np.median(contrast[tissue])))


def _brain_behind(gap: Gap, hu: HuVolume, bone: Mask, spacing_mm: Spacing) -> Mask:
    """The brain in a skull whose gaps a wall closes, which may lie beside the image."""
    margins = [0, *(int(np.ceil(SLICE_MARGIN_MM / size)) for size in spacing_mm[1:])]
    around = [(margin, margin) for margin in margins]
    wide = np.pad(hu, around, constant_values=AIR_HU)
    wall = gap.wall(wide.shape, spacing_mm, margins)
    found = _brain_in_skull(wide, np.pad(bone, around) | wall, spacing_mm)
    return found[tuple(slice(m, m + n) for m, n in zip(margins, hu.shape, strict=True))]


def _brain_in_skull(hu: HuVolume, bone: Mask, spacing_mm: Spacing) -> Mask:
    """The brain without its rim inside a closed skull; `UserError` if it is none."""
    if not bone.any():
        raise UserError(
            f"no voxel is above {BONE_HU:.0f} HU, so there is no skull; "
            "give a head CT in Hounsfield units, or say with --hu-range to which HU "
            "the values were clipped."
        )
    box, in_slice = box_around(bone, 0), spacing_mm[1:]
    part, skull = hu[box], bone[box]
    smooth = ndimage.gaussian_filter(
        np.clip(part, -BONE_HU, BONE_HU),
        (0.0, *(SMOOTHING_MM / size for size in in_slice)),
        mode="nearest",
        truncate=2.0,
    )
    soft = (smooth > SOFT_HU[0]) & (smooth < SOFT_HU[1]) & ~skull
    inside = rays_that_meet(skull) >= RAYS_TO_BONE
    # Eroded, the brain parts from what it touches through foramina.
    core = ndimage.binary_erosion(soft, disk(EROSION_MM, in_slice)) & inside
    traced = follow_slices(core, in_slice)
    grown = ndimage.binary_dilation(traced, disk(EROSION_MM + 1, in_slice)) & soft
    # Opening takes clefts of the skull base away, and corners, which are brought back.
    wide = ndimage.binary_opening(grown, disk(NECK_MM, in_slice))
    corners = ndimage.binary_dilation(wide, disk(CORNER_MM, in_slice)) & grown
    found = np.zeros(hu.shape, bool)
    # In three dimensions: bone of the base, which slices enclose, stays out.
    found[box] = ndimage.binary_fill_holes(corners)
    check_is_brain(hu, found, spacing_mm, bone)
    return found


def follow_slices(core: Mask, spacing_mm: tuple[float, float]) -> Mask:
    """Follow the largest region of any slice up and down.

    A region of the next slice is kept if most of it lies over or under the brain of the
    slice before: the throat, under the skull base, does not.
    """
    voxel_cm2 = spacing_mm[0] * spacing_mm[1] / 100
    labels = [ndimage.label(one)[0] for one in core]
    sizes = [np.bincount(one.ravel())[1:] for one in labels]
    largest = [one.max(initial=0) * voxel_cm2 for one in sizes]
    start = int(np.argmax(largest))
    if largest[start] < START_CM2:
        raise UserError(
            "no brain was found (nowhere does bone surround soft tissue of its size); "
            "give a CT of a whole head in Hounsfield units."
        )
    kept = np.zeros_like(core)
    kept[start] = labels[start] == 1 + int(np.argmax(sizes[start]))
    up, down = range(start + 1, len(core)), range(start - 1, -1, -1)
    for order, end_cm2 in ((up, REGION_CM2), (down, CANAL_CM2)):
        before = kept[start]
        for z in order:
            shared = np.bincount(labels[z][before], minlength=len(sizes[z]) + 1)[1:]
            large = sizes[z] >= REGION_CM2 / voxel_cm2
            wanted = (shared >= OVERLAP * sizes[z]) & large
            before = np.isin(labels[z], 1 + np.flatnonzero(wanted))
            if before.sum() * voxel_cm2 < end_cm2:
                break
            kept[z] = before
    return kept


def with_rim(hu: HuVolume, coarse: Mask) -> Mask:
    """Settle the rim on the scan's own voxels: one voxel of it may be part bone."""
    box = box_around(coarse, 3)
    hu, found = hu[box], np.zeros(coarse.shape, bool)
    tissue = (hu > FAT_HU) & (hu <= BONE_HU)
    grown = ndimage.binary_dilation(coarse[box] & tissue, BESIDE) & tissue
    filled = ndimage.binary_fill_holes(_largest_part(grown))
    outline = ndimage.binary_dilation(filled, BESIDE)
    rim = outline & ~ndimage.binary_erosion(outline, BESIDE)
    part_bone = rim & (hu > FAT_HU) & (hu < HALF_BONE_HU)
    found[box] = _largest_part((filled & (hu <= BONE_HU)) | part_bone)
    return found


def _largest_part(mask: Mask) -> Mask:
    """The largest connected component."""
    labels, _ = ndimage.label(mask)
    return labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])


def check_is_brain(
    hu: HuVolume,
    mask: Mask,
    spacing_mm: Spacing,
    bone: Mask | None = None,
    of: Region = IN_SKULL,
) -> None:
    """Raise `UserError` unless size, surroundings and values are those of a brain.

    Without `bone`, in a scan that was stripped or whose mask was given, the
    surroundings are not asked for.
    """
    voxel_cm2 = spacing_mm[1] * spacing_mm[2] / 100
    largest_cm2 = float(mask.sum(axis=(1, 2)).max() * voxel_cm2)
    volume_ml = float(mask.sum() * voxel_cm2 * spacing_mm[0] / 10)
    if not of.least_cm2 <= largest_cm2 <= SLICE_CM2[1] or volume_ml > LARGEST_BRAIN_ML:
        raise UserError(
            f"{of.what} has {largest_cm2:.0f} cm² in its largest slice "
            f"and {volume_ml:.0f} mL; a brain has {of.least_cm2:.0f} to "
            f"{SLICE_CM2[1]:.0f} cm² and at most {LARGEST_BRAIN_ML:.0f} mL; check that "
            f"voxel sizes are in mm, and give a {of.wanted}."
        )
    if bone is not None:
        fraction = rim_at_bone(mask, bone, spacing_mm[1:])
        if fraction < RIM_AT_BONE:
            raise UserError(
                f"only {fraction:.0%} of the rim of the largest organ inside bone lies "
                f"beside bone; a brain's does to {RIM_AT_BONE:.0%} and more; give a CT "
                "of a head, not of another part of the body."
            )
    median = float(np.median(hu[mask]))
    if not BRAIN_HU[0] <= median <= BRAIN_HU[1]:
        raise UserError(
            f"the median inside the {of.where} is {round(median)} HU; a brain has 20 "
            f"to 50; give a {of.wanted} (not of a phantom filled with water) in "
            "Hounsfield units."
        )


def rim_at_bone(mask: Mask, bone: Mask, spacing_mm: tuple[float, float]) -> float:
    """Fraction of the mask's rim voxels with bone within `BESIDE_MM` in the slice."""
    rim = mask & ~ndimage.binary_erosion(mask, disk(0.0, spacing_mm), border_value=1)
    beside = ndimage.binary_dilation(bone, disk(BESIDE_MM, spacing_mm))
    return float(beside[rim].mean()) if rim.any() else 0.0
