"""Reading one raw scan: a NIfTI file, a DICOM folder, or an archive of one."""

import tempfile
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from jaxtyping import Float32

from adn_jax.errors import UserError, few_of
from adn_jax.io.archive import ARCHIVE_ENDINGS, unpack
from adn_jax.io.files import check_fetched, is_there
from adn_jax.io.image import Image, onto_voxels, read_image
from adn_jax.io.nifti import header_flags, tells_sides
from adn_jax.io.paths import as_place
from adn_jax.scans.dicom.headers import Frame, starts_as_dicom
from adn_jax.scans.dicom.series import FEWEST_SLICES
from adn_jax.scans.dicom.straighten import (
    SliceStack,
    onto_slices,
    straighten,
    straighten_mask,
)
from adn_jax.scans.dicom.volume import read_volume
from adn_jax.scans.hounsfield import (
    BONE_HU,
    check_hounsfield,
    outside_hu,
    restore_clipped,
    to_hounsfield,
)

NIFTI_ENDINGS = (".nii", ".nii.gz")

SMALLEST_MM = (20.0, 80.0, 80.0)
"""A slab through a newborn's head is larger."""

FEWEST_FINITE = 0.05
"""Least share of voxels that are numbers; the others are padding, or were stripped."""


@dataclass(frozen=True)
class RawScan:
    """A scan in HU on its own grid; a tilted gantry is already corrected."""

    name: str
    image: Image
    source: dict[str, Any] = field(default_factory=dict)
    """Where it came from and how it was read."""
    flags: tuple[str, ...] = ()
    """What had to be corrected, a sentence each."""
    taken: SliceStack | None = None
    """The slices in HU as they were taken, where a regular grid does not hold them."""
    frames: tuple[Frame, ...] = ()
    """File and frame of each slice of a DICOM series, in their order; else none."""


def onto_scan(image: Image, scan: RawScan, *, is_mask: bool = False) -> Image:
    """Bring an image that was drawn on a scan onto the scan's voxels.

    It lies on the scan's own grid (`onto_voxels`), or on the slices of its series as
    they were taken: then it is straightened as they were, linearly, or as a mask of 0
    and 1.

    Raises:
        UserError: it lies elsewhere, and in what it differs.
    """
    try:
        return onto_voxels(image, scan.image)
    except UserError:
        if scan.taken is None:
            raise
    taken = onto_slices(image, scan.taken)
    straight = straighten_mask(taken) if is_mask else straighten(taken, 0.0)[0]
    return scan.image.holding(straight, image.meaning)


def read_scan(
    path: Path | str, series: str = "", hu_range: tuple[float, float] | None = None
) -> RawScan:
    """Read a NIfTI file, DICOM files, or a case folder that holds either.

    Args:
        path: a NIfTI file, a folder of DICOM files (one or many series), a multi-frame
            DICOM file, an archive of a folder (.zip, .tar, .tar.gz, .tgz), or a case
            folder.
        series: of a DICOM folder, the series to read: its number or a part of its
            description; empty: axial, head, without contrast, soft kernel, most slices.
        hu_range: the HU to which the values were clipped; None: they were not.

    Raises `UserError` for everything that is no head CT volume: see the messages.
    """
    path = Path(path)
    check_fetched(path)
    if not path.exists():
        raise UserError(
            f"{path} does not exist; give a NIfTI file or a folder of DICOM files."
        )
    nifti = find_nifti(path)
    if nifti is not None:
        scan = _read_nifti(scan_name(path), nifti, hu_range)
        if not series:
            return scan
        unused = f"the series {series!r} was asked for, but a NIfTI file has one only"
        return replace(scan, flags=(*scan.flags, unused))
    if path.is_dir() and not any(path.iterdir()):
        raise UserError(f"{path} is empty; give a folder of DICOM files.")
    is_archive = path.is_file() and path.name.lower().endswith(ARCHIVE_ENDINGS)
    if path.is_file() and not is_archive and not starts_as_dicom(path):
        raise UserError(
            f"{path} is no NIfTI file (.nii, .nii.gz); for DICOM give the folder that "
            "holds the slices."
        )
    with tempfile.TemporaryDirectory(prefix="adn-") as scratch:
        return _read_dicom(path, Path(scratch), is_archive, series, hu_range)


def find_nifti(path: Path) -> Path | None:
    """The file itself, or `ct.nii(.gz)` of a case folder; None: DICOM."""
    if path.is_file():
        return path if path.name.lower().endswith(NIFTI_ENDINGS) else None
    found = [path / f"ct{ending}" for ending in NIFTI_ENDINGS]
    return next((file for file in found if is_there(file)), None)


