"""The volumes of a DICOM folder: their slices in order, and what they show.

A series of a scanner or an archive is what it calls one; it may hold several kinds of
image and several acquisitions. Here a `Series` is one volume of it.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
)

from adn_jax.scans.dicom.headers import Frame, Headers
from adn_jax.scans.dicom.volumes import (
    SliceVolume,
    find_volumes,
    slice_heights,
    slice_normal,
)
from adn_jax.scans.dicom.words import has_contrast, is_head, is_sharp

FEWEST_SLICES = 5

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"

CT_CLASSES = {
    CTImageStorage,
    EnhancedCTImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
}

SAME_ORIENTATION = 0.02

SAME_EDGE = 0.5
"""By how many pixels images of one volume may differ in width."""

LONGEST_MM = 2_500.0

WORDS = {
    "number": "SeriesNumber",
    "description": "SeriesDescription",
    "protocol": "ProtocolName",
    "body_part": "BodyPartExamined",
    "modality": "Modality",
    "image_type": "ImageType",
    "kernel": "ConvolutionKernel",
    "contrast_agent": "ContrastBolusAgent",
}
"""Facts that the header says in words, and their keywords."""

OTHER_UNITS = {"ED", "EDW", "MGML", "OD", "PCT", "Z_EFF"}
"""DICOM's terms for Rescale Type that are no CT numbers (PS3.3 C.11.1.1.2); what else
is written there are words for them, or for nothing."""

KIND = (
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SeriesNumber",
    "SOPClassUID",
    "Modality",
    "SamplesPerPixel",
    "PatientPosition",
    "RescaleType",
)
"""What is the same, word for word, in all images of a volume."""


class Judgement(NamedTuple):
    """What the words of a header tell; None if they do not."""

    original: bool
    localizer: bool
    contrast: bool | None
    head: bool | None
    bone_kernel: bool


@dataclass(frozen=True)
class Series:
    """Slices that lie one above the other, in the order of their positions."""

    frames: tuple[Frame, ...]
    repeated: int = 0
    """Places where further images were left out."""
    left_out: int = 0
    """Images of other acquisitions at these places."""
    is_told_apart: bool = True
    problem: str = ""
    """Why it cannot be used, in words; empty where it can."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What the choice looks at, for the record."""

    @property
    def files(self) -> list[Path]:
        """Every file once, in the order of the slices."""
        return list(dict.fromkeys(frame.path for frame in self.frames))

    @property
    def uid(self) -> str:
        """The series of the scanner that it is, or is a part of."""
        return self.frames[0].header.get("SeriesInstanceUID", "")

    @property
    def is_localizer(self) -> bool:
        """Whether it is a scout view."""
        return _judge(self.frames[0]).localizer

    @property
    def title(self) -> str:
        """Its number and description, for messages."""
        return (
            f"{self.facts['number'] or '?'} ({self.facts['description'] or 'no name'})"
        )


def find_series(headers: Headers) -> list[Series]:
    """Sort images into volumes: by what they show and how, then by where they lie."""
    kinds: dict[Any, list[list[Frame]]] = {}
    for frame in _as_their_series_says(headers.frames):
        groups = kinds.setdefault(kind_of(frame), [])
        group = next((one for one in groups if _is_parallel(frame, one[0])), None)
        if group is None:
            groups.append([frame])
        else:
            group.append(frame)
    return [
        describe(volume)
        for groups in kinds.values()
        for group in groups
        for volume in find_volumes(group)
    ]


def _as_their_series_says(frames: Sequence[Frame]) -> list[Frame]:
    """The images, with what only all of a series together tell of each."""
    series: dict[str, list[Frame]] = {}
    for frame in frames:
        series.setdefault(frame.header.get("SeriesInstanceUID", ""), []).append(frame)
    return [
        replace(frame, header=frame.header | said) if said else frame
        for uid, images in series.items()
        for said in [_said_together(images, uid)]
        for frame in images
    ]


def _said_together(images: Sequence[Frame], uid: str) -> dict[str, str]:
    """The patient's position, which some may leave blank; and no study where each file
    has one of its own: SimpleITK makes one up for each slice unless it is told one."""
    positions = {image.header.get("PatientPosition", "") for image in images} - {""}
    said = {"PatientPosition": positions.pop()} if len(positions) == 1 else {}
    studies = {image.header.get("StudyInstanceUID", "") for image in images}
    if uid and 1 < len(studies) == len({image.path for image in images}):
        said["StudyInstanceUID"] = ""
    return said


def value_unit(frame: Frame) -> str:
    """What the values of an image are, by its Rescale Type; HU where that is blank."""
    return frame.header.get("RescaleType", "").upper() or "HU"


def kind_of(frame: Frame) -> tuple[Any, ...]:
    """What is never mixed in one volume; where words do not tell, that is no kind."""
    told = _judge(frame)
    return (
        *(frame.rows, frame.columns),
        *(frame.header.get(name, "") for name in KIND if name != "RescaleType"),
        value_unit(frame),
        *(told.original, told.localizer, told.bone_kernel),
        *(told.contrast is True, told.head is False),
    )


def _is_parallel(frame: Frame, other: Frame) -> bool:
    """Whether two images have their pixels in the same directions and distances."""
    edge = SAME_EDGE / max(frame.rows, frame.columns)
    return (
        _is_close(frame.orientation, other.orientation, atol=SAME_ORIENTATION)
        and _is_close(frame.pixel_spacing_mm, other.pixel_spacing_mm, rtol=edge)
        and (frame.position is None) == (other.position is None)
    )


