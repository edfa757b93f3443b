"""An array with a place: what a scan, a label and a map have in common.

Everything that is drawn on a scan, or computed from it, is brought onto the scan's
voxels by one function, `onto_voxels`, and written with the scan's own header, so that
every program lays it where it lays the scan.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
from jaxtyping import Float, Float32, Shaped

from adn_jax.errors import UserError
from adn_jax.io.nifti import open_nifti, read_voxels, steps_mm, unit_axes
from adn_jax.io.paths import Source

SAME_VOXEL = 0.5
"""Voxels by which a corner may be off: headers are written with few digits."""

SAME_SIZE = 0.5
"""The same for the extent of an axis: another voxel size is named as such."""

ALIKE_MM = 1e-3
"""By which numbers of two affines may differ that say the same."""

SCANNER = 1
"""Code of a qform or sform that gives positions in the scanner (NIfTI-1)."""

RIGHT_ANGLE = 1e-4
"""Largest cosine between axes that counts as a right angle."""

PLACE_FIELDS = (
    *("qform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z"),
    *("sform_code", "srow_x", "srow_y", "srow_z"),
)
"""Fields of a NIfTI header that say where voxels lie, beside `pixdim`."""

Affine = Float[np.ndarray, "4 4"]


@dataclass(frozen=True)
class Image:
    """Voxels, where they lie, and what they mean.

    `voxels` is in the axis order of its file; `affine` takes a voxel's index to mm
    (RAS+); `meaning` is how messages call it ("lesion label"). `header` is that of its
    file in mm, whose qform and sform may name two places; None: made here.
    """

    voxels: Shaped[np.ndarray, "x y z"]
    affine: Affine
    meaning: str
    header: nib.Nifti1Header | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along each axis, in the order of the file."""
        return self.voxels.shape

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along each axis, in the order of the file."""
        return tuple(steps_mm(self.affine).tolist())

    @property
    def places(self) -> tuple[Affine, ...]:
        """Every affine that its header gives; the one in use first.

        Programs differ in which form they follow: ITK, and so ITK-SNAP and Slicer,
        takes the qform of a scan with shear, nibabel the sform.
        """
        if self.header is None:
            return (self.affine,)
        forms = (self.header.get_sform(coded=True), self.header.get_qform(coded=True))
        others = [form for form, code in forms if form is not None and code > 0]
        return (self.affine, *others)

    @property
    def is_placed(self) -> bool:
        """Whether it is known where it lies: a header may set neither form."""
        return self.header is None or len(self.places) > 1

    def holding(self, voxels: Shaped[np.ndarray, "x y z"], meaning: str) -> "Image":
        """Other values at the same place."""
        if voxels.shape != self.shape:
            raise ValueError(f"{voxels.shape} voxels at the place of {self.shape}")
        return replace(self, voxels=voxels, meaning=meaning)


def spacing_of(affine: Affine) -> tuple[float, float, float]:
    """Voxel size in mm (z y x)."""
    x, y, z = steps_mm(affine).tolist()
    return z, y, x


def voxel_steps(
    affine: Affine,
) -> tuple[float, float, float] | Float[np.ndarray, "3 3"]:
    """Voxel size in mm (z y x); if the axes are not at right angles, their steps
    (z y x) as columns (`metrics.overlap.VoxelSteps`)."""
    steps = affine[:3, 2::-1]
    sizes = spacing_of(affine)
    cosines = (steps / sizes).T @ (steps / sizes) - np.eye(3)
    return sizes if abs(cosines).max() < RIGHT_ANGLE else steps


def from_nifti(image: nib.Nifti1Image, meaning: str, dtype: type = np.float32) -> Image:
    """An opened NIfTI image with its voxels as `dtype`.

    Raises `UserError` unless it is one volume of grey values; a fourth axis of length
    1, as ANTs writes it, does not count.
    """
    name = image.get_filename() or f"the {meaning}"
    if image.get_data_dtype().kind not in "iuf":
        raise UserError(
            f"{name} holds {image.get_data_dtype()} voxels (a colour picture?); give "
            f"the {meaning} as one volume of grey values."
        )
    if len(image.shape) < 3 or any(n > 1 for n in image.shape[3:]):
        raise UserError(
            f"{name} has {len(image.shape)} dimensions {image.shape}; give one "
            "3D volume."
        )
    voxels = read_voxels(image, dtype).reshape(image.shape[:3])
    return Image(voxels, np.array(image.affine, float), meaning, image.header)


def read_image(path: Source, meaning: str, dtype: type = np.float32) -> Image:
    """Read a NIfTI file whole; `UserError` if it is damaged or no single volume."""
    return from_nifti(open_nifti(path), meaning, dtype)


def write_image(path: Path, image: Image, step: float = 0.0) -> None:
    """Write NIfTI in mm at the image's place, compressed where the name ends in .gz.

    qform, sform and their codes are those of the image's header. `step` > 0: voxels are
    stored as 16-bit multiples of it, a fifth of the size of float32; the step doubles
    until the largest value fits.
    """
    to_nifti(image, step).to_filename(path)


def to_nifti(image: Image, step: float = 0.0) -> nib.Nifti1Image:
    """The NIfTI image that `write_image` writes."""
    voxels = image.voxels
    if step:
        while np.abs(voxels).max() > step * np.iinfo(np.int16).max:
            step *= 2
        voxels = np.rint(voxels / step).astype(np.int16)
    header = _place_header(image)
    header.set_data_dtype(voxels.dtype)
    header.set_data_shape(voxels.shape)
    nifti = nib.Nifti1Image(voxels, header.get_best_affine(), header)
    if step:
        nifti.header.set_slope_inter(step, 0)
    return nifti


def _place_header(image: Image) -> nib.Nifti1Header:
    """A fresh header with the place of an image, nothing else of its file."""
    header = nib.Nifti1Header()
    header.set_xyzt_units("mm")
    if image.header is None:
        header.set_data_shape(image.shape)
        header.set_qform(image.affine, SCANNER)
        header.set_sform(image.affine, SCANNER)
        return header
    for name in PLACE_FIELDS:
        header[name] = image.header[name]
    header["pixdim"][:4] = image.header["pixdim"][:4]
    return header


def onto_voxels(image: Image, scan: Image) -> Image:
    """Bring an image onto a scan's voxels, each value to the voxel it was drawn on.

    It has to lie on the same voxels, in any order and direction of axes, by any place
    that either header gives. On a scan that does not say where it lies, what was drawn
    lies voxel by voxel (`is_laid_by_number`). No value is interpolated.

    Raises:
        UserError: it lies elsewhere, and in what it differs; its header says nothing of
            where it lies, or two places that bring its values to different voxels.
    """
    if not image.is_placed and scan.is_placed:
        raise UserError(
            f"the {image.meaning} does not say where its voxels lie (neither sform nor "
            "qform is set), so its left and right are not known; write it with the "
            "scan's affine."
        )
    if is_laid_by_number(image, scan):
        sizes = np.divide(image.spacing_mm, scan.spacing_mm)
        affine = scan.affine @ np.diag([*sizes, 1.0])
        image = replace(image, affine=affine, header=scan.header)
    found = [
        turned.voxels
        for place, scan_place in _pairs_of_places(image, scan)
        if not _misfit(
            turned := in_order_of(replace(image, affine=place), scan_place),
            replace(scan, affine=scan_place),
        )
    ]
    if not found:
        reason = _misfit(in_order_of(image, scan.affine), scan)
        raise UserError(
            f"the {image.meaning} {reason}; give one that was drawn on this scan."
        )
    if any(not np.array_equal(found[0], other, equal_nan=True) for other in found[1:]):
        raise UserError(
            f"the {image.meaning} fits the scan in two ways, as sform and qform "
            "disagree; write both files with one place (sform and qform alike)."
        )
    return scan.holding(found[0], image.meaning)


def is_laid_by_number(image: Image, scan: Image) -> bool:
    """Whether an image's file says where it lies, and that of its scan does not.

    Programs make up another place for such a scan each, and write it into what is drawn
    there; they agree on the order of its voxels.
    """
    return image.header is not None and image.is_placed and not scan.is_placed


def number_flags(images: Iterable[Image], scan: Image) -> tuple[str, ...]:
    """A flag that names the images that are laid on a scan voxel by voxel."""
    laid = [image.meaning for image in images if is_laid_by_number(image, scan)]
    if not laid:
        return ()
    return (
        f"the scan does not say where its voxels lie, but the {' and the '.join(laid)} "
        "does: laid on it voxel by voxel, in the order of the files",
    )


def _pairs_of_places(image: Image, scan: Image) -> list[tuple[Affine, Affine]]:
    """Which place of an image may be which of a scan's: form by form if their headers
    are alike, else each with each."""
    alike = len(image.places) == len(scan.places) and all(
        np.allclose(one, other, atol=ALIKE_MM)
        for one, other in zip(image.places, scan.places, strict=True)
    )
    if alike:
        return list(zip(image.places, scan.places, strict=True))
    return list(product(image.places, scan.places))


def in_order_of(image: Image, affine: Affine) -> Image:
    """The image with its axes permuted and flipped to run as those of an affine."""
    directions, wanted = (unit_axes(one) for one in (image.affine, affine))
    cosines = np.linalg.inv(wanted) @ directions  # row: wanted axis, column: own axis
    order = max(
        permutations(range(3)),
        key=lambda order: sum(abs(cosines[to, own]) for to, own in enumerate(order)),
    )
    flips = [cosines[to, own] < 0 for to, own in enumerate(order)]
    step = np.zeros((4, 4))
    step[3, 3] = 1
    for to, (own, flip) in enumerate(zip(order, flips, strict=True)):
        step[own, to] = -1 if flip else 1
        step[own, 3] = image.shape[own] - 1 if flip else 0
    voxels = image.voxels.transpose(order)
    voxels = voxels[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    return Image(voxels, image.affine @ step, image.meaning)


def _corners_of(shape: tuple[int, ...]) -> Float[np.ndarray, "4 8"]:
    """Homogeneous indices of the eight corner voxels."""
    ends = product(*((0.0, n - 1.0) for n in shape), [1.0])
    return np.array(list(ends)).T


def _misfit(image: Image, scan: Image) -> str:
    """In what an image with the scan's axis order does not lie on its voxels.

    Empty where it does; else a predicate: what differs first of number, size, direction
    and place of the voxels.
    """
    if image.shape != scan.shape:
        return (
            f"has {by(image.shape)} voxels where the scan, in the same order of axes, "
            f"has {by(scan.shape)}"
        )
    corners = _corners_of(scan.shape)
    there = np.linalg.inv(scan.affine) @ image.affine @ corners
    if np.abs(there - corners).max() <= SAME_VOXEL:
        return ""
    own, wanted = np.array(image.spacing_mm), np.array(scan.spacing_mm)
    if (np.abs(own - wanted) * scan.shape > SAME_SIZE * wanted).any():
        return (
            f"has voxels of {by(own)} mm and the scan, in the same order of axes, "
            f"of {by(wanted)} mm"
        )
    away = np.linalg.norm(((image.affine - scan.affine) @ corners)[:3], axis=0)
    middle_mm = np.linalg.norm(
        ((image.affine - scan.affine) @ corners.mean(axis=1))[:3]
    )
    turned = away.max() > 2 * middle_mm
    what = "is turned against the scan" if turned else "lies beside the scan's voxels"
    return f"{what} (corners are up to {away.max():.1f} mm apart)"


def by(
    numbers: tuple[int, ...] | tuple[float, ...] | Float[np.ndarray, " n"],
) -> str:
    """`512 x 512 x 28`."""
    return " x ".join(f"{one:.4g}" for one in numbers)


def nearest_ras(
    image: Image,
) -> tuple[Float32[np.ndarray, "z y x"], Affine]:
    """Voxels as (z, y, x) and the affine, with the axes nearest RAS in their order."""
    canonical = in_order_of(image, np.eye(4))
    voxels = canonical.voxels.transpose(2, 1, 0).astype(np.float32, copy=False)
    return np.ascontiguousarray(voxels), canonical.affine


def from_zyx(
    volume: Shaped[np.ndarray, "z y x"],
    affine: Affine,
    meaning: str,
) -> Image:
    """A volume in memory, (z, y, x), as an image at a place of its own."""
    return Image(volume.transpose(2, 1, 0), affine, meaning)