def scan_name(path: Path) -> str:
    """The case folder's name for `ct.nii.gz` and `dicom/`, else the path's own, as of
    those at the root of the file system."""
    path = Path(as_place(path))
    name = path.name
    if not path.is_dir():
        for ending in (*NIFTI_ENDINGS[::-1], *ARCHIVE_ENDINGS, ".dcm"):
            if name.lower().endswith(ending):
                name = name[: -len(ending)]
                break
    inner = name == "ct" or name.lower() == "dicom"
    case = path.absolute().parent.name if inner else ""
    return case or name or "scan"


def _read_nifti(
    name: str, path: Path, hu_range: tuple[float, float] | None = None
) -> RawScan:
    """Read one NIfTI file as HU."""
    image = read_image(path, "scan")
    check_size(image, path)
    if not np.isfinite(image.voxels).mean() >= FEWEST_FINITE:
        raise UserError(
            f"nearly all voxels of {path} are NaN or infinite; convert the scan again."
        )
    hu, flags = to_hounsfield(image.voxels, hu_range is not None)
    unknown = {} if tells_sides(path) else {"sides_known": False}
    source = {"file": path.name, **unknown}
    scan = RawScan(name, image.holding(hu, "scan"), source, header_flags(path) + flags)
    return in_hounsfield(scan, hu_range, str(path))


def _read_dicom(
    path: Path,
    scratch: Path,
    is_archive: bool,
    series: str,
    hu_range: tuple[float, float] | None = None,
) -> RawScan:
    """Read one series of DICOM files as HU, on a regular grid."""
    folder = unpack(path, scratch / "unpacked") if is_archive else path
    volume = read_volume(folder, series, path, hu_range is not None)
    stack = volume.stack
    hu, affine = straighten(stack, outside_hu(hu_range))
    image = Image(hu, affine, "scan")
    check_size(image, path)
    source = {"file": path.name} | volume.record
    scan = RawScan(
        scan_name(path),
        image,
        source,
        volume.flags,
        None if stack.is_regular else stack,
        volume.frames,
    )
    return in_hounsfield(scan, hu_range, str(path))


def in_hounsfield(
    scan: RawScan, hu_range: tuple[float, float] | None, name: str
) -> RawScan:
    """The scan, whose values can be HU, or were clipped to the `hu_range` stated, with
    slices that were lost interpolated."""
    image = scan.image
    flags: list[str] = []
    slices = int(np.argmax(nib.io_orientation(image.affine)[:, 0] == 2))
    ordered = np.moveaxis(image.voxels, slices, 0)
    if hu_range is None:
        check_hounsfield(image.voxels, name)
    else:
        pixel_mm = float(np.mean(np.delete(image.spacing_mm, slices)))
        ordered, flag = restore_clipped(ordered, hu_range, pixel_mm, name)
        flags.append(flag)
    ordered, lost = fill_lost_slices(ordered)
    if lost:
        numbers = few_of([str(index + 1) for index in lost])
        flags.append(
            "slices of one value between those of the head, as where images were lost "
            f"({numbers}, counted from 1), were interpolated"
        )
    image = image.holding(np.moveaxis(ordered, 0, slices), "scan")
    return replace(scan, image=image, flags=(*scan.flags, *flags))


def fill_lost_slices(
    hu: Float32[np.ndarray, "z i j"],
) -> tuple[Float32[np.ndarray, "z i j"], list[int]]:
    """A volume whose slices of one value, as converters put them where an image was
    lost, are interpolated linearly, and which these were (from 0).

    Slices count from one with bone to the next: beyond the head nothing is lost.
    """
    lowest, highest = hu.min(axis=(1, 2)), hu.max(axis=(1, 2))
    whole, has_bone = np.flatnonzero(lowest != highest).tolist(), highest > BONE_HU
    lost = {
        index: (below, above)
        for below, above in pairwise(whole)
        if has_bone[below] and has_bone[above]
        for index in range(below + 1, above)
    }
    filled = hu.copy() if lost else hu
    for index, (below, above) in lost.items():
        part = np.float32((index - below) / (above - below))
        filled[index] = hu[below] + part * (hu[above] - hu[below])
    return filled, [*lost]


def check_size(image: Image, path: Path) -> None:
    """Raise `UserError` unless the volume has enough slices and the size of a head."""
    if min(image.shape) < FEWEST_SLICES:
        raise UserError(
            f"{path} has only {min(image.shape)} slices; a head CT needs at least "
            f"{FEWEST_SLICES}."
        )
    extent = np.array(image.spacing_mm) * image.shape
    if (np.sort(extent) < SMALLEST_MM).any():
        size = " x ".join(f"{one:.0f}" for one in extent)
        raise UserError(
            f"{path} is {size} mm large, too small for a head; convert the scan with "
            "its true voxel size."
        )
