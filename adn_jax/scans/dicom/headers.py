"""What the headers of DICOM files say, image by image; the pixels are left alone."""

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from jaxtyping import Float
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from adn_jax.errors import one_line

KEYWORDS = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "PatientID",
    "StudyDate",
    "StudyTime",
    "AcquisitionDate",
    "AcquisitionTime",
    "AcquisitionDateTime",
    "ContentDate",
    "ContentTime",
    "Modality",
    "ImageType",
    "SeriesNumber",
    "AcquisitionNumber",
    "InstanceNumber",
    "SeriesDescription",
    "StudyDescription",
    "ProtocolName",
    "BodyPartExamined",
    "ConvolutionKernel",
    "ContrastBolusAgent",
    "PatientPosition",
    "KVP",
    "TemporalPositionIdentifier",
    "RescaleType",
    "RescaleSlope",
    "RescaleIntercept",
    "SliceThickness",
    "PixelSpacing",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "NumberOfFrames",
    "ContrastBolusAgentSequence",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)

FRAME_KEYWORDS = {
    "FrameType": "ImageType",
    "FrameAcquisitionNumber": "AcquisitionNumber",
    "FrameAcquisitionDateTime": "AcquisitionTime",
    "TemporalPositionIndex": "TemporalPositionIdentifier",
}
"""How frames of a multi-frame file call what a classic file says of itself."""

OF_STUDY = {
    *("PatientID", "StudyInstanceUID", "StudyDate", "StudyTime", "StudyDescription"),
}
"""Elements that an archive rewrites, and copies of an image may differ in."""

PREAMBLE = 128

BARE_STARTS = (b"\x02\x00", b"\x08\x00")
"""Group 2 or 8 in little-endian order: old files without preamble start so."""

MOST_FRAMES = 20_000

LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])
"""From DICOM's axes to ours."""


@dataclass(frozen=True)
class Frame:
    """One image of a file: its place in space and what its header says.

    `position` is where the centre of the first pixel lies, `orientation` the
    directions of its rows and columns, both in DICOM's axes (mm, to the patient's left,
    back and head); None if the header does not say.
    """

    path: Path
    index: int
    rows: int
    columns: int
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    pixel_spacing_mm: tuple[float, ...] | None
    thickness_mm: float | None
    rescale: tuple[float, float | None]
    """Slope and intercept from stored values to HU; None: no intercept is told."""
    header: dict[str, str]
    """The remaining elements by keyword; several values are joined by a backslash."""

    @property
    def half_mm(self) -> Float[np.ndarray, "2 3"]:
        """From the centre of the first pixel to the image's, along rows and columns."""
        directions = np.array(self.orientation, float).reshape(2, 3)
        across, down = self.pixel_spacing_mm[::-1] if self.pixel_spacing_mm else (0, 0)
        steps = across * (self.columns - 1), down * (self.rows - 1)
        return directions * np.array(steps)[:, None] / 2

    @property
    def centre_mm(self) -> Float[np.ndarray, "3"]:
        """Where the centre of the image lies, in DICOM's axes."""
        return np.array(self.position, float) + self.half_mm.sum(axis=0)

    def number(self, keyword: str) -> float:
        """An element as a number; 0 where it is none."""
        try:
            return float(self.header.get(keyword, "0"))
        except ValueError:
            return 0.0


@dataclass(frozen=True)
class Headers:
    """The images of a folder, and how many files were left out."""

    frames: tuple[Frame, ...]
    copies: int = 0
    """Images that were there twice: the same SOP instance at the same place with the
    same header (some anonymisers give a whole series, or a study, one instance)."""
    damaged: int = 0
    """Files that start as DICOM but cannot be read."""
    reason: str = ""
    """Name of the first of these, and why it cannot."""


def read_headers(paths: Iterable[Path]) -> Headers:
    """Read the headers of every DICOM image among the files; others are passed over."""
    frames: dict[Any, Frame] = {}
    copies = damaged = 0
    reason = ""
    for path in paths:
        if not starts_as_dicom(path):
            continue
        try:
            found = _read_frames(path)
        except Exception as error:  # whatever is damaged, the other files go on
            damaged += 1
            reason = reason or f"{path.name}: {one_line(error)}"
            continue
        for frame in found:
            name = frame.header.get("SOPInstanceUID") or str(path)
            about = (each for each in frame.header.items() if each[0] not in OF_STUDY)
            place = (name, frame.index, frame.position, *sorted(about))
            copies += place in frames
            frames.setdefault(place, frame)
    return Headers(tuple(frames.values()), copies, damaged, reason)


