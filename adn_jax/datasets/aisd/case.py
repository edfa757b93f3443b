"""One case of AISD: HU from DICOM with the label from PNG, or both from PNG."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from adn_jax.config import PrepareSettings, ReadSettings
from adn_jax.datasets.aisd import facts
from adn_jax.datasets.aisd.files import Copy, ct_files
from adn_jax.datasets.aisd.orientation import dicom_order, match_label, sizes
from adn_jax.datasets.aisd.png import pseudo_hu, read_stack, slice_files, upright
from adn_jax.datasets.raw import CaseInput, check_values
from adn_jax.errors import UserError
from adn_jax.io.archive import DAMAGED, unpack
from adn_jax.io.image import Image
from adn_jax.io.nifti import check_gzip
from adn_jax.scans.dicom.straighten import SliceStack, straighten, straighten_mask
from adn_jax.scans.dicom.volume import DicomVolume, read_volume
from adn_jax.scans.hounsfield import outside_hu
from adn_jax.scans.read import RawScan, in_hounsfield

ByteVolume = UInt8[np.ndarray, "z y x"]


@dataclass(frozen=True)
class AisdCase:
    """Where the pieces of a case lie.

    Without `ct` HU are guessed from the pictures; without `pictures` nothing tells the
    orientation of the label. `fixed` says what had to be put right to find the files.
    """

    name: str
    masks: Path
    pictures: Path | None = None
    ct: Copy | None = None
    fixed: tuple[str, ...] = ()

    def files(self) -> list[Path]:
        """Every input file, in a fixed order."""
        found = list(slice_files(self.masks))
        if self.pictures is not None:
            found += slice_files(self.pictures)
        if self.ct is not None:
            path = self.ct.path
            found += [path] if path.is_file() else ct_files(path)
        return found

    def load(self, settings: PrepareSettings, reading: ReadSettings) -> CaseInput:
        """Read scan and label; `UserError` if they do not belong together."""
        label = _read_label(self.masks, settings.infarct_labels)
        flags = facts.flags(self.name)
        if not label.any():
            rule = ", ".join(map(str, settings.infarct_labels))
            flags += (f"no voxel of the label counts as infarct ({rule})",)
        pictures = None if self.pictures is None else read_stack(self.pictures)
        if pictures is not None and pictures.shape != label.shape:
            raise UserError(
                f"there are {sizes(pictures)} pixels in {self.pictures} but "
                f"{sizes(label)} in {self.masks}; unpack both again."
            )
        if self.ct is None:
            assert pictures is not None  # a case without CT has them
            scan, lesion = _from_pictures(self, pictures, label, reading)
        else:
            with tempfile.TemporaryDirectory(prefix="adn-") as scratch:
                scan, lesion = _from_dicom(
                    self, pictures, label, Path(scratch), reading
                )
        return CaseInput(replace(scan, flags=scan.flags + flags), lesion)


def _read_label(folder: Path, infarct_labels: Sequence[int]) -> ByteVolume:
    """Infarct (1) or not in the pixels of the PNG; `UserError` for other values."""
    values = read_stack(folder)
    check_values(values, infarct_labels, f"label in {folder}")
    return np.isin(values, infarct_labels).astype(np.uint8)


def _from_pictures(
    case: AisdCase, pictures: ByteVolume, label: ByteVolume, reading: ReadSettings
) -> tuple[RawScan, Image]:
    """Scan and label of a case without DICOM: HU and voxel size are assumed."""
    spacing, window = reading.aisd_spacing_mm, reading.aisd_window_hu
    first, fixed = _first_slice(case.name, len(pictures))
    hu = pseudo_hu(pictures, window, spacing[1])
    image = upright(hu[first:], spacing)
    flags = (
        "read from 8-bit PNG: HU are assumed linear from {:g} to {:g}, voxels "
        "{:g} x {:g} x {:g} mm".format(*window, *spacing),
    )
    source = {
        "layout": "aisd",
        "images": "png",
        "slices": len(pictures),
        "fixed": [*case.fixed, *fixed],
    }
    lesion = image.holding(label[first:].transpose(2, 1, 0), "lesion label")
    return RawScan(case.name, image, source, flags), lesion


def _from_dicom(
    case: AisdCase,
    pictures: ByteVolume | None,
    label: ByteVolume,
    scratch: Path,
    reading: ReadSettings,
) -> tuple[RawScan, Image]:
    """Scan and label of a case with DICOM, on the grid of the straightened scan."""
    assert case.ct is not None  # it has DICOM
    volume, fixed = _read_ct(case.ct, len(label), scratch, reading)
    order = dicom_order(volume.stack, volume.frames)
    hu = order.of(volume.stack.values.transpose(2, 1, 0))
    match = match_label(hu, pictures, label)
    label_slices = order.of(match.turn.of(label)).transpose(2, 1, 0)
    first, cut = _first_slice(case.name, len(hu))
    stack = _from_slice(volume.stack, first, order.flip_z)
    mask = _from_slice(replace(volume.stack, values=label_slices), first, order.flip_z)
    straight, affine = straighten(stack, outside_hu(reading.hu_range))
    lesion = straighten_mask(mask)
    source = {
        "layout": "aisd",
        "images": "dicom",
        "archive": case.ct.archive,
        "slices": len(hu),
        "orientation": match.facts,
        "fixed": [*case.fixed, *fixed, *match.notes, *cut],
        **volume.record,
    }
    scan = RawScan(
        case.name,
        Image(straight, affine, "scan"),
        source,
        volume.flags + match.flags,
        None if stack.is_regular else stack,
    )
    scan = in_hounsfield(scan, reading.hu_range, str(case.ct.path))
    return scan, scan.image.holding(lesion, "lesion label")


def _read_ct(
    copy: Copy, slices: int, scratch: Path, reading: ReadSettings
) -> tuple[DicomVolume, tuple[str, ...]]:
    """Read the CT of a copy, and say so where another series than ours is taken.

    Of several series in the folder the one with as many slices as there are PNG is
    taken, unless `series` names one.
    """
    series, clipped = reading.series, reading.hu_range is not None
    folder = copy.path
    if folder.is_file():
        _check_whole(folder)
        folder = unpack(folder, scratch / "unpacked")
    volume = read_volume(folder, series, copy.path, clipped)
    ours, *others = volume.record["series"]
    fitting = [one for one in others if _is_scan_of(one, slices)]
    if series or ours["slices"] == slices or len(fitting) != 1:
        return volume, ()
    number = fitting[0]["number"]
    note = (
        f"series {number} is read instead of {ours['number']}: it has as many slices "
        f"({slices}) as there are PNG"
    )
    fitting_one = read_volume(folder, number, copy.path, clipped)
    return fitting_one, (note,)


def _is_scan_of(facts: dict[str, Any], slices: int) -> bool:
    """Whether a series is an axial CT with a number of slices."""
    return facts["modality"] == "CT" and facts["axial"] and facts["slices"] == slices


def _check_whole(archive: Path) -> None:
    """Raise `UserError` unless a compressed archive is whole by its own checksum."""
    try:
        check_gzip(str(archive))
    except DAMAGED as error:
        raise UserError(
            f"{archive} is damaged or not unpacked to its end ({error}); unpack or "
            "download it again."
        ) from error


def _first_slice(name: str, slices: int) -> tuple[int, tuple[str, ...]]:
    """The first slice to keep, from the feet up, and a sentence if that is not 0."""
    first = facts.FIRST_SLICE.get(name, 0)
    if not 0 < first < slices:
        return 0, ()
    return first, (f"the trunk is cut off: slices {first} to {slices - 1} are kept",)


def _from_slice(stack: SliceStack, first: int, is_reversed: bool) -> SliceStack:
    """The slices from `first` on in DICOM's order; the stack may be reversed."""
    count = len(stack.origins_mm)
    kept = slice(0, count - first) if is_reversed else slice(first, count)
    affine = stack.affine.copy()
    affine[:3, 3] += stack.origins_mm[kept.start] - stack.origins_mm[0]
    return SliceStack(stack.values[:, :, kept], affine, stack.origins_mm[kept])
