"""Is it a brain that was found? A reason for everything that is not."""

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from adn_jax.errors import UserError
from adn_jax.prepare.trace import disk
from adn_jax.scans.hounsfield import BRAIN_HU

SLICE_CM2 = (60.0, 320.0)
"""The largest slice: about 70 in a newborn, 130 to 200 in an adult."""
LARGEST_ML = 3000.0
RIM_AT_BONE = 0.6
"""Share of the rim, in the slice, that has bone beside it: 0.98 and more in heads."""
BESIDE_MM = 4.0


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
    check_median(hu, mask)


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


def check_median(
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
