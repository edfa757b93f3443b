"""Hounsfield units: are they, and which of them become 0 to 1."""

import numpy as np
from jaxtyping import Float, Float32, Num

from adn_jax.errors import UserError

STORED_OFFSET_HU = 1024.0
"""Some converters leave out the rescale intercept: air is then near 0."""

LEAST_SOFT_TISSUE = 0.02
"""Share of a head scan's voxels; bone alone puts fewer into so narrow a range."""

FLOOR_HU = -1024.0
"""Padding outside the scanner's field of view is stored lower than any tissue."""

CEILING_HU = 31_000.0
"""Above what even metal has on an extended CT scale."""

UNSIGNED_HU = 65_536.0

PICTURE_RANGE = 255.0
"""From air to bone a head has more; 8-bit pictures and values of 0 to 1 have not."""


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

    Voxels that are no number become air. Negative HU that a converter stored without
    sign lie just under 65,536 and are brought back. A missing rescale intercept of
    1024 is recognised by a scan without negative values whose soft tissue is near 1024.
    """
    hu = np.array(values, np.float32)
    flags = []
    finite = np.isfinite(hu)
    if lost := int(np.sum(~finite)):
        hu[~finite] = FLOOR_HU
        flags.append(f"voxels that were NaN or infinite, set to air: {lost}")
    wrapped = (hu > UNSIGNED_HU + 4 * FLOOR_HU) & (hu < UNSIGNED_HU)
    if wrapped.any():
        hu[wrapped] -= UNSIGNED_HU
        flags.append("negative HU were stored without sign; 65,536 taken off")
    if high := int(np.sum(hu > CEILING_HU)):
        flags.append(f"voxels above {CEILING_HU:,.0f} HU, cut there: {high}")
    lowest = hu.min(where=finite, initial=np.inf)
    if lowest >= 0 and soft_tissue_share(hu - STORED_OFFSET_HU) > LEAST_SOFT_TISSUE:
        hu -= STORED_OFFSET_HU
        flags.append("values were stored without the rescale intercept; 1024 taken off")
    elif lowest >= 0:
        flags.append("no value is negative although air is -1000 HU: are these HU?")
    return np.clip(hu, FLOOR_HU, CEILING_HU, out=hu), tuple(flags)


def check_hounsfield(hu: Float32[np.ndarray, "..."], name: str) -> None:
    """Raise `UserError` where the values cannot be HU of a head: a picture, a mask."""
    low, high = float(hu.min()), float(hu.max())
    if low == high:
        raise UserError(
            f"every voxel of {name} is {low:g}, so there is no image; convert the scan "
            "again."
        )
    if high - low <= PICTURE_RANGE:
        raise UserError(
            f"the values of {name} go from {low:g} to {high:g}, as in a windowed "
            "picture or a mask; give the CT in Hounsfield units (air -1000, bone over "
            "300)."
        )


def soft_tissue_share(hu: Float32[np.ndarray, "..."]) -> float:
    """Share of the voxels between 10 and 60 HU."""
    return float(np.mean((hu > 10) & (hu < 60)))
