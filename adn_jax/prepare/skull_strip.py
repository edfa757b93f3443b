"""The brain in a head CT: soft tissue that bone surrounds, followed slice by slice.

Slices of a stroke CT are 3 to 10 mm thick, so everything is done in the slice, with
radii in mm; only the tracing and the filling of holes go from slice to slice. What was
found and is no brain is refused with the reason.
"""

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from scipy import ndimage

from adn_jax.errors import UserError
from adn_jax.prepare.resample import (
    box_around,
    resample,
    shift_origin,
    shrink,
    spacing_of,
)
from adn_jax.prepare.skull_gaps import (
    MARGIN_MM,
    Gap,
    disk,
    find_gap,
    rays_that_meet,
    wall_of,
)
from adn_jax.scans.hounsfield import AIR_HU, BRAIN_HU, background_of, cut_ends

SLICE_CM2 = (60.0, 320.0)
"""The largest slice: about 70 in a newborn, 130 to 200 in an adult."""

LARGEST_ML = 3000.0

RIM_AT_BONE = 0.6
"""Share of the rim, in the slice, that has bone beside it: 0.98 and more in heads."""

BESIDE_MM = 4.0

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

START_CM2 = 15.0
"""The largest slice of a brain is larger than this, eroded."""

CANAL_CM2 = 5.0
"""Below the foramen magnum the canal is smaller than this, eroded."""

REGION_CM2 = 1.0
"""Smaller regions of a slice, eroded, are no brain: air cells, marrow, orbit."""

OVERLAP = 0.5
"""Share of a region that must lie under or over the brain of the slice before."""


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
    if _is_stripped(small, spacing):
        extent = _own_extent(hu)
        check_size(extent, spacing_of(affine))
        _check_median(hu, extent)
        return extent.astype(np.uint8), (STRIPPED, *_cut_flags(hu[extent]))
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
        coarse = _enlarge(coarse, small_affine, hu.shape, affine)
    return with_rim(hu, coarse).astype(np.uint8), flags


def _is_stripped(
    hu: Float[np.ndarray, "z y x"], spacing_mm: tuple[float, float, float]
) -> bool:
    """Whether a scan was stripped before: one value outside, and no shell of bone."""
    extent = _tissue_of(hu)
    if extent is None or not extent.any():
        return False
    inner = ndimage.binary_erosion(fill_holes(extent), disk(RIM_MM, spacing_mm[1:]))
    thick = 2 * round(RIM_MM / spacing_mm[0]) + 1
    inner = ndimage.minimum_filter1d(inner, thick, axis=0)
    return bool(((hu > BONE_HU) & inner).sum() <= MOST_BONE * extent.sum())


def _cut_flags(hu: Float[np.ndarray, "voxels"]) -> tuple[str, ...]:
    """A sentence where the values of a stripped scan were clipped, too."""
    ends = " and ".join(f"{end:g}" for end in cut_ends(hu))
    return (f"values of the stripped scan were cut off at {ends} HU",) if ends else ()


def _own_extent(hu: Float[np.ndarray, "z y x"]) -> Bool[np.ndarray, "z y x"]:
    """All that a stripped scan holds, without holes."""
    extent = _tissue_of(hu)
    return fill_holes(_largest_part(ndimage.binary_closing(extent, BESIDE) | extent))


def _tissue_of(hu: Float[np.ndarray, "z y x"]) -> Bool[np.ndarray, "z y x"] | None:
    """What differs from the background and is no fat; None: no one value surrounds it.

    Voxels that interpolation mixed with a background of air or less are left out.
    """
    outside = background_of(hu)
    if outside is None:
        return None
    return (np.abs(hu - outside) > 1) & ((hu > FAT_HU) | (outside > FAT_HU))


def _brain_in_skull(
    hu: Float[np.ndarray, "z y x"],
    bone: Bool[np.ndarray, "z y x"],
    spacing_mm: tuple[float, float, float],
) -> Bool[np.ndarray, "z y x"]:
    """The brain without its rim inside a closed skull; `UserError` if it is none."""
    box = _bounding_box(bone)
    found = np.zeros(hu.shape, bool)
    found[box] = _brain_in_box(hu[box], bone[box], spacing_mm[1:])
    check_is_brain(hu, found, bone, spacing_mm)
    return found


