"""AISD's PNG slices: reading a stack, and HU guessed from 8-bit values."""

import re
from pathlib import Path

import numpy as np
import PIL.Image
from jaxtyping import Float32, UInt8

from adn_jax.errors import UserError
from adn_jax.io.files import is_dangling
from adn_jax.io.image import Image, from_zyx
from adn_jax.scans.hounsfield import with_bone_and_air

SLICE_NAME = re.compile(r"(\d+)\.png", re.IGNORECASE)

EIGHT_BIT = {"L", "P", "LA", "RGB", "RGBA"}
"""Kinds of pictures (by Pillow's names) whose grey values are 0 to 255."""

UNREADABLE_PNG = (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError)
"""What Pillow raises on damaged files."""


def slice_files(folder: Path) -> tuple[Path, ...]:
    """The PNG of a folder in the order of their numbers; a folder that is a link to
    nothing stands for them, to be named."""
    if is_dangling(folder):
        return (folder,)
    found = [
        (int(match[1]), path)
        for path in folder.iterdir()
        if (match := SLICE_NAME.fullmatch(path.name))
    ]
    return tuple(path for _, path in sorted(found))


def read_stack(folder: Path) -> UInt8[np.ndarray, "z y x"]:
    """Read slices 0 to n - 1 of a folder; rows go down, columns to the right.

    Raises `UserError` if a slice is missing, damaged or of another size.
    """
    files = slice_files(folder)
    numbers = [int(path.stem) for path in files]
    if missing := sorted(set(range(max(numbers, default=0) + 1)) - set(numbers)):
        raise UserError(
            f"{folder} lacks slice {missing[0]:03d}.png; unpack the download again."
        )
    slices = [read_slice(path) for path in files]
    for path, pixels in zip(files, slices, strict=True):
        if pixels.shape != slices[0].shape:
            raise UserError(
                f"{path} has {pixels.shape} pixels and {files[0].name} "
                f"{slices[0].shape}; unpack the download again."
            )
    return np.stack(slices)


def read_slice(path: Path) -> UInt8[np.ndarray, "y x"]:
    """The grey values of one PNG; of a palette picture its indices."""
    try:
        with PIL.Image.open(path) as picture:
            if picture.mode not in EIGHT_BIT:
                raise ValueError(f"it has {picture.mode} pixels instead of 8 bits")
            as_stored = picture.mode in {"L", "P"}
            return np.array(picture if as_stored else picture.convert("L"), np.uint8)
    except UNREADABLE_PNG as error:
        raise UserError(
            f"{path} is no readable PNG ({error}); unpack the download again."
        ) from error


def pseudo_hu(
    values: UInt8[np.ndarray, "z y x"],
    window_hu: tuple[float, float],
    pixel_mm: float,
) -> Float32[np.ndarray, "z y x"]:
    """HU that the 8-bit values of a brain window stand for, as far as one can tell.

    Linear in the window; white is bone with a rim of both; black is air where it is
    solid, else the lower end of the window.
    """
    low, high = window_hu
    hu = low + values.astype(np.float32) / 255 * np.float32(high - low)
    return with_bone_and_air(hu, values == 255, values == 0, high, pixel_mm)


def upright(
    volume: Float32[np.ndarray, "z y x"], spacing_mm: tuple[float, float, float]
) -> Image:
    """A stack of pictures, from the feet up and seen from them, as an image in mm.

    Rows go to the patient's back, columns to the left (radiological convention).
    """
    z, y, x = spacing_mm
    affine = np.diag([-x, -y, z, 1.0])
    middle = (np.array(volume.shape[::-1]) - 1) / 2
    affine[:3, 3] = -affine[:3, :3] @ middle
    return from_zyx(volume, affine, "scan")
