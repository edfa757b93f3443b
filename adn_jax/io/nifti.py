"""NIfTI files in and out; arrays are (z, y, x) in memory and (x, y, z) on disk."""

import gzip
import math
import os
import zlib
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from jaxtyping import Float, Shaped
from nibabel import imageglobals
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, ImageDataError
from nibabel.wrapstruct import WrapStructError

from adn_jax.errors import UserError, one_line
from adn_jax.io.files import check_fetched
from adn_jax.io.paths import Source, read_bytes

UNREADABLE_NIFTI = (
    OSError,
    EOFError,
    ValueError,
    OverflowError,
    zlib.error,
    ImageFileError,
    HeaderDataError,
    ImageDataError,
    WrapStructError,
)
"""What nibabel and the decompressors raise on damaged files."""

LARGEST_VOXEL_COUNT = 300_000_000
"""A header that declares more than this is damaged, or no head scan."""

NIFTI2_HEADER_BYTES = 540
"""What a NIfTI-2 file starts with."""

UNITS_MM = {1: ("metres", 1000.0), 3: ("microns", 0.001)}
"""Codes of length units that a header may name besides mm: name and size in mm."""

VOXEL_MM = (0.02, 50.0)

LARGEST_EXTENT_MM = 3_000.0

FARTHEST_MM = 10_000.0
"""What lies outside is damage, or no scan of a patient."""

FLATTEST = 0.01
"""Least volume that three axes of length 1 must span."""

LONGEST_QUATERNION = 1.001
"""Of a rotation it has length 1, but for what headers round."""

GZIP_CHUNK = 1 << 22


def open_nifti(path: Source) -> nib.Nifti1Image:
    """Open a NIfTI-1 or NIfTI-2 file; the voxels stay on disk until asked for.

    The affine is in mm, whatever unit the header names. Raises `UserError` if the
    file is missing, damaged or no NIfTI, or has no usable affine.
    """
    check_fetched(path)
    try:
        image = _in_millimetres(load(path))
    except FileNotFoundError as error:
        raise UserError(
            f"{path} does not exist; give the path of a NIfTI file."
        ) from error
    except UNREADABLE_NIFTI as error:
        raise UserError(
            f"{path} is not a readable NIfTI file ({one_line(error)}); "
            "restore or convert it."
        ) from error
    if np.prod(image.shape, dtype=float) > LARGEST_VOXEL_COUNT:
        raise UserError(
            f"{path} declares {image.shape} voxels, too many for a head scan; "
            "restore or convert it."
        )
    _check_affine(image, path)
    return image


def load(path: Source) -> nib.Nifti1Image:
    """The image as nibabel reads it, from a file of either version.

    Of a file that is not on this machine all is read now.
    """
    compressed = path.name.lower().endswith(".gz")
    if not isinstance(path, Path):
        content = read_bytes(path)
        content = gzip.decompress(content) if compressed else content
        with _quiet_nibabel():
            image = _version_of(content).from_bytes(content)
        image.file_map["image"].filename = str(path)
        _mend_quaternion(image.header)
        return image
    if not path.is_file():
        raise FileNotFoundError(path)
    with (gzip.open if compressed else open)(path, "rb") as file:
        kind = _version_of(file.read(4))
    with _quiet_nibabel():
        image = kind.from_filename(path)
    _mend_quaternion(image.header)
    return image


def _mend_quaternion(header: nib.Nifti1Header) -> None:
    """Shorten a quaternion that rounding made longer than 1, which nibabel refuses.

    One that is longer still is no rotation; beside an sform its qform is unset.
    """
    fields = [f"quatern_{axis}" for axis in "bcd"]
    length = float(np.linalg.norm([float(header[name]) for name in fields]))
    if length <= 1:
        return
    if length <= LONGEST_QUATERNION:
        for name in fields:
            header[name] = float(header[name]) / length
    elif header["sform_code"] > 0:
        header["qform_code"] = 0


def _version_of(content: bytes) -> type[nib.Nifti1Image]:
    """The class of nibabel's that reads a file which starts like this."""
    sizes = {int.from_bytes(content[:4], order) for order in ("little", "big")}
    return nib.Nifti2Image if NIFTI2_HEADER_BYTES in sizes else nib.Nifti1Image


@contextmanager
def _quiet_nibabel() -> Generator[None]:
    """Keep nibabel from printing what its errors, or our flags, say as well."""
    logger = imageglobals.logger
    was, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = was


def _in_millimetres(image: nib.Nifti1Image) -> nib.Nifti1Image:
    """The image with sform and qform in mm, where its header names metres or microns.

    The unit is believed only where it makes a smaller or larger thing the size of a
    head: many programs name a unit without using it.
    """
    factor = unit_of(image.header)[1]
    if factor == 1.0 or not _has_usable_size(image.affine * factor, image.shape):
        return image
    header = image.header.copy()
    scale = np.diag([factor, factor, factor, 1.0])
    sform, sform_code = image.header.get_sform(coded=True)
    qform, qform_code = image.header.get_qform(coded=True)
    if qform is not None:
        header.set_qform(scale @ qform, int(qform_code))
    if sform is not None:
        header.set_sform(scale @ sform, int(sform_code))
    header.set_zooms(
        tuple(np.array(image.header.get_zooms()[:3]) * factor)
        + tuple(image.header.get_zooms()[3:])
    )
    header.set_xyzt_units("mm")
    return type(image)(
        image.dataobj, scale @ image.affine, header, file_map=image.file_map
    )


def unit_of(header: nib.Nifti1Header) -> tuple[str, float]:
    """The unit of length that a header names, and its size in mm."""
    return UNITS_MM.get(int(header["xyzt_units"]) % 8, ("mm", 1.0))


