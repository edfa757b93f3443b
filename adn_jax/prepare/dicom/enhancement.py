"""Contrast agent seen in the images: vessels are brighter than any blood without it."""

import numpy as np
from jaxtyping import Bool, Float32
from scipy import ndimage

BLOOD_HU = 100.0
"""Above what blood shows without contrast agent, clots included."""
SOFTEST_BONE_HU = 700.0
"""What is brighter anywhere is bone or metal, which vessels never reach."""
NOISE_MM = 1.0
SMALLEST_MM2 = 4.0
AROUND_MM = 3.0
SURROUNDED = 0.9
"""Least share of soft tissue around a vessel; islands of bone have air or bone."""
MOST_PIXELS = 0.05
"""Largest share of the image that a vessel takes."""


def vessels_ml(hu: Float32[np.ndarray, "x y z"], voxel_mm: tuple[float, ...]) -> float:
    """Volume of bright spots within soft tissue: vessels with contrast agent, mostly.

    Calcifications count, too: compare scans of one patient, or expect some mL.

    Args:
        hu: slices, which may have gaps.
        voxel_mm: size of a voxel (x, y, z), z the distance of the slices.
    """
    count = sum(vessel_pixels(one, voxel_mm[:2]) for one in hu.transpose(2, 0, 1))
    return float(count * np.prod(voxel_mm) / 1000)


def vessel_pixels(hu: Float32[np.ndarray, "x y"], pixel_mm: tuple[float, float]) -> int:
    """Pixels of a slice in bright spots with soft tissue all around."""
    smooth = ndimage.gaussian_filter(hu, [NOISE_MM / size for size in pixel_mm])
    soft = (smooth > 0) & (smooth <= BLOOD_HU)
    spots, _ = ndimage.label(smooth > BLOOD_HU, np.ones((3, 3)))
    reach = max(1, round(AROUND_MM / max(pixel_mm)))
    total = 0
    for index, place in enumerate(ndimage.find_objects(spots), start=1):
        around = tuple(
            slice(max(0, one.start - reach), one.stop + reach) for one in place
        )
        spot = spots[around] == index
        size = int(spot.sum())
        small = size * np.prod(pixel_mm) < SMALLEST_MM2
        if small or size > MOST_PIXELS * hu.size:
            continue
        if smooth[around][spot].max() <= SOFTEST_BONE_HU:
            total += size * is_surrounded(spot, soft[around], reach)
    return total


def is_surrounded(
    spot: Bool[np.ndarray, "a b"], soft: Bool[np.ndarray, "a b"], reach: int
) -> bool:
    """Whether there is soft tissue all around a spot, but for the pixels next to it."""
    ring = ndimage.binary_dilation(spot, np.ones((3, 3)), iterations=reach) & ~spot
    return bool(soft[ring].mean() >= SURROUNDED)
