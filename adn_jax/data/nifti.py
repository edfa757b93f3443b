"""NIfTI files in and out; arrays are (z, y, x) in memory and (x, y, z) on disk."""

import gzip
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
from jaxtyping import Float, Shaped

from adn_jax.errors import UserError

UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    OverflowError,
    zlib.error,
    nib.filebasedimages.ImageFileError,
    nib.spatialimages.HeaderDataError,
    nib.spatialimages.ImageDataError,
    nib.wrapstruct.WrapStructError,
)
"""What nibabel and the decompressors raise on damaged files."""

LARGEST_VOXEL_COUNT = 300_000_000
"""A header that declares more than this is damaged, or no head scan."""

CHUNK = 1 << 22


def open_nifti(path: Path) -> nib.Nifti1Image:
    """Open a NIfTI file; the voxels stay on disk until they are asked for.

    Raises `UserError` where the file is missing, damaged or no NIfTI.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist; give the path of a NIfTI file.")
    try:
        image = nib.Nifti1Image.from_filename(path)
        affine_is_usable = abs(np.linalg.det(image.affine[:3, :3])) > 1e-6
    except UNREADABLE as error:
        raise UserError(
            f"{path} is not a readable NIfTI file ({one_line(error)}); "
            "restore or convert it."
        ) from error
    if not affine_is_usable:
        raise UserError(
            f"{path} has no usable affine, so positions in mm are unknown; "
            "write the file again with its orientation."
        )
    if np.prod(image.shape, dtype=float) > LARGEST_VOXEL_COUNT:
        raise UserError(
            f"{path} declares {image.shape} voxels, too many for a head scan; "
            "restore or convert it."
        )
    return image


def read_voxels(image: nib.Nifti1Image, dtype: type) -> Shaped[np.ndarray, "..."]:
    """The voxels of an opened image in its own axis order, as `dtype`.

    A memory map where the file is uncompressed and already of that type.
    Raises `UserError` where the data is truncated or damaged.
    """
    try:
        check_gzip(image.get_filename())
        return np.asanyarray(image.dataobj).astype(dtype, copy=False)
    except UNREADABLE as error:
        raise UserError(
            f"{image.get_filename()} is truncated or damaged ({one_line(error)}); "
            "copy or convert it again."
        ) from error


def check_gzip(path: str | None) -> None:
    """Read a compressed file to its end: only there does gzip compare its checksum."""
    if path is not None and path.endswith(".gz"):
        with gzip.open(path) as file:
            while file.read(CHUNK):
                pass


def write_volume(
    path: Path, volume: Shaped[np.ndarray, "z y x"], affine: Float[np.ndarray, "4 4"]
) -> None:
    """Write a volume as NIfTI in millimetres, compressed where the name ends in .gz."""
    image = nib.Nifti1Image(volume.transpose(2, 1, 0), affine)
    image.header.set_xyzt_units("mm")
    image.to_filename(path)


def one_line(error: BaseException) -> str:
    """The message of an error without line breaks."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