def steps_mm(affine: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "3"]:
    """Voxel size along each axis, in the order of the file."""
    return np.linalg.norm(affine[:3, :3], axis=0)


def unit_axes(affine: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "3 3"]:
    """Directions of the voxel axes, a column each, of length 1."""
    return affine[:3, :3] / steps_mm(affine)


def _has_usable_size(affine: Float[np.ndarray, "4 4"], shape: Sequence[int]) -> bool:
    """Whether voxels and volume have the size of a scan, in mm."""
    if not np.isfinite(affine).all():
        return False
    steps = steps_mm(affine)
    extent = steps * (*shape, 1, 1, 1)[:3]
    if steps.min() < VOXEL_MM[0] or steps.max() > VOXEL_MM[1]:
        return False
    if extent.max() > LARGEST_EXTENT_MM or abs(affine[:3, 3]).max() > FARTHEST_MM:
        return False
    return bool(abs(np.linalg.det(affine[:3, :3] / steps)) > FLATTEST)


def _check_affine(image: nib.Nifti1Image, path: Source) -> None:
    """Raise `UserError` if positions in mm are unknown or absurd."""
    if not _has_usable_size(image.affine, image.shape):
        numbers = np.array2string(image.affine[:3], precision=3, separator=" ")
        raise UserError(
            f"{path} has no usable affine, so positions in mm are unknown "
            f"({one_line(ValueError(numbers))}); write the file again with its "
            "orientation."
        )


def header_flags(path: Path) -> tuple[str, ...]:
    """What is doubtful about where a NIfTI file puts its voxels, a sentence each."""
    image = open_nifti(path)
    header, unit = image.header, unit_of(load(path).header)[0]
    flags = []
    if unit != unit_of(header)[0]:
        flags.append(f"the affine was in {unit}; it was brought to mm")
    elif unit != "mm":
        flags.append(f"the header names {unit} as unit, but the affine is in mm")
    sform, qform = header.get_sform(coded=True)[0], header.get_qform(coded=True)[0]
    if sform is None and qform is None:
        flags.append(
            "neither sform nor qform is set: which side is left is not known; x is "
            "taken to grow to the patient's left"
        )
    elif (apart := _corner_distance(sform, qform, image.shape)) > 1:
        flags.append(
            f"sform and qform disagree by up to {apart:.0f} voxels; the sform is used"
        )
    if (slant := _slant_deg(image.affine)) > 1:
        flags.append(f"the axes are up to {slant:.0f} degrees off a right angle")
    if left := _bytes_left(path, image):
        flags.append(
            f"{left} bytes are left over after the voxels: the header may declare too "
            "few of them"
        )
    return tuple(flags)


def tells_sides(path: Path) -> bool:
    """Whether the header of a NIfTI file says which side is left, once or twice
    alike."""
    header = open_nifti(path).header
    given = [header.get_sform(coded=True)[0], header.get_qform(coded=True)[0]]
    hands = {np.sign(np.linalg.det(each[:3, :3])) for each in given if each is not None}
    return len(hands) == 1


def _slant_deg(affine: Float[np.ndarray, "4 4"]) -> float:
    """How many degrees two axes of an affine are off a right angle, at most."""
    axes = unit_axes(affine)
    cosines = (axes.T @ axes)[np.triu_indices(3, 1)]
    return float(np.rad2deg(np.arcsin(np.clip(abs(cosines).max(), 0, 1))))


def _bytes_left(path: Path, image: nib.Nifti1Image) -> int:
    """Bytes of a file behind the voxels that its header declares."""
    size = path.stat().st_size
    if path.name.lower().endswith(".gz"):
        with path.open("rb") as file:
            file.seek(-4, os.SEEK_END)
            size = int.from_bytes(file.read(4), "little")  # RFC 1952: modulo 2**32
    proxy: Any = image.dataobj  # of a file it is nibabel's ArrayProxy
    wanted = proxy.offset + image.get_data_dtype().itemsize * math.prod(image.shape)
    return max(0, size - wanted)


def _corner_distance(
    one: Float[np.ndarray, "4 4"] | None,
    other: Float[np.ndarray, "4 4"] | None,
    shape: Sequence[int],
) -> float:
    """How far two affines put a corner apart, in voxels of the first; 0 without one."""
    if one is None or other is None:
        return 0.0
    corners = np.array(list(product(*((0, n - 1) for n in (*shape, 1, 1)[:3]), [1])))
    apart = np.linalg.norm((other - one) @ corners.T, axis=0).max()
    return float(apart / steps_mm(one).min())


def read_voxels(image: nib.Nifti1Image, dtype: type) -> Shaped[np.ndarray, "..."]:
    """The voxels of an opened image in its own axis order, as `dtype`.

    A memory map where the file is uncompressed and already of that type.
    Raises `UserError` if the data is truncated or damaged.
    """
    file = image.file_map["image"]
    try:
        if file.fileobj is None:  # else it was decompressed whole
            check_gzip(file.filename)
        with np.errstate(over="ignore", invalid="ignore"):  # becomes infinite
            return np.asanyarray(image.dataobj).astype(dtype, copy=False)
    except UNREADABLE_NIFTI as error:
        raise UserError(
            f"{image.get_filename()} is truncated or damaged ({one_line(error)}); "
            "copy or convert it again."
        ) from error


def check_gzip(path: str | None) -> None:
    """Read a compressed file to its end: only there does gzip compare its checksum."""
    if path is not None and path.lower().endswith(".gz"):
        with gzip.open(path) as file:
            while file.read(GZIP_CHUNK):
                pass
