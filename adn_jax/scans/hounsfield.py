"""Hounsfield units: are they, and which of them become 0 to 1."""

import numpy as np
from jaxtyping import Bool, Float, Float32, Num
from scipy import ndimage

from adn_jax.errors import UserError

HuVolume = Float[np.ndarray, "z y x"]

STORED_OFFSETS_HU = {
    1024.0: "without the rescale intercept; 1024 taken off, by the brightness of soft "
    "tissue (had it been 1000, all HU would be 24 higher)",
    1000.0: "with 1000 added to HU; 1000 taken off, by the brightness of soft tissue "
    "(had it been 1024, all HU would be 24 lower)",
    32_768.0: "as unsigned numbers around 32,768; 32,768 taken off",
}
"""What some converters leave added to HU, and how it is told."""

MOST_NEGATIVE = 0.001
"""Share of the voxels that interpolation brings below 0 where nothing was."""

SOFT_MIDDLE_HU = 45.0
"""Between the median of soft tissue, 33 HU, and what that is with 24 HU too many."""

LEAST_SOFT_TISSUE = 0.02
"""Share of a head scan's voxels; bone alone puts fewer into so narrow a range."""

FLOOR_HU = -1024.0
"""Padding outside the scanner's field of view is stored lower than any tissue."""

CEILING_HU = 31_000.0
"""Above what even metal has on an extended CT scale."""

UNSIGNED_HU = 65_536.0

PICTURE_RANGE = 255.0
"""From air to bone a head has more; 8-bit pictures and values of 0 to 1 have not."""

LEAST_RANGE_HU = 20.0
"""Clipped HU of a brain span more; shares and standard scores do not."""

LEAST_BACKGROUND = 0.5
"""Share of the volume's faces that one value fills, where there is a background."""

BRAIN_HU = (12.0, 80.0)
"""The median of a brain: water lies below; blood and contrast agent above."""

MOST_AT_END = 0.01
"""Share of the voxels at the lowest or highest value; where values were cut, more."""

ABOVE_GREY_HU = 50.0
"""Grey matter lies below, where hardly any noise is left."""

MOST_BRIGHT = 0.08
"""Share of a stripped scan that is so bright, and nearer its brightest voxel than its
median; of a head, whose bone is the brightest, 0.13 and more."""

FARTHEST_BEYOND = 0.5
"""Of the range to which values were clipped: what splines ring beyond it at most,
where edges of all three directions meet. (Measured: 0.4, of fifth order 0.48.)"""

MOST_BEYOND = 0.08
"""Share of the voxels that splines leave beyond an end. (Measured: 0.05.)"""

RINGING = 0.15
"""Of that range: how far splines ring within bone, which is thin."""

THIN = 4
"""So many times more voxels lie 3 HU below the highest value that a spline made."""

FAR_RINGING_HU = 0.5
"""What is left of it in wide air."""

AIR_HU, SOLID_BONE_HU = -1000.0, 1000.0

BONE_HU = 150.0
"""Bone is brighter, in its rim, too; of soft tissue calcifications are."""

WHITE_RIM_MM, WHITE_RIM_HU = 1.0, 120.0
"""White this near to grey is part bone, part tissue: the brain reaches up to bone.
(Measured on a real head: Dice of the brain mask with that from DICOM 0.99, else 0.97.)
"""

SOLID_AIR_MM = 4.0
"""Black that is at least this wide everywhere is air; specks of black are dark tissue
(CSF and noise below the window)."""


def to_window(
    hu: HuVolume, window_hu: tuple[float, float]
) -> Float32[np.ndarray, "z y x"]:
    """Map the HU window to [0, 1], clipped."""
    low, high = window_hu
    return np.clip((hu - low) / (high - low), 0, 1).astype(np.float32)


def to_hounsfield(
    values: Num[np.ndarray, "..."], clipped: bool = False
) -> tuple[Float32[np.ndarray, "..."], tuple[str, ...]]:
    """HU with the padding set to air, and a sentence on what had to be corrected.

    Voxels that are no number become air. Negative HU that a converter stored without
    sign lie just under 65,536 and are brought back; of these -1 alone is padding. What
    was left added (`STORED_OFFSETS_HU`) is recognised by a scan whose soft tissue is
    near it, without negative values but for padding and what interpolation leaves. Of
    `clipped` values none need be negative.
    """
    hu = np.array(values, np.float32)
    flags = []
    finite = np.isfinite(hu)
    if lost := int(np.sum(~finite)):
        hu[~finite] = FLOOR_HU
        flags.append(f"voxels that were NaN or infinite, set to air: {lost}")
    wrapped = (hu > UNSIGNED_HU + 4 * FLOOR_HU) & (hu < UNSIGNED_HU)
    if wrapped.any() and (hu[wrapped] == UNSIGNED_HU - 1).all():
        hu[wrapped] = FLOOR_HU
        flags.append(f"voxels of 65,535, padding, set to air: {int(wrapped.sum())}")
    elif wrapped.any():
        hu[wrapped] -= UNSIGNED_HU
        flags.append("negative HU were stored without sign; 65,536 taken off")
    told = hu[hu > FLOOR_HU]
    if told.size and np.mean(told < 0) < MOST_NEGATIVE:
        if offset := _added_hu(told):
            hu -= offset
            flags.append(f"values were stored {STORED_OFFSETS_HU[offset]}")
        elif not clipped and hu.min(where=finite, initial=np.inf) >= 0:
            flags.append("no value is negative although air is -1000 HU: are these HU?")
    if high := int(np.sum(hu > CEILING_HU)):
        flags.append(f"voxels above {CEILING_HU:,.0f} HU, cut there: {high}")
    return np.clip(hu, FLOOR_HU, CEILING_HU, out=hu), tuple(flags)