def starts_as_dicom(path: Path) -> bool:
    """Whether the first bytes are those of a DICOM file, with or without preamble."""
    return has_preamble(path) or _first_bytes(path, 2) in BARE_STARTS


def has_preamble(path: Path) -> bool:
    """Whether a file is DICOM for sure: it says so behind the preamble."""
    return _first_bytes(path, PREAMBLE + 4)[PREAMBLE:] == b"DICM"


def _first_bytes(path: Path, count: int) -> bytes:
    """The first bytes of a file; none if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(count)
    except OSError:
        return b""


def _read_frames(path: Path) -> list[Frame]:
    """The images of one file; none where it holds no pixels (reports, directories)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom tells of every odd value
        dataset = pydicom.dcmread(
            path, stop_before_pixels=True, specific_tags=list(KEYWORDS), force=True
        )
        if not dataset.get("Rows") or not dataset.get("Columns"):
            return []
        header = {
            keyword: _text_of(dataset.get(keyword))
            for keyword in KEYWORDS
            if keyword in dataset and not keyword.endswith("Sequence")
        }
        if not header.get("ContrastBolusAgent"):
            header["ContrastBolusAgent"] = _coded_agent(dataset)
        count = int(dataset.get("NumberOfFrames") or 1)
        if not 1 <= count <= MOST_FRAMES:
            raise ValueError(f"{count} frames")
        groups = [_functional_groups(dataset, index) for index in range(count)]
        return [
            _frame_of(path, index, dataset, header | _said_of_frame(parts[:-1]), parts)
            for index, parts in enumerate(groups)
        ]


def _coded_agent(dataset: Dataset) -> str:
    """The contrast agents that a multi-frame file names by codes."""
    agents = dataset.get("ContrastBolusAgentSequence") or []
    return " ".join(_text_of(agent.get("CodeMeaning", "unnamed")) for agent in agents)


def _said_of_frame(groups: list[Dataset]) -> dict[str, str]:
    """What the functional groups of a frame say, by the keywords of a classic file."""
    return {
        FRAME_KEYWORDS.get(part.keyword, part.keyword): _text_of(part.value)
        for group in reversed(groups)
        for part in group
        if part.keyword in FRAME_KEYWORDS or part.keyword in KEYWORDS
        if part.VR != "SQ"
    }


def _functional_groups(dataset: Dataset, index: int) -> list[Dataset]:
    """Where elements of one frame are looked for, first the most special place.

    A classic file has only itself; a multi-frame file (PS3.3, C.7.6.16) has groups of
    elements a frame, and groups that all frames share.
    """
    places = [dataset]
    for keyword, item in (
        ("SharedFunctionalGroupsSequence", 0),
        ("PerFrameFunctionalGroupsSequence", index),
    ):
        groups = dataset.get(keyword) or []
        if item < len(groups):
            places[:0] = [group[0] for group in sequences(groups[item])]
    return places


def sequences(dataset: Dataset) -> list[Any]:
    """The sequences of a dataset that are not empty."""
    return [part.value for part in dataset if part.VR == "SQ" and part.value]


def _frame_of(
    path: Path,
    index: int,
    dataset: Dataset,
    header: dict[str, str],
    places: list[Dataset],
) -> Frame:
    """One image with its place."""
    thickness = numbers(places, "SliceThickness", 1)
    slope = numbers(places, "RescaleSlope", 1) or (1.0,)
    intercept = numbers(places, "RescaleIntercept", 1)
    return Frame(
        path=path,
        index=index,
        rows=int(dataset.Rows),
        columns=int(dataset.Columns),
        position=numbers(places, "ImagePositionPatient", 3),
        orientation=numbers(places, "ImageOrientationPatient", 6),
        pixel_spacing_mm=numbers(places, "PixelSpacing", 2),
        thickness_mm=thickness[0] if thickness else None,
        rescale=(slope[0] or 1.0, intercept[0] if intercept else None),
        header=header,
    )


def numbers(
    places: list[Dataset], keyword: str, count: int
) -> tuple[float, ...] | None:
    """An element with `count` finite numbers from the first place that has it."""
    for place in places:
        value = place.get(keyword)
        if value is not None and value != "":
            values = value if hasattr(value, "__len__") else [value]
            found = tuple(float(one) for one in values)
            good = len(found) == count and all(math.isfinite(one) for one in found)
            return found if good else None
    return None


def _text_of(value: Any) -> str:
    """A value in one line; several values are joined by a backslash."""
    several = isinstance(value, (list, MultiValue))
    parts = [str(one) for one in value] if several else [str(value or "")]
    return " ".join("\\".join(parts).split())
