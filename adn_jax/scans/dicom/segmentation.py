"""Labels as DICOM SEG, as 3D Slicer, highdicom and most DICOM stations write them."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
from jaxtyping import Float, UInt8
from pydicom.dataset import Dataset
from pydicom.uid import UID, SegmentationStorage

from adn_jax.errors import UserError, one_line
from adn_jax.io.image import Image, in_order_of
from adn_jax.scans.dicom.headers import LPS_TO_RAS
from adn_jax.scans.dicom.straighten import SliceStack, lies_on_slice

LABEL_MAP = UID("1.2.840.10008.5.1.4.1.1.66.7")
"""Label Map Segmentation Storage, for which pydicom has no name yet."""


class Segment(NamedTuple):
    """What one frame marks of one segment, as a slice with its own place."""

    number: int
    mask: Image


def read_segmentation(
    path: Path, stack: SliceStack, counted: Collection[int]
) -> tuple[UInt8[np.ndarray, "x y z"], dict[int, int]]:
    """1 where a segment that counts is marked, in the order of a stack's slices, and
    how many pixels each segment marks.

    Args:
        path: a DICOM file of a segmentation: binary, fractional (from a half on) or a
            label map.
        stack: the series that it was drawn on, slices as taken.
        counted: numbers of the segments that count.

    Raises:
        UserError: it is no segmentation, or a frame with a marked pixel lies on no
            slice of the series.
    """
    marked = np.zeros(stack.values.shape, np.uint8)
    pixels: dict[int, int] = {}
    for number, frame in _read_segments(path):
        turned = in_order_of(frame, stack.affine)
        found = int(np.count_nonzero(turned.voxels))
        pixels[number] = pixels.get(number, 0) + found
        if not found:
            continue
        z = _slice_of(turned, stack)
        if z is None:
            raise UserError(
                f"{path} marks segment {number} where the scan has no slice; give the "
                "segmentation that was drawn on this series."
            )
        if number in counted:
            marked[:, :, z] |= turned.voxels[:, :, 0]
    return marked, pixels


def _read_segments(path: Path) -> list[Segment]:
    """The frames of a segmentation; `UserError` if it is damaged or another file."""
    try:
        dataset = pydicom.dcmread(path)
        if dataset.SOPClassUID in {SegmentationStorage, LABEL_MAP}:
            return list(segments(dataset))
        found = dataset.SOPClassUID.name
    except Exception as error:  # pydicom raises whatever the damage happens to cause
        raise UserError(
            f"{path} is no readable DICOM file ({one_line(error)}); copy or export it "
            "again."
        ) from error
    raise UserError(
        f"{path} is {found}, no segmentation; give a DICOM SEG or a NIfTI label."
    )


def segments(dataset: Dataset) -> Iterator[Segment]:
    """Every frame, of a label map once for each segment in it."""
    pixels = dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns)
    shared = dataset.get("SharedFunctionalGroupsSequence", [Dataset()])[0]
    whole = float(dataset.get("MaximumFractionalValue", 1))
    by_value = dataset.SOPClassUID == LABEL_MAP
    for values, own in zip(
        pixels, dataset.PerFrameFunctionalGroupsSequence, strict=True
    ):
        affine = _frame_affine(own, shared)
        if by_value:
            found = {int(one): values == one for one in np.unique(values) if one}
        else:
            group = _group_of("SegmentIdentificationSequence", own, shared)
            found = {int(group.ReferencedSegmentNumber): values >= whole / 2}
        for number, mask in found.items():
            one_slice = mask.T[:, :, None].astype(np.uint8)
            yield Segment(number, Image(one_slice, affine, "segmentation"))


def _group_of(name: str, own: Dataset, shared: Dataset) -> Dataset:
    """A functional group of a frame: its own, else that of all frames."""
    return (own if name in own else shared)[name][0]


def _frame_affine(own: Dataset, shared: Dataset) -> Float[np.ndarray, "4 4"]:
    """From a pixel (column, row) of a frame to mm (RAS); the third axis is its normal.

    DICOM PS3.3 C.7.6.2.1.1.
    """
    measures = _group_of("PixelMeasuresSequence", own, shared)
    turn = _group_of("PlaneOrientationSequence", own, shared)
    place = _group_of("PlanePositionSequence", own, shared)
    down_mm, across_mm = map(float, measures.PixelSpacing)
    across, down = np.array(turn.ImageOrientationPatient, float).reshape(2, 3)
    columns = [across * across_mm, down * down_mm, np.cross(across, down)]
    affine = np.eye(4)
    affine[:3, :3] = np.stack(columns, axis=1) * LPS_TO_RAS[:, None]
    affine[:3, 3] = np.array(place.ImagePositionPatient, float) * LPS_TO_RAS
    return affine


def _slice_of(frame: Image, stack: SliceStack) -> int | None:
    """Number of the slice that a frame lies on, to half a voxel; None: on none."""
    if frame.shape != (*stack.values.shape[:2], 1):
        return None
    away = np.linalg.norm(stack.origins_mm - frame.affine[:3, 3], axis=1)
    nearest = int(np.argmin(away))
    return nearest if lies_on_slice(frame, stack, nearest) else None
