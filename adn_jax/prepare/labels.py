"""Lesion labels: checked, and reduced to infarct or not."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from adn_jax.data.image import Image, in_order_of, onto_voxels
from adn_jax.errors import UserError
from adn_jax.prepare.dicom.segmentation import read_segmentation
from adn_jax.prepare.dicom.straighten import as_stack, straighten
from adn_jax.prepare.read import RawScan, onto_scan

LARGEST_LABEL = 5
"""AISD's labels: 0 background, 1 remote, 2 clear acute, 3 blurred acute, 4 invisible
acute, 5 general infarct."""

ROUNDING = 0.02
"""How far a stored label may be off its integer: half a step of 5 / 255 at most, which
a scan's scale factor or an 8-bit scaling leaves."""


def native_label(label: Image, scan: RawScan, infarct_labels: Sequence[int]) -> Image:
    """Infarct (1) or not (0) on the scan's grid.

    Raises `UserError` for odd values, or where the label was not drawn on the scan.
    """
    infarct = label.holding(infarct_mask(label, infarct_labels), label.meaning)
    placed = onto_scan(infarct, scan)
    return placed.holding((placed.voxels >= 0.5).astype(np.uint8), label.meaning)


def segmented_label(path: Path, scan: RawScan, infarct_labels: Sequence[int]) -> Image:
    """Infarct (1) or not (0) on the scan's grid, of a DICOM segmentation of its series.

    The numbers of segments are the label's values. Raises `UserError` where it is none,
    or was not drawn on the scan.
    """
    if scan.taken is not None:
        marked = read_segmentation(path, scan.taken, infarct_labels)
        straight, _ = straighten(replace(scan.taken, values=marked), 0.0)
        return scan.image.holding((straight >= 0.5).astype(np.uint8), "lesion label")
    upright = in_order_of(scan.image, np.eye(4))
    marked = read_segmentation(path, as_stack(upright), infarct_labels)
    return onto_voxels(upright.holding(marked, "lesion label"), scan.image)


def infarct_mask(
    label: Image, infarct_labels: Sequence[int]
) -> UInt8[np.ndarray, "x y z"]:
    """1 where the label counts as infarct, in the image's own axis order.

    Raises `UserError` for values that are not the integers 0 to 5.
    """
    values = np.rint(label.voxels)
    off = ~np.isclose(label.voxels, values, rtol=0, atol=ROUNDING)  # NaN is off, too
    known = np.isin(values, range(LARGEST_LABEL + 1))
    if wrong := np.unique(label.voxels[off | ~known]).tolist():
        raise UserError(
            f"the lesion label holds the value {wrong[0]:g}; labels are the integers 0 "
            f"to {LARGEST_LABEL}, of which {list(infarct_labels)} count as infarct."
        )
    return np.isin(values, infarct_labels).astype(np.uint8)
