"""Lesion labels: checked, and reduced to infarct or not."""

from collections.abc import Sequence

import nibabel as nib
import numpy as np
from jaxtyping import UInt8

from adn_jax.data.nifti import read_voxels
from adn_jax.errors import UserError

LARGEST_LABEL = 5
"""AISD's labels: 0 background, 1 remote, 2 clear acute, 3 blurred acute, 4 invisible
acute, 5 general infarct."""

GRID_TOLERANCE_VOXELS = 0.5


def check_same_grid(image: nib.Nifti1Image, scan: nib.Nifti1Image, what: str) -> None:
    """Raise `UserError` where an image does not lie on the scan's voxels."""
    if image.shape != scan.shape:
        raise UserError(
            f"the {what} has shape {image.shape} and the scan {scan.shape}; "
            "give one that was drawn on this scan."
        )
    ends = np.array([[0, 0, 0, 1], [*(np.array(scan.shape) - 1), 1]]).T
    apart = np.linalg.inv(scan.affine) @ image.affine @ ends - ends
    if np.abs(apart).max() > GRID_TOLERANCE_VOXELS:
        raise UserError(
            f"the {what} has another affine than the scan (they lie up to "
            f"{np.abs(apart).max():.1f} voxels apart); give one that was drawn on this "
            "scan."
        )


def native_label(
    label: nib.Nifti1Image, scan: nib.Nifti1Image, infarct_labels: Sequence[int]
) -> nib.Nifti1Image:
    """Infarct or not on the scan's grid; `UserError` for another grid or odd values."""
    check_same_grid(label, scan, "lesion label")
    return nib.Nifti1Image(infarct_mask(label, infarct_labels), scan.affine)


def infarct_mask(
    label: nib.Nifti1Image, infarct_labels: Sequence[int]
) -> UInt8[np.ndarray, "x y z"]:
    """1 where the label counts as infarct, in the image's own axis order.

    Raises `UserError` for values that are not the integers 0 to 5.
    """
    values = read_voxels(label, np.float32)
    found = np.unique(values)
    if wrong := [v for v in found.tolist() if v not in range(LARGEST_LABEL + 1)]:
        raise UserError(
            f"the lesion label holds the value {wrong[0]:g}; labels are the integers 0 "
            f"to {LARGEST_LABEL}, of which {list(infarct_labels)} count as infarct."
        )
    return np.isin(values, infarct_labels).astype(np.uint8)
