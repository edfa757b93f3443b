"""DICOM to one CT volume: the series is chosen here, dcm2niix reads its pixels.

dcm2niix gives back one volume of the slices as they are. Where they belong is taken
from their positions: a tilted gantry and uneven distances are corrected by
`straighten`, for every kind of pixel.
"""

import re
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mode
from typing import Any

import dcm2niix
import nibabel as nib
import numpy as np
import pydicom
from jaxtyping import Float

from adn_jax.errors import UserError
from adn_jax.io.files import check_fetched, files_below
from adn_jax.io.nifti import LARGEST_VOXEL_COUNT, open_nifti, read_voxels
from adn_jax.scans.dicom.choice import (
    choice_flags,
    choice_record,
    choose,
    told_by_vessels,
    undecided,
    vessels_ml,
)
from adn_jax.scans.dicom.headers import LPS_TO_RAS, Frame, read_headers
from adn_jax.scans.dicom.series import FEWEST_SLICES, Series, find_series
from adn_jax.scans.dicom.straighten import SliceStack
from adn_jax.scans.dicom.volumes import slice_heights
from adn_jax.scans.hounsfield import to_hounsfield

SECONDS, SECONDS_A_SLICE = 30, 1
"""How long dcm2niix may take: a slow network disk reads a slice a second."""

SAMPLE = 24
"""How many slices of a series are looked at for contrast agent."""

GAP = 1.5
"""A gap wider than this many times its neighbours misses slices."""

CORRECTED = re.compile(r"_Tilt|_Eq|_ROI")
"""In the names of what dcm2niix makes besides the slices as they are."""

PLACE_TOLERANCE_MM = 0.5


@dataclass(frozen=True)
class Conversion:
    """The chosen series in HU, its slices still as they were taken."""

    stack: SliceStack
    frames: tuple[Frame, ...]
    """File and frame of each slice of the stack."""
    record: dict[str, Any] = field(default_factory=dict)
    """All series, the choice, and what dcm2niix said."""
    flags: tuple[str, ...] = ()


def convert_dicom(
    path: Path, scratch: Path, series: str = "", where: Path | None = None
) -> Conversion:
    """Choose a CT series of a folder (or of one file) and read it.

    Args:
        path: a folder, searched to its depths and through links, or one multi-frame
            file.
        scratch: an empty folder that outlives the result.
        series: series number or a part of its description; empty: our choice.
        where: what messages call `path`, where it was unpacked from an archive.

    Raises:
        UserError: where there is no CT volume, a file was not fetched, or dcm2niix
            cannot read it.
    """
    where = where or path
    files = files_below(path) if path.is_dir() else [path]
    for file in files:
        check_fetched(file)
    headers = read_headers(files)
    found = find_series(headers)
    if not found:
        raise UserError(
            f"{where} holds no DICOM series with images; give a folder of CT slices or "
            "a NIfTI file."
        )
    rivals = [] if series else undecided(found)
    if rivals:
        vessels = [
            bright_ml(one, scratch / f"rival_{index}", where)
            for index, one in enumerate(rivals)
        ]
        found = told_by_vessels(found, rivals, vessels)
    chosen = choose(found, series, where)
    image, whole, said = _read_slices(chosen, scratch, where)
    stack, frames = _place_slices(image, whole, where)
    values, value_flags = to_hounsfield(stack.values)
    stack = SliceStack(values, stack.affine, stack.origins_mm)
    notes, gaps = _describe_stack(stack)
    record = choice_record(found, chosen, series) | {
        "copies_left_out": headers.copies,
        "geometry": notes,
        "warnings": said,
    }
    damaged = headers.damaged + len(chosen.files) - len(whole.files)
    flags = choice_flags(found, chosen, damaged)
    flags += _turned_flags(frames) + gaps + value_flags
    return Conversion(stack, frames, record, flags)


def bright_ml(series: Series, scratch: Path, where: Path) -> float:
    """Volume of bright vessels in a sample of the slices; 0 where they are damaged."""
    frames = series.frames
    if len(series.files) == len(frames):
        count = min(len(frames), SAMPLE)
        frames = [frames[i] for i in np.linspace(0, len(frames) - 1, count).astype(int)]
    sample = replace(series, frames=tuple(frames))
    image, _ = _run_dcm2niix(sample, scratch, where)
    if image is None:
        return 0.0
    hu, _ = to_hounsfield(read_voxels(image, np.float32))
    distance = float(np.ptp(slice_heights(frames))) / (len(frames) - 1)
    across, down = map(float, image.header.get_zooms()[:2])
    return vessels_ml(hu, (across, down, distance))


