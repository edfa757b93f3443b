"""Hounsfield units: are they, and which of them become 0 to 1."""

import numpy as np
from jaxtyping import Bool, Float, Float32, Num

STORED_OFFSET_HU = 1024.0
"""Some converters leave out the rescale intercept: air is then near 0."""

LEAST_SOFT_TISSUE = 0.02
"""Share of a head scan's voxels; bone alone puts fewer into so narrow a range."""

FLOOR_HU = -1024.0
"""Padding outside the scanner's field of view is stored lower than any tissue."""


def to_window(
    hu: Float[np.ndarray, "z y x"], window_hu: tuple[float, float]
) -> Float32[np.ndarray, "z y x"]:
    """Map the HU window to [0, 1], clipped."""
    low, high = window_hu
    return np.clip((hu - low) / (high - low), 0, 1).astype(np.float32)


def to_hounsfield(
    values: Num[np.ndarray, "..."],
) -> tuple[Float32[np.ndarray, "..."], tuple[str, ...]]:
    """HU with the padding set to air, and a sentence on what had to be corrected.

    An offset of 1024 is recognised by a scan without negative values whose soft tissue
    is near 1024.
    """
    hu = np.array(values, np.float32)
    flags: tuple[str, ...] = ()
    if hu.min() >= 0 and soft_tissue_share(hu - STORED_OFFSET_HU) > LEAST_SOFT_TISSUE:
        hu -= STORED_OFFSET_HU
        flags = ("values were stored without the rescale intercept; 1024 taken off",)
    return np.maximum(hu, FLOOR_HU, out=hu), flags


def soft_tissue_share(hu: Float32[np.ndarray, "..."]) -> float:
    """Share of the voxels between 10 and 60 HU."""
    return float(np.mean((hu > 10) & (hu < 60)))


def hounsfield_flags(
    hu: Float[np.ndarray, "z y x"], brain: Bool[np.ndarray, "z y x"]
) -> tuple[str, ...]:
    """What is odd about the values inside the brain, a sentence each."""
    middle = float(np.median(hu[brain]))
    if not 20 <= middle <= 50:
        return (
            f"the brain's median is {middle:.0f} HU instead of 20 to 50: other units, "
            "contrast or an unusual protocol",
        )
    return ()
