"""Lesion labels: checked, and reduced to infarct or not."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Num, UInt8

from adn_jax.errors import UserError
from adn_jax.io.image import Image, in_order_of, onto_voxels
from adn_jax.scans.dicom.segmentation import read_segmentation
from adn_jax.scans.dicom.straighten import as_stack, straighten_mask
from adn_jax.scans.read import RawScan, onto_scan

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
        straight = straighten_mask(replace(scan.taken, values=marked))
        return scan.image.holding(straight, "lesion label")
    upright = in_order_of(scan.image, np.eye(4))
    marked = read_segmentation(path, as_stack(upright), infarct_labels)
    return onto_voxels(upright.holding(marked, "lesion label"), scan.image)


def infarct_mask(
    label: Image, infarct_labels: Sequence[int]
) -> UInt8[np.ndarray, "x y z"]:
    """1 where the label counts as infarct, in the image's own axis order.

    Raises `UserError` for values that are neither 0 to 5 nor among `infarct_labels`.
    """
    values = np.rint(label.voxels)
    off = ~np.isclose(label.voxels, values, rtol=0, atol=ROUNDING)  # NaN is off, too
    check_values(np.where(off, label.voxels, values), infarct_labels, "lesion label")
    return np.isin(values, infarct_labels).astype(np.uint8)


def check_values(
    values: Num[np.ndarray, "..."], infarct_labels: Sequence[int], what: str
) -> None:
    """Raise `UserError` for a label value of unknown meaning: neither one of AISD's nor
    one that is said to be infarct, as 255 in masks of 0 and 255."""
    known = np.isin(values, [*range(LARGEST_LABEL + 1), *infarct_labels])
    if wrong := np.unique(values[~known]).tolist():
        rule = ", ".join(map(str, infarct_labels))
        advice = (
            f"if {wrong[0]:g} is infarct, name it in --infarct-labels"
            if wrong[0] > 0 and wrong[0] % 1 == 0
            else "give whole numbers, drawn and not interpolated"
        )
        raise UserError(
            f"the {what} holds the value {wrong[0]:g}; known are 0 to {LARGEST_LABEL} "
            f"and what counts as infarct ({rule}); {advice}."
        )