def _brain_behind(
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
    found = _brain_in_skull(wide, np.pad(bone, around) | wall, spacing_mm)
    return found[tuple(slice(m, m + n) for m, n in zip(margins, hu.shape, strict=True))]


def _enlarge(
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


def _bounding_box(mask: Bool[np.ndarray, "z y x"]) -> tuple[slice, ...]:
    """The slices that hold every true voxel; `UserError` where there is none."""
    if not mask.any():
        raise UserError(
            f"no voxel is above {BONE_HU:.0f} HU, so there is no skull; "
            "give a head CT in Hounsfield units, or say with --hu-range to which HU "
            "the values were clipped."
        )
    return box_around(mask, 0)


def _brain_in_box(
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


def _largest_part(mask: Bool[np.ndarray, "z y x"]) -> Bool[np.ndarray, "z y x"]:
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
    filled = fill_holes(_largest_part(grown))
    outline = ndimage.binary_dilation(filled, BESIDE)
    rim = outline & ~ndimage.binary_erosion(outline, BESIDE)
    part_bone = rim & (hu > FAT_HU) & (hu < HALF_BONE_HU)
    found[box] = _largest_part((filled & (hu <= BONE_HU)) | part_bone)
    return found


def trace(
    core: Bool[np.ndarray, "z y x"], spacing_mm: tuple[float, float]
) -> Bool[np.ndarray, "z y x"]:
    """Follow the largest region of any slice up and down.

    A region of the next slice is kept where most of it lies over or under the brain of
    the slice before: the throat, under the skull base, does not.
    """
    voxel_cm2 = spacing_mm[0] * spacing_mm[1] / 100
    regions = [regions_of(one) for one in core]
    largest = [max(sizes, default=0) * voxel_cm2 for _, sizes in regions]
    start = int(np.argmax(largest))
    if largest[start] < START_CM2:
        raise UserError(
            "no brain was found (nowhere does bone surround soft tissue of its size); "
            "give a CT of a whole head in Hounsfield units."
        )
    kept = np.zeros_like(core)
    labels, sizes = regions[start]
    kept[start] = labels == 1 + int(np.argmax(sizes))
    up, down = range(start + 1, len(core)), range(start - 1, -1, -1)
    for order, end_cm2 in ((up, REGION_CM2), (down, CANAL_CM2)):
        before = kept[start]
        for z in order:
            before = follow(*regions[z], before, REGION_CM2 / voxel_cm2)
            if before.sum() * voxel_cm2 < end_cm2:
                break
            kept[z] = before
    return kept


def regions_of(
    mask: Bool[np.ndarray, "y x"],
) -> tuple[Int[np.ndarray, "y x"], Int[np.ndarray, " regions"]]:
    """Connected regions of a slice, numbered from 1, and their sizes in voxels."""
    labels, _ = ndimage.label(mask)
    return labels, np.bincount(labels.ravel())[1:]


def follow(
    labels: Int[np.ndarray, "y x"],
    sizes: Int[np.ndarray, " regions"],
    before: Bool[np.ndarray, "y x"],
    smallest: float,
) -> Bool[np.ndarray, "y x"]:
    """The regions of a slice that mostly overlap the mask of the slice before.

    `smallest` is the least size in voxels.
    """
    shared = np.bincount(labels[before], minlength=len(sizes) + 1)[1:]
    wanted = (shared >= OVERLAP * sizes) & (sizes >= smallest)
    return np.isin(labels, 1 + np.flatnonzero(wanted))


def check_is_brain(
    hu: Float[np.ndarray, "z y x"],
    mask: Bool[np.ndarray, "z y x"],
    bone: Bool[np.ndarray, "z y x"],
    spacing_mm: tuple[float, float, float],
) -> None:
    """Raise `UserError` where size, surroundings or values are not those of a brain."""
    check_size(mask, spacing_mm)
    share = rim_at_bone(mask, bone, (spacing_mm[1], spacing_mm[2]))
    if share < RIM_AT_BONE:
        raise UserError(
            f"only {share:.0%} of the rim of the largest organ inside bone lies beside "
            f"bone; a brain's does to {RIM_AT_BONE:.0%} and more; give a CT of a head, "
            "not of another part of the body."
        )
    _check_median(hu, mask)


def check_size(
    mask: Bool[np.ndarray, "z y x"], spacing_mm: tuple[float, float, float]
) -> None:
    """Raise `UserError` for an area or a volume that no brain has."""
    voxel_cm2 = spacing_mm[1] * spacing_mm[2] / 100
    largest_cm2 = float(mask.sum(axis=(1, 2)).max() * voxel_cm2)
    volume_ml = float(mask.sum() * voxel_cm2 * spacing_mm[0] / 10)
    if not SLICE_CM2[0] <= largest_cm2 <= SLICE_CM2[1] or volume_ml > LARGEST_ML:
        raise UserError(
            f"what lies inside the bone has {largest_cm2:.0f} cm² in its largest slice "
            f"and {volume_ml:.0f} mL; a brain has {SLICE_CM2[0]:.0f} to "
            f"{SLICE_CM2[1]:.0f} cm² and at most {LARGEST_ML:.0f} mL; check that voxel "
            "sizes are in mm, and give a CT of a whole head."
        )


def _check_median(
    hu: Float[np.ndarray, "z y x"], mask: Bool[np.ndarray, "z y x"]
) -> None:
    """Raise `UserError` where the median is not that of a brain in HU."""
    median = float(np.median(hu[mask]))
    if not BRAIN_HU[0] <= median <= BRAIN_HU[1]:
        raise UserError(
            f"the median inside the skull is {round(median)} HU; a brain has 20 to 50; "
            "give a CT of a head (not of a phantom filled with water) in Hounsfield "
            "units."
        )


def rim_at_bone(
    mask: Bool[np.ndarray, "z y x"],
    bone: Bool[np.ndarray, "z y x"],
    spacing_mm: tuple[float, float],
) -> float:
    """Share of the mask's rim voxels with bone within `BESIDE_MM` in the slice."""
    rim = mask & ~ndimage.binary_erosion(mask, disk(0.0, spacing_mm), border_value=1)
    beside = ndimage.binary_dilation(bone, disk(BESIDE_MM, spacing_mm))
    return float(beside[rim].mean()) if rim.any() else 0.0