def _read_slices(
    series: Series, scratch: Path, where: Path
) -> tuple[nib.Nifti1Image, Series, list[str]]:
    """The slices of a series as one volume, those that it holds, and warnings.

    Where dcm2niix fails, each file is tried alone, and the damaged ones are left out.
    """
    first, count = series.frames[0], len(series.frames)
    if count * first.rows * first.columns > LARGEST_VOXEL_COUNT:
        raise UserError(
            f"series {series.title} of {where} declares {count} slices of "
            f"{first.rows} x {first.columns}, too many for a head scan; name another."
        )
    image, said = _run_dcm2niix(series, scratch / "all", where)
    if image is None:
        good = [path for path in series.files if _is_readable(path, scratch / "alone")]
        frames = tuple(frame for frame in series.frames if frame.path in good)
        if FEWEST_SLICES <= len(frames) < count:
            series = replace(series, frames=frames)
            image, said = _run_dcm2niix(series, scratch / "good", where)
    if image is None:
        raise UserError(
            f"dcm2niix could not read the {count} slices of series {series.title} of "
            f"{where} as one volume; copy them again, or name another series."
        )
    return image, series, said


def _run_dcm2niix(
    series: Series, scratch: Path, where: Path
) -> tuple[nib.Nifti1Image | None, list[str]]:
    """dcm2niix's volume of a series, None where slices are missing, and its warnings.

    The files are tried as they are; where dcm2niix leaves slices out or splits them
    (its rules look at instance numbers, times and orientations), they are numbered by
    position and made alike.
    """
    image, said = None, []
    common = _common_frame(series.frames)
    limit_s = SECONDS + SECONDS_A_SLICE * len(series.frames)
    for way in (link, _renumber):
        source, out = scratch / way.__name__, scratch / f"{way.__name__}_out"
        source.mkdir(parents=True)
        out.mkdir()
        for index, path in enumerate(series.files):
            way(path, source / f"{index:05d}.dcm", index, common)
        said = _call_dcm2niix([str(source)], out, limit_s, where)
        image = _whole_volume(out, series)
        if image is not None:
            break
    return image, said


