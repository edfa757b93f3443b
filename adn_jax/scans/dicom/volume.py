"""DICOM files to one CT volume: the series is chosen, then its slices are decoded.

pydicom reads the pixels, GDCM those that are compressed. Where slices belong is taken
from their positions, each on its own: a tilted gantry and uneven distances are left to
`straighten`.
"""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mode
from typing import Any

import numpy as np
import pydicom
from jaxtyping import Float, Float32, Int, Num
from pydicom.pixels import iter_pixels
from pydicom.uid import (
    AllTransferSyntaxes,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from adn_jax.errors import UserError, one_line
from adn_jax.io.files import check_fetched, files_below
from adn_jax.io.nifti import LARGEST_VOXEL_COUNT
from adn_jax.scans.dicom.choice import (
    Vessels,
    choice_flags,
    choice_record,
    choose,
    contradiction_flags,
    doubted,
    told_by_vessels,
    undecided,
    vessel_areas_mm2,
)
from adn_jax.scans.dicom.decode import decode_apart
from adn_jax.scans.dicom.headers import LPS_TO_RAS, Frame, read_headers
from adn_jax.scans.dicom.series import FEWEST_SLICES, Series, find_series
from adn_jax.scans.dicom.straighten import SliceStack
from adn_jax.scans.hounsfield import to_hounsfield

BY_GDCM = {
    syntax
    for syntax in AllTransferSyntaxes
    if syntax.is_encapsulated and syntax != RLELossless
}
"""Transfer syntaxes that pydicom itself does not decode."""

LEAST_HU = 600.0
"""What stored values must be able to hold: most bone."""

LEAST_CLIPPED_HU = 80.0
"""The same where they are said to be clipped: blood."""

SAMPLE = 24
"""How many slices of a series are looked at for contrast agent."""

GAP_FACTOR = 1.5
"""A gap wider than this many times its neighbours misses slices."""

TURNED_MM = 0.5
"""By how much slices that are turned against each other may be apart at a corner."""


@dataclass(frozen=True)
class DicomVolume:
    """The chosen series in HU, its slices still as they were taken."""

    stack: SliceStack
    frames: tuple[Frame, ...]
    """File and frame of each slice of the stack."""
    record: dict[str, Any] = field(default_factory=dict)
    """All series, and the choice."""
    flags: tuple[str, ...] = ()


def read_volume(
    path: Path, series: str = "", where: Path | None = None, clipped: bool = False
) -> DicomVolume:
    """Choose a CT series of a folder (or of one file) and read it.

    Args:
        path: a folder, searched to its depths and through links, or one multi-frame
            file.
        series: series number or a part of its description; empty: our choice.
        where: what messages call `path`, if it was unpacked from an archive.
        clipped: whether its values are said to be clipped (`to_hounsfield`).

    Raises:
        UserError: there is no CT volume, a file was not fetched, or the slices cannot
            be decoded.
    """
    where = where or path
    files = files_below(path) if path.is_dir() else [path]
    for file in files:
        check_fetched(file)
    headers = read_headers(files)
    found = find_series(headers)
    if not found and headers.damaged:
        raise UserError(
            f"no DICOM file of {where} can be read ({headers.reason}); copy or export "
            "them again."
        )
    if not found:
        raise UserError(
            f"{where} holds no DICOM series with images; give a folder of CT slices or "
            "a NIfTI file."
        )
    rivals = [] if series else undecided(found)
    if rivals:
        found = told_by_vessels(found, rivals, [*map(bright_vessels, rivals)])
    chosen = choose(found, series, where)
    rescaled, rescale_flags = _with_rescale(chosen)
    values, whole = _read_slices(rescaled, where)
    _check_reach(whole, values, LEAST_CLIPPED_HU if clipped else LEAST_HU, where)
    stack, frames = _place_slices(values, whole)
    hu, value_flags = to_hounsfield(stack.values, clipped)
    stack = replace(stack, values=hu)
    distances = np.diff(stack.heights_mm)
    skipped = _skipped_numbers(frames, distances)
    record = choice_record(found, chosen, series) | {
        "copies_left_out": headers.copies,
        "geometry": {
            "gantry_tilt_deg": round(stack.tilt_deg, 2),
            "slice_distances_mm": [
                round(float(distances.min()), 3),
                round(float(distances.max()), 3),
            ],
            "straightened": not stack.is_regular,
        },
    }
    damaged = headers.damaged + len(chosen.files) - len(whole.files)
    flags = choice_flags(found, chosen, damaged, series)
    if not series and (other := doubted(found, chosen)):
        vessels = [bright_vessels(one) for one in (chosen, other)]
        flags += contradiction_flags(chosen, other, vessels)
    flags += (
        rescale_flags
        + _turned_flags(frames)
        + gap_flags(distances, skipped)
        + value_flags
    )
    return DicomVolume(stack, frames, record, flags)


def bright_vessels(series: Series) -> Vessels | None:
    """Bright vessels in a sample of the slices; None if too few of them can be
    decoded."""
    series, _ = _with_rescale(series)
    count = min(len(series.frames), SAMPLE)
    sampled = np.linspace(0, len(series.frames) - 1, count).astype(int)
    frames = [series.frames[index] for index in sampled]
    values, damaged = _decode(frames)
    good = [z for z, frame in enumerate(frames) if frame.path not in damaged]
    if len(good) < FEWEST_SLICES:
        return None
    hu, _ = to_hounsfield(values[:, :, good])
    heights = np.array([frames[z].centre_mm[2] for z in good])
    assert frames[0].pixel_spacing_mm is not None  # the series is usable
    down, across = frames[0].pixel_spacing_mm
    areas = vessel_areas_mm2(hu, (across, down))
    rising = np.argsort(heights)
    return Vessels(heights[rising], areas[rising])


def _with_rescale(series: Series) -> tuple[Series, tuple[str, ...]]:
    """The series with the usual rescale in slices that tell none, and a sentence if
    there are such; none is made up if no slice tells one."""
    told = [one.rescale for one in series.frames if one.rescale[1] is not None]
    lacking = len(series.frames) - len(told)
    if not told or not lacking:
        return series, ()
    usual = mode(told)
    frames = (
        replace(frame, rescale=usual) if frame.rescale[1] is None else frame
        for frame in series.frames
    )
    return replace(series, frames=tuple(frames)), (
        f"{lacking} of {len(series.frames)} slices lack a Rescale Intercept; that of "
        f"the others, {usual[1]:g}, is used",
    )


def _read_slices(
    series: Series, where: Path
) -> tuple[Float32[np.ndarray, "x y z"], Series]:
    """The slices of a series that can be decoded, and the series without the others."""
    first, count = series.frames[0], len(series.frames)
    if count * first.rows * first.columns > LARGEST_VOXEL_COUNT:
        raise UserError(
            f"series {series.title} of {where} declares {count} slices of "
            f"{first.rows} x {first.columns}, too many for a head scan; name another."
        )
    values, damaged = _decode(series.frames)
    good = [z for z, frame in enumerate(series.frames) if frame.path not in damaged]
    if len(good) < FEWEST_SLICES:
        path, reason = next(iter(damaged.items()))
        raise UserError(
            f"could not read the {count} slices of series {series.title} of {where} "
            f"({path.name}: {reason}); copy them again, or name another series."
        )
    if damaged:
        values = values[:, :, good]
        series = replace(series, frames=tuple(series.frames[z] for z in good))
    return values, series


def _check_reach(
    series: Series, values: Float32[np.ndarray, "x y z"], least: float, where: Path
) -> None:
    """Raise `UserError` if the stored type, by its rescale, ends below `least` HU.

    Programs that write HU as fractions, in steps of 0.001, let what is beyond the type
    wrap round without a word. One that clipped to a window leaves nothing below 0.
    """
    frame = series.frames[0]
    header = pydicom.dcmread(frame.path, force=True, stop_before_pixels=True)
    signed = header.get("PixelRepresentation", 0) == 1
    ends = 1 << (header.get("BitsStored", 16) - 1)
    slope, intercept = frame.rescale
    low, high = (slope * end + (intercept or 0.0) for end in (-ends, ends - 1))
    if signed and slope > 0 and high < least and values.min() < 0:
        raise UserError(
            f"the stored values of {where}, in steps of {slope:g}, hold no more than "
            f"{low:.4g} to {high:.4g} HU, so that brighter and darker ones are lost; "
            "write the series again in steps of 1 HU."
        )


def _decode(
    frames: Sequence[Frame],
) -> tuple[Float32[np.ndarray, "x y z"], dict[Path, str]]:
    """Decode images of one size, as rescaled by their headers, and name damaged files.

    Rows are turned round, as in NIfTI they go to the front. A file of which one image
    is damaged counts as damaged, with the reason.
    """
    shape = frames[0].columns, frames[0].rows, len(frames)
    values = np.zeros(shape, np.float32, order="F")
    slices: dict[Path, list[int]] = {}
    for z, frame in enumerate(frames):
        slices.setdefault(frame.path, []).append(z)

    def fill(path: Path, images: Iterable[Num[np.ndarray, "rows columns"]]) -> None:
        for z, image in zip(slices[path], images, strict=True):
            slope, intercept = frames[z].rescale
            values[:, :, z] = image[::-1].T * slope + (intercept or 0.0)

    indices = {
        path: [frames[z].index for z in places] for path, places in slices.items()
    }
    damaged, compressed, odd = {}, {}, []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom tells of every odd value
        for path, places in indices.items():
            try:
                dataset = _read_file(path)
                if dataset.file_meta.get("TransferSyntaxUID") in BY_GDCM:
                    compressed[path] = places
                    continue
                fill(path, iter_pixels(dataset, indices=places, raw=True))
                if _bits_below(dataset):
                    odd.append(path)
            except Exception as error:  # whatever the damage happens to cause
                damaged[path] = one_line(error)
        if any(map(_fills_upper_bits, odd)):
            for path in odd:
                fill(path, _upper_bits(path, indices[path]))
    for path, images in decode_apart(compressed):
        if isinstance(images, str):
            damaged[path] = images
        else:
            fill(path, images)
    return values, damaged


def _read_file(path: Path) -> pydicom.FileDataset:
    """A file with the transfer syntax that old ones do not name."""
    dataset = pydicom.dcmread(path, force=True)
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, _ = dataset.original_encoding
        syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        dataset.file_meta.TransferSyntaxUID = syntax
    return dataset


def _bits_below(dataset: pydicom.FileDataset) -> int:
    """How many unused bits lie below a stored value, by a header of an old scanner."""
    lowest = dataset.get("HighBit", dataset.BitsStored - 1) + 1 - dataset.BitsStored
    return max(0, min(lowest, dataset.BitsAllocated - dataset.BitsStored))


def _upper_bits(
    path: Path, indices: Sequence[int] | None = None, *, shifted: bool = True
) -> Iterator[Num[np.ndarray, "rows columns"]]:
    """Images of a file whose values lie in the bits up to its High Bit."""
    dataset = _read_file(path)
    unused = _bits_below(dataset)
    dataset.BitsStored += unused  # else pydicom drops the upper ones
    for image in iter_pixels(dataset, indices=indices, raw=True):
        yield image >> unused if shifted else image


def _fills_upper_bits(path: Path) -> bool:
    """Whether values are too large for the lower bits: some headers have a wrong High
    Bit, beside values that lie there."""
    ends = 1 << _read_file(path).BitsStored
    return any(
        image.max() >= ends or image.min() < -ends // 2
        for image in _upper_bits(path, shifted=False)
    )


def _common_frame(frames: Sequence[Frame]) -> Frame:
    """The first image with the orientation that most have."""
    usual = mode(frame.orientation for frame in frames)
    return next(frame for frame in frames if frame.orientation == usual)


def _place_slices(
    values: Float32[np.ndarray, "x y z"], series: Series
) -> tuple[SliceStack, tuple[Frame, ...]]:
    """Give every slice its own place, in the order of their rows' and columns' normal.

    All slices get one orientation, and each keeps the place of its centre.
    """
    frames = series.frames
    common = _common_frame(frames)
    assert common.pixel_spacing_mm is not None  # the series is usable
    across, down = np.array(common.orientation, float).reshape(2, 3) * LPS_TO_RAS
    half = common.half_mm * LPS_TO_RAS
    centres = np.array([frame.centre_mm for frame in frames]) * LPS_TO_RAS
    origins = centres - half[0] + half[1]  # rows are turned round
    normal = np.cross(across, down)
    if (origins[-1] - origins[0]) @ normal < 0:
        values, origins, frames = values[:, :, ::-1], origins[::-1], frames[::-1]
    affine = np.eye(4)
    affine[:3, 0] = across * common.pixel_spacing_mm[1]
    affine[:3, 1] = -down * common.pixel_spacing_mm[0]
    affine[:3, 2] = normal / np.linalg.norm(normal)
    affine[:3, 3] = origins[0]
    return SliceStack(values, affine, origins), frames


def _turned_flags(frames: Sequence[Frame]) -> tuple[str, ...]:
    """A sentence if slices are turned against each other, seen at their edges."""
    common = _common_frame(frames).half_mm
    off = [np.linalg.norm(one.half_mm - common, axis=1).sum() for one in frames]
    if max(off) <= TURNED_MM:
        return ()
    return (
        f"slices are turned against each other, by up to {max(off):.1f} mm at their "
        "corners; they are laid parallel",
    )


def gap_flags(
    distances_mm: Float[np.ndarray, " gaps"], skipped: Int[np.ndarray, " gaps"]
) -> tuple[str, ...]:
    """A sentence if slices are missing: gaps wider than those around them, or slices
    that the numbers of the images count (`skipped`, in each gap)."""
    missing = np.maximum(_missing_by_width(distances_mm), skipped)
    gaps = np.flatnonzero(missing)
    if not len(gaps):
        return ()
    after = ", ".join(str(1 + index) for index in gaps)
    return (
        f"missing slices: about {missing.sum()}, after slice {after} (gaps up to "
        f"{distances_mm[gaps].max():.1f} mm); what lies there is interpolated",
    )


def _missing_by_width(
    distances_mm: Float[np.ndarray, " gaps"],
) -> Int[np.ndarray, " gaps"]:
    """How many slices each gap misses, as far as its width tells.

    Slices are often planned closer at the base than at the vertex, so that a step from
    one distance to another is none; alike gaps count if those on both sides are
    narrower and more, a single gap also at an end.
    """
    missing = np.zeros(len(distances_mm), int)
    steps = np.abs(np.diff(np.log(distances_mm))) > np.log(GAP_FACTOR)
    runs = np.split(np.arange(len(distances_mm)), np.flatnonzero(steps) + 1)
    for before, run, after in zip([[], *runs], runs, [*runs[1:], []], strict=False):
        around = np.r_[distances_mm[before[-1:]], distances_mm[after[:1]]]
        inside = len(around) == 2 and len(before) + len(after) > len(run)
        if inside or len(run) == len(around) == 1:
            wider = distances_mm[run] / around.max()
            if wider.min() > GAP_FACTOR:
                missing[run] = np.rint(wider - 1)
    return missing


def _skipped_numbers(
    frames: Sequence[Frame], distances_mm: Float[np.ndarray, " gaps"]
) -> Int[np.ndarray, " gaps"]:
    """How many slices each gap misses, as far as the numbers of the images skip as many
    as would fill it, slice by slice."""
    steps = np.diff([frame.number("InstanceNumber") for frame in frames])
    thickness = max(frame.thickness_mm or 0.0 for frame in frames)
    in_order = (steps >= 1).all() or (steps <= -1).all()
    if not thickness or not in_order:
        return np.zeros(len(distances_mm), int)
    fits = np.abs(distances_mm / thickness - np.abs(steps)) < GAP_FACTOR - 1
    return np.where(fits, np.abs(steps) - 1, 0).astype(int)
