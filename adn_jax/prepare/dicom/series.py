"""The series of a DICOM folder: their slices in order, and what they show."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from adn_jax.prepare.dicom.headers import Frame, Headers
from adn_jax.prepare.dicom.straighten import SAME_PLACE_MM

FEWEST_SLICES = 5
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
SAME_ORIENTATION = 0.02
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

HEAD_WORDS = re.compile(
    r"HEAD|BRAIN|SKULL|CRANI|CEREB|NEURO|STROKE|KOPF|SCH[AÄ]E?DEL|\bCCT\b|NCCT|T[EÊ]TE"
)
OTHER_WORDS = re.compile(
    r"NECK|SPINE|CHEST|THORA|LUNG|ABDOM|PELVI|HEART|CARDI|CAROTI|HALS|KNEE|SHOULDER"
)
CONTRAST_WORDS = re.compile(
    r"CTA\b|CTA_|ANGIO|CONTRAST|\bC\+|POST.?C|ENHANCED|VENOUS|ARTERIAL|CTP\b|CTP_|PERF|"
    r"BOLUS|\bMIP\b"
)
WITHOUT_WORDS = re.compile(
    r"UNENHANCED|NON.?ENHANCED|\b(NON?|PRE)[ _.-]*CON[A-Z]*|"
    r"(WITHOUT|\bW/?O)\b( ?CON[A-Z]*)?"
)
"""Taken off before contrast is looked for: what is said may go on, "and with"."""
BOTH_WORDS = re.compile(r"W/ ?WO\b|W/?O ?(AND|&) ?W\b|\bW ?(AND|&) ?W/?O")
NATIVE_WORDS = re.compile(r"NATIV|NCCT|PLAIN|\bC-")
BONE_WORDS = re.compile(r"BONE|KNOCHEN|LUNG|EDGE|SHARP|PETROUS|INNER.?EAR")
NO_AGENT = {"", "NONE", "NO", "N", "0", "OFF"}
SHARPEST_SOFT_KERNEL = 49
"""Siemens's kernels H10 to H49, J30 to J49 and so on show soft tissue."""
SHARP_CANON_KERNELS = (range(30, 40), range(50, 60), range(80, 90))
"""FC30 to FC39 bone, FC50 to FC59 lung, FC80 to FC89 high resolution."""


@dataclass(frozen=True)
class Series:
    """Slices that lie one above the other, in the order of their positions."""

    frames: tuple[Frame, ...]
    repeated: int = 0
    """Places that hold more than one image; the first one of each is kept."""
    volumes: int = 1
    """Most images at one place."""
    problem: str = ""
    """Why it cannot be used, in words; empty where it can."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What the choice looks at, for the record."""

    @property
    def files(self) -> list[Path]:
        """Every file once, in the order of the slices."""
        return list(dict.fromkeys(frame.path for frame in self.frames))

    @property
    def title(self) -> str:
        """Its number and description, for messages."""
        return (
            f"{self.facts['number'] or '?'} ({self.facts['description'] or 'no name'})"
        )


def find_series(headers: Headers) -> list[Series]:
    """Sort images into series by UID, size and orientation."""
    groups: list[list[Frame]] = []
    for frame in headers.frames:
        group = next((one for one in groups if belongs(frame, one[0])), None)
        if group is None:
            groups.append([frame])
        else:
            group.append(frame)
    return [describe(*ordered(group)) for group in groups]


def belongs(frame: Frame, other: Frame) -> bool:
    """Whether two images are slices of one series."""
    if series_key(frame) != series_key(other):
        return False
    for one, two in (
        (frame.orientation, other.orientation),
        (frame.pixel_spacing_mm, other.pixel_spacing_mm),
    ):
        if (one is None) != (two is None):
            return False
        if one is not None and not np.allclose(one, two, atol=SAME_ORIENTATION):
            return False
    return (frame.position is None) == (other.position is None)


def series_key(frame: Frame) -> tuple[Any, ...]:
    """What all images of a series have in common, word for word."""
    names = ("SeriesInstanceUID", "SeriesNumber", "Modality", "SamplesPerPixel")
    return (frame.rows, frame.columns, *(frame.header.get(name, "") for name in names))


def ordered(frames: Sequence[Frame]) -> tuple[tuple[Frame, ...], int, int]:
    """One image a place, from the first slice to the last.

    Returns the images, how many places hold several, and the most at one place. Of
    several the first taken is kept: without contrast, where a bolus follows.
    """
    if frames[0].position is None or frames[0].orientation is None:
        return tuple(frames), 0, 1
    heights = slice_heights(frames)
    taken = [
        (round(float(height) / SAME_PLACE_MM), *order_of(frame), index)
        for index, (frame, height) in enumerate(zip(frames, heights, strict=True))
    ]
    places: list[list[int]] = []
    last = None
    for place, *_, index in sorted(taken):
        if last is not None and place - last <= 1:
            places[-1].append(index)
        else:
            places.append([index])
        last = place
    kept = tuple(
        frames[min(place, key=lambda i: (*order_of(frames[i]), i))] for place in places
    )
    counts = [len(place) for place in places]
    return kept, sum(count > 1 for count in counts), max(counts)


def order_of(frame: Frame) -> tuple[float, float]:
    """When an image was taken, as far as its header tells."""
    return frame.number("AcquisitionNumber"), frame.number("InstanceNumber")