def _added_hu(values: Float32[np.ndarray, " voxels"]) -> float:
    """What was left added to HU (`STORED_OFFSETS_HU`), of voxels that are no padding; 0
    where their soft tissue is near none of it.

    1000 and 1024 are told apart by the median of the soft tissue: what scanners call
    air differs by as much as these do.
    """
    near = [
        offset
        for offset in STORED_OFFSETS_HU
        if _soft_tissue_share(values - offset) > LEAST_SOFT_TISSUE
    ]
    if not {1000.0, 1024.0} & {*near}:
        return near[0] if near else 0.0
    soft = values[(values > 1000) & (values < 1100)]
    return 1024.0 if np.median(soft) - 1000 >= SOFT_MIDDLE_HU else 1000.0


def check_hounsfield(hu: Float32[np.ndarray, "..."], name: str) -> None:
    """Raise `UserError` if the values cannot be HU of a head: a picture, a mask."""
    low, high = float(hu.min()), float(hu.max())
    if low == high:
        raise UserError(
            f"every voxel of {name} is {low:g}, so there is no image; convert the scan "
            "again."
        )
    if high - low <= PICTURE_RANGE and not _is_stripped_brain(hu):
        stated = ""
        if LEAST_RANGE_HU <= high - low < PICTURE_RANGE:
            # the values were cut at their ends, unless splines rang beyond: few so far
            rang = THIN * _count_near(hu, high) < _count_near(hu, high - 3)
            to = "LOW HIGH" if rang else f"{low + 0.0:g} {high:g}"
            stated = (
                ", or, where these are HU that were clipped, say to what: "
                f"--hu-range {to}"
            )
        raise UserError(
            f"the values of {name} go from {low:g} to {high:g}, as in a windowed "
            "picture or a mask; give the CT in Hounsfield units (air -1000, bone over "
            f"300){stated}."
        )


def background_of(hu: Num[np.ndarray, "z y x"]) -> float | None:
    """The one value that fills most of the volume's faces; None: there is none.

    In whole HU: splines ring beside an edge.
    """
    ends = [np.take(hu, end, axis).ravel() for axis in range(3) for end in (0, -1)]
    whole = np.rint(np.concatenate(ends))
    values, counts = np.unique(whole, return_counts=True)
    share = counts.max() / counts.sum()
    return float(values[counts.argmax()]) if share >= LEAST_BACKGROUND else None


def _is_stripped_brain(hu: Num[np.ndarray, "..."]) -> bool:
    """Whether a narrow range can be HU of a brain on a background that was set.

    Pictures have no negative values; clipped ones heap up at their ends, or about them
    where they were resampled since.
    """
    outside = background_of(hu) if hu.ndim == 3 else None
    if outside is None:
        return False
    inside = hu[abs(hu - outside) > 1]  # splines ring beside an edge
    if not inside.size or inside.min() >= 0:
        return False
    median = float(np.median(inside))
    if cut_ends(inside) or not BRAIN_HU[0] <= median <= BRAIN_HU[1]:
        return False
    bright = max((median + inside.max()) / 2, ABOVE_GREY_HU)
    return bool(np.mean(inside > bright) <= MOST_BRIGHT)


def cut_ends(hu: Num[np.ndarray, "voxels"]) -> tuple[float, ...]:
    """The lowest and the highest value, where so many voxels have it that values beyond
    were cut off."""
    ends = (hu.min(), hu.max()) if hu.size else ()
    return tuple(float(end) for end in ends if np.mean(hu == end) > MOST_AT_END)


def outside_hu(hu_range: tuple[float, float] | None) -> float:
    """What fills an image that grows: air, or the lower end to which it was clipped."""
    return FLOOR_HU if hu_range is None else hu_range[0]


def check_hu_range(hu_range: tuple[float, float] | None) -> None:
    """Raise `UserError` unless the two HU to which values were clipped are a range."""
    if hu_range is not None and not -np.inf < hu_range[0] < hu_range[1] < np.inf:
        low, high = hu_range
        raise UserError(
            f"--hu-range is {low:g} {high:g}; the lower HU comes first, then the "
            "higher, -17 80 for instance."
        )