def _is_close(
    one: Sequence[float] | None,
    other: Sequence[float] | None,
    rtol: float = 0.0,
    atol: float = 0.0,
) -> bool:
    """Whether numbers differ by little, or both are missing."""
    if one is None or other is None:
        return one is other
    return bool(np.allclose(one, other, rtol=rtol, atol=atol))


def _judge(frame: Frame) -> Judgement:
    """What the words of an image's header tell."""
    names = (
        "ImageType",
        "ConvolutionKernel",
        "ContrastBolusAgent",
        "SeriesDescription",
        "BodyPartExamined",
        "ProtocolName",
        "StudyDescription",
    )
    return _judge_words(*(frame.header.get(name, "") for name in names))


@cache
def _judge_words(
    image_type: str,
    kernel: str,
    agent: str,
    description: str,
    body_part: str,
    protocol: str,
    study: str,
) -> Judgement:
    """What words tell; cached, as a thousand images say the same."""
    types = image_type.upper().split("\\")
    return Judgement(
        original=not {"SECONDARY", "DERIVED"} & {*types},
        localizer="LOCALIZER" in types,
        contrast=has_contrast(agent, description, protocol),
        head=is_head(description, body_part, protocol, study),
        bone_kernel=is_sharp(kernel, description),
    )


def describe(volume: SliceVolume) -> Series:
    """Gather what the choice looks at."""
    frames = volume.frames
    first = frames[0]
    placed = first.position is not None and first.orientation is not None
    said = {name: first.header.get(keyword, "") for name, keyword in WORDS.items()}
    told = _judge(first)
    facts = said | {
        "slices": len(frames),
        "thickness_mm": first.thickness_mm,
        "distance_mm": _usual_distance(frames) if placed else None,
        "axial": bool(placed and abs(slice_normal(first)[2]) > np.cos(np.pi / 4)),
        "original": told.original,
        "contrast": told.contrast,
        "head": told.head,
        "bone_kernel": told.bone_kernel,
        "volumes": volume.volumes,
    }
    problem = _problem_of(frames, facts, placed, told.localizer)
    return Series(
        frames,
        volume.repeated,
        volume.left_out,
        volume.is_told_apart,
        problem,
        facts,
    )


def is_ct(frame: Frame) -> bool:
    """Whether an image is CT: by its class where no modality is said, or "other"."""
    modality = frame.header.get("Modality", "")
    by_class = frame.header.get("SOPClassUID", "") in CT_CLASSES
    return modality == "CT" or (by_class and modality in {"", "OT"})


def _usual_distance(frames: Sequence[Frame]) -> float | None:
    """Median distance between neighbouring slices in mm."""
    distances = np.diff(slice_heights(frames))
    return round(float(np.median(distances)), 3) if len(distances) else None


def _problem_of(
    frames: Sequence[Frame], facts: dict[str, Any], placed: bool, localizer: bool
) -> str:
    """Why a series is no CT volume; empty where it is."""
    frame = frames[0]
    if not is_ct(frame):
        return f"it is {facts['modality'] or 'of unknown modality'}, no CT"
    if frame.header.get("SamplesPerPixel", "1") not in {"", "1"}:
        return "it is a colour picture"
    if (unit := value_unit(frame)) in OTHER_UNITS:
        return f"its values are no Hounsfield units but {unit} (Rescale Type)"
    if localizer:
        return "it is a localiser"
    if frame.header.get("SOPClassUID", "").startswith(SECONDARY_CAPTURE):
        return "it is a secondary capture"
    if not placed:
        return "its images have no place in space"
    if not _is_square(frame):
        return "its rows and columns are not at right angles"
    if frame.pixel_spacing_mm is None or min(frame.pixel_spacing_mm) <= 0:
        return "its voxel size is not given"
    if _is_part_of_a_file(frames):
        return "its file holds several volumes"
    if facts["slices"] == 1 and facts["volumes"] >= FEWEST_SLICES:
        return f"its {facts['volumes']} images all have the same Image Position"
    if facts["slices"] < FEWEST_SLICES:
        return f"it has fewer than {FEWEST_SLICES} slices ({facts['slices']})"
    if _is_scattered(frames):
        return "its slices lie farther apart than a body is large"
    return ""


def _is_part_of_a_file(frames: Sequence[Frame]) -> bool:
    """Whether files hold other images besides; they can only be read as a whole."""
    counts = Counter(frame.path for frame in frames)
    return any(counts[frame.path] < frame.number("NumberOfFrames") for frame in frames)


def _is_square(frame: Frame) -> bool:
    """Whether rows and columns have directions of length 1 at right angles."""
    directions = np.array(frame.orientation, float).reshape(2, 3)
    return np.allclose(directions @ directions.T, np.eye(2), atol=SAME_ORIENTATION)


def _is_scattered(frames: Sequence[Frame]) -> bool:
    """Whether slices lie aside of each other, or farther apart than a body is long."""
    first = frames[0]
    heights = slice_heights(frames)
    moved = np.array([frame.position for frame in frames], float) - first.position
    aside = moved - np.outer(heights - heights[0], slice_normal(first))
    assert first.pixel_spacing_mm is not None  # see `_problem_of`
    width = max(first.columns, first.rows) * max(first.pixel_spacing_mm)
    return bool(np.ptp(heights) > LONGEST_MM or abs(aside).max() > width)