def slice_normal(frame: Frame) -> Float[np.ndarray, "3"]:
    """Direction at a right angle to a slice (DICOM's axes), to the head where axial."""
    rows, columns = np.array(frame.orientation, float).reshape(2, 3)
    normal = np.cross(rows, columns)
    return normal * (np.sign(normal[np.argmax(abs(normal))]) or 1.0)


def slice_heights(frames: Sequence[Frame]) -> Float[np.ndarray, " slices"]:
    """Distance of each slice along their normal, in mm."""
    return np.array([frame.position for frame in frames], float) @ slice_normal(
        frames[0]
    )


def describe(frames: tuple[Frame, ...], repeated: int, volumes: int) -> Series:
    """Gather what the choice looks at."""
    first = frames[0]
    placed = first.position is not None and first.orientation is not None
    said = {name: first.header.get(keyword, "") for name, keyword in WORDS.items()}
    kinds = said["image_type"].upper().split("\\")
    description, protocol, part = (
        said[name].upper() for name in ("description", "protocol", "body_part")
    )
    study = first.header.get("StudyDescription", "").upper()
    facts = said | {
        "slices": len(frames),
        "thickness_mm": first.thickness_mm,
        "distance_mm": usual_distance(frames) if placed else None,
        "axial": bool(placed and abs(slice_normal(first)[2]) > np.cos(np.pi / 4)),
        "original": not {"SECONDARY", "DERIVED"} & set(kinds),
        "contrast": has_contrast(said["contrast_agent"], description, protocol),
        "head": is_head(description, part, protocol, study),
        "bone_kernel": is_sharp(said["kernel"], description),
        "volumes": volumes,
    }
    problem = problem_of(frames, facts, placed, kinds)
    return Series(frames, repeated, volumes, problem, facts)


def usual_distance(frames: Sequence[Frame]) -> float | None:
    """Median distance between neighbouring slices in mm."""
    distances = np.diff(slice_heights(frames))
    return round(float(np.median(distances)), 3) if len(distances) else None


def problem_of(
    frames: Sequence[Frame], facts: dict[str, Any], placed: bool, kinds: Sequence[str]
) -> str:
    """Why a series is no CT volume; empty where it is."""
    frame = frames[0]
    if facts["modality"] != "CT":
        return f"it is {facts['modality'] or 'of unknown modality'}, no CT"
    if frame.header.get("SamplesPerPixel", "1") not in {"", "1"}:
        return "it is a colour picture"
    if "LOCALIZER" in kinds:
        return "it is a localiser"
    if frame.header.get("SOPClassUID", "").startswith(SECONDARY_CAPTURE):
        return "it is a secondary capture"
    if not placed:
        return "its images have no place in space"
    if not is_square(frame):
        return "its rows and columns are not at right angles"
    if frame.pixel_spacing_mm is None or min(frame.pixel_spacing_mm) <= 0:
        return "its voxel size is not given"
    if facts["slices"] < FEWEST_SLICES:
        return f"it has fewer than {FEWEST_SLICES} slices ({facts['slices']})"
    if facts["volumes"] > 1 and any(one.index for one in frames):
        return "its file holds several volumes"
    if is_scattered(frames):
        return "its slices lie farther apart than a body is large"
    return ""


def is_square(frame: Frame) -> bool:
    """Whether rows and columns have directions of length 1 at right angles."""
    directions = np.array(frame.orientation, float).reshape(2, 3)
    return np.allclose(directions @ directions.T, np.eye(2), atol=SAME_ORIENTATION)


def is_scattered(frames: Sequence[Frame]) -> bool:
    """Whether slices lie aside of each other, or farther apart than a body is long."""
    first = frames[0]
    heights = slice_heights(frames)
    moved = np.array([frame.position for frame in frames], float) - first.position
    aside = moved - np.outer(heights - heights[0], slice_normal(first))
    width = max(first.columns, first.rows) * max(first.pixel_spacing_mm)
    return bool(np.ptp(heights) > LONGEST_MM or abs(aside).max() > width)


def has_contrast(agent: str, *texts: str) -> bool:
    """Whether a contrast agent is named, or the first text that tells speaks of one."""
    if agent.strip().upper() not in NO_AGENT:
        return True
    told = (speaks_of_contrast(text) for text in texts)
    return next((one for one in told if one is not None), False)


def speaks_of_contrast(text: str) -> bool | None:
    """Whether a text says with or without contrast; None: it says nothing."""
    if NATIVE_WORDS.search(text):
        return False
    rest = WITHOUT_WORDS.sub(" ", text)
    if BOTH_WORDS.search(text) or CONTRAST_WORDS.search(rest):
        return True
    return None if rest == text else False


def is_head(*texts: str) -> bool | None:
    """Whether it is a head by the first text that tells; None where none does."""
    for text in texts:
        if HEAD_WORDS.search(text):
            return True
        if OTHER_WORDS.search(text):
            return False
    return None


def is_sharp(kernel: str, description: str) -> bool:
    """Whether a reconstruction is made for bone or lung, by its kernel or its name."""
    kernel = kernel.upper()
    if BONE_WORDS.search(kernel):
        return True
    if canon := re.match(r"FC(\d\d)", kernel):
        return any(int(canon[1]) in sharp for sharp in SHARP_CANON_KERNELS)
    if siemens := re.match(r"[A-Z]{1,2}(\d\d)", kernel):
        return int(siemens[1]) > SHARPEST_SOFT_KERNEL
    return kernel in {"D", "E", "L", "YB", "YC", "YD"} or bool(
        BONE_WORDS.search(description)
    )