def restore_clipped(
    hu: Float32[np.ndarray, "z y x"],
    hu_range: tuple[float, float],
    pixel_mm: float,
    name: str,
) -> tuple[Float32[np.ndarray, "z y x"], str]:
    """HU of a scan that was clipped to `hu_range`, with bone and air put in again.

    What reaches the upper end is taken for bone, what is solid at the lower end for
    air; a background of another value (a stripped scan's) stays. What a spline left
    beyond the range is cut back to it. Also returns a sentence on it. Raises
    `UserError` if the values do not fit the range.
    """
    low, high = hu_range
    outside = background_of(hu)
    inside = hu[hu != outside] if outside not in (None, low) else hu
    least, most = (float(inside.min()), float(inside.max())) if inside.size else (0, 0)
    within = low - 1 <= least and most <= high + 1
    is_inner = outside is None or low - 1 <= outside <= high + 1
    fits = within or (is_inner and _rings_about(inside, hu_range))
    if not fits or most < (low + high) / 2:
        raise UserError(
            f"the values of {name} go from {least:g} to {most:g}, which is not what "
            f"--hu-range {low:g} {high:g} says; give the HU that they were clipped to, "
            "or leave the option out where they were not."
        )
    white, dark, told = hu >= high, low, "; bone and air were put in"
    if not within:
        beyond = np.mean((inside < low - 1) | (inside > high + 1))
        told = (
            f", and {beyond:.1%} of the voxels lie beyond, from {least:g} to {most:g} "
            "HU, as splines leave them; they were cut back, and bone and air were put "
            "in"
        )
        near = hu >= high - RINGING * (high - low)
        white = ndimage.binary_propagation(white, mask=near)
        dark = low + FAR_RINGING_HU
        hu = np.clip(hu, low, high)
    black = (hu <= dark) & ((hu != outside) | (outside == low))
    filled = with_bone_and_air(hu, white, black, high, pixel_mm)
    return filled, f"values were clipped to {low:g} to {high:g} HU{told}"


def _rings_about(
    values: Float32[np.ndarray, "..."], hu_range: tuple[float, float]
) -> bool:
    """Whether what lies beyond a range can be what a spline leaves beside edges: few
    voxels, not far beyond an end at which values heap up, of which no value is as
    frequent as that end."""
    low, high = hu_range
    far = FARTHEST_BEYOND * (high - low)
    if values.min() < low - far or values.max() > high + far:
        return False
    ends = ((low, values < low - 1, 1), (high, values > high + 1, -1))
    for end, beyond, inwards in ends:
        _, counts = np.unique(np.rint(values[beyond]), return_counts=True)
        is_frequent = counts.max(initial=0) > _count_near(values, end)
        if np.mean(beyond) > MOST_BEYOND or is_frequent:
            return False
        if beyond.any() and not _heaps_up(values, end, inwards):
            return False
    return True


def _heaps_up(values: Num[np.ndarray, "..."], end: float, inwards: int) -> bool:
    """Whether values were cut at an end: more lie there than a little further in."""
    return _count_near(values, end) > _count_near(values, end + 3 * inwards)


def _count_near(values: Num[np.ndarray, "..."], value: float) -> int:
    """How many lie within 1 HU of a value."""
    return int(np.count_nonzero(np.abs(values - value) <= 1))


def with_bone_and_air(
    hu: Float32[np.ndarray, "z y x"],
    white: Bool[np.ndarray, "z y x"],
    black: Bool[np.ndarray, "z y x"],
    white_hu: float,
    pixel_mm: float,
) -> Float32[np.ndarray, "z y x"]:
    """HU where white is bone with a rim of both, and black air where it is solid."""
    filled = hu.copy()
    filled[white] = max(white_hu, WHITE_RIM_HU)
    filled[_without_rim(white, round(WHITE_RIM_MM / pixel_mm))] = SOLID_BONE_HU
    width = max(1, round(SOLID_AIR_MM / pixel_mm))
    solid = ndimage.grey_opening(black.view(np.uint8), (1, width, width))
    filled[solid == 1] = AIR_HU
    return filled


def _without_rim(
    mask: Bool[np.ndarray, "z y x"], pixels: int
) -> Bool[np.ndarray, "z y x"]:
    """A mask without its outermost pixels in each slice."""
    if pixels == 0:
        return mask
    cross = ndimage.generate_binary_structure(2, 1)[None]
    return ndimage.binary_erosion(mask, cross, iterations=pixels, border_value=1)


def _soft_tissue_share(hu: Float32[np.ndarray, "..."]) -> float:
    """Share of the voxels between 10 and 60 HU."""
    return float(np.mean((hu > 10) & (hu < 60)))