def _is_readable(path: Path, scratch: Path) -> bool:
    """Whether dcm2niix makes an image of a file alone."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    _call_dcm2niix(["-s", "y", str(path)], scratch, SECONDS, path)
    return any(scratch.glob("*.nii"))


def _common_frame(frames: Sequence[Frame]) -> Frame:
    """The first image with the orientation that most have."""
    usual = mode(frame.orientation for frame in frames)
    return next(frame for frame in frames if frame.orientation == usual)


def link(path: Path, target: Path, _: int, __: Frame) -> None:
    """The file itself under another name (a copy where links are forbidden)."""
    try:
        target.symlink_to(path.absolute())
    except OSError:
        shutil.copyfile(path, target)


def _renumber(path: Path, target: Path, index: int, common: Frame) -> None:
    """A copy with what dcm2niix sorts and splits by made alike; damaged ones as is."""
    with suppress(Exception):
        dataset = pydicom.dcmread(path, force=True)
        dataset.SeriesNumber = dataset.AcquisitionNumber = 1
        dataset.InstanceNumber = index + 1
        for keyword in ("StudyDate", "StudyTime", "SeriesTime", "AcquisitionTime"):
            if keyword in dataset:
                del dataset[keyword]
        dataset.Manufacturer = ""
        if "ImageOrientationPatient" in dataset:
            if common.orientation is None or common.pixel_spacing_mm is None:
                raise ValueError("there is no common frame: the file stays as it is")
            dataset.ImageOrientationPatient = [*common.orientation]
            dataset.PixelSpacing = [*common.pixel_spacing_mm]
        dataset.save_as(target)
        return
    link(path, target, index, common)


def _call_dcm2niix(
    source: Sequence[str], out: Path, limit_s: int, where: Path
) -> list[str]:
    """Run dcm2niix on a folder or file; returns its warnings without the paths."""
    command = [dcm2niix.bin, "-g", "i", "-z", "n", "-b", "n", "-f", "slices"]
    try:
        done = subprocess.run(
            [*command, "-o", str(out), *source],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(
            f"dcm2niix took longer than {limit_s} s for {where}; copy the files to a "
            "local disk, or give the folder of one series."
        ) from error
    lines = re.findall(r"^(?:Warning|Error): (.*)$", done.stdout, re.MULTILINE)
    return [line.replace(source[-1], "...").replace(str(out), "...") for line in lines]


def _whole_volume(out: Path, series: Series) -> nib.Nifti1Image | None:
    """dcm2niix's volume of the slices as they are; None where some are missing.

    Of its files the one with the shortest name: others are corrected, or overlays.
    """
    first = series.frames[0]
    wanted = (first.columns, first.rows, len(series.frames))
    names = [path for path in out.glob("*.nii") if not CORRECTED.search(path.name)]
    for path in sorted(names, key=lambda path: len(path.name)):
        with suppress(UserError):
            image = open_nifti(path)
            kind = image.get_data_dtype().kind
            if image.shape[:3] == wanted and image.ndim == 3 and kind in "iuf":
                return image
    return None


def _place_slices(
    image: nib.Nifti1Image, series: Series, where: Path
) -> tuple[SliceStack, tuple[Frame, ...]]:
    """Give every slice of dcm2niix's volume its own place.

    dcm2niix may have turned the order of slices and of rows; its affine says so. All
    slices get one orientation, and each keeps the place of its centre.
    """
    frames = series.frames
    common = _common_frame(frames)
    positions = np.array([frame.position for frame in frames])
    positions += [(frame.half_mm - common.half_mm).sum(axis=0) for frame in frames]
    positions *= LPS_TO_RAS
    affine = image.affine.copy()
    normal = np.cross(affine[:3, 0], affine[:3, 1])
    affine[:3, 2] = normal * np.sign(normal @ affine[:3, 2]) / np.linalg.norm(normal)
    if (positions[-1] - positions[0]) @ affine[:3, 2] < 0:
        positions, frames = positions[::-1], frames[::-1]
    _check_place(affine, positions[0], common, series, where)
    origins = affine[:3, 3] + positions - positions[0]
    values = read_voxels(image, np.float32).reshape(image.shape[:3])
    return SliceStack(values, affine, origins), frames


def _check_place(
    affine: Float[np.ndarray, "4 4"],
    position: Float[np.ndarray, "3"],
    common: Frame,
    series: Series,
    where: Path,
) -> None:
    """Raise `UserError` unless the first slice lies where its header puts it (RAS+).

    Its corners are compared, in any order: dcm2niix turns the rows round.
    """
    across, down = 2 * common.half_mm * LPS_TO_RAS
    wanted = [position + i * across + j * down for i in (0, 1) for j in (0, 1)]
    ends = (0, common.columns - 1), (0, common.rows - 1)
    corners = np.array([affine[:3] @ (x, y, 0, 1) for x in ends[0] for y in ends[1]])
    off = max(np.linalg.norm(corners - one, axis=1).min() for one in wanted)
    if not off <= PLACE_TOLERANCE_MM:
        raise UserError(
            f"dcm2niix put series {series.title} of {where} {off:.1f} mm from where "
            "its headers say; name another series, or give NIfTI."
        )


def _turned_flags(frames: Sequence[Frame]) -> tuple[str, ...]:
    """A sentence where slices are turned against each other, seen at their edges."""
    common = _common_frame(frames).half_mm
    off = [np.linalg.norm(one.half_mm - common, axis=1).sum() for one in frames]
    if max(off) <= PLACE_TOLERANCE_MM:
        return ()
    return (
        f"slices are turned against each other, by up to {max(off):.1f} mm at their "
        "corners; they are laid parallel",
    )


def _describe_stack(stack: SliceStack) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Tilt and distances of the slices for the record, and a flag on missing ones."""
    distances = np.diff(stack.heights_mm)
    notes = {
        "gantry_tilt_deg": round(stack.tilt_deg, 2),
        "slice_distances_mm": [
            round(float(distances.min()), 3),
            round(float(distances.max()), 3),
        ],
        "straightened": not stack.is_regular,
    }
    return notes, gap_flags(distances)


def gap_flags(distances_mm: Float[np.ndarray, " gaps"]) -> tuple[str, ...]:
    """A sentence where slices are missing: single gaps wider than their neighbours."""
    padded = np.pad(distances_mm, 1, mode="reflect")
    around = np.maximum(padded[:-2], padded[2:])
    wide = np.flatnonzero(distances_mm > GAP * around)
    if not len(wide):
        return ()
    missing = int(np.round(distances_mm[wide] / around[wide] - 1).sum())
    after = ", ".join(str(1 + index) for index in wide)
    return (
        f"missing slices: about {missing}, after slice {after} (gaps up to "
        f"{distances_mm[wide].max():.1f} mm); what lies there is interpolated",
    )
