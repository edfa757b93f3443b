"""From one voxel grid to another: a box of it, the prepared grid, and the way back."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Num, UInt8
from scipy import ndimage

from adn_jax.config import PrepareSettings
from adn_jax.io.image import Affine, spacing_of
from adn_jax.io.nifti import unit_axes
from adn_jax.metrics.overlap import Spacing, voxel_ml

FWHM_PER_SIGMA = 2.3548
FACE_ROUNDING = 1e-4
"""Voxels by which a place on an outer face may lie beyond it: affines are rounded."""


@dataclass(frozen=True)
class Grid:
    """Number of voxels (z y x), and the affine from an index (x y z) to mm (RAS+)."""

    shape: tuple[int, int, int]
    affine: Affine

    @property
    def spacing_mm(self) -> Spacing:
        """Voxel size (z y x)."""
        return spacing_of(self.affine)

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel."""
        return voxel_ml(self.spacing_mm)

    def index_map(
        self, other: "Grid"
    ) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, "3"]]:
        """Matrix and offset (z y x) from another grid's indices to those of this."""
        to_index = np.linalg.inv(self.affine) @ other.affine
        return to_index[2::-1, 2::-1], to_index[2::-1, 3]

    def reaches(self, other: "Grid") -> Bool[np.ndarray, "z y x"]:
        """Voxels of another grid whose centre lies in this one or on its faces."""
        matrix, offset = self.index_map(other)
        steps = np.meshgrid(*map(np.arange, other.shape), indexing="ij", sparse=True)
        within = np.ones(other.shape, bool)
        for row, start, size in zip(matrix, offset, self.shape, strict=True):
            index = start + sum(
                slope * step for slope, step in zip(row, steps, strict=True)
            )
            within &= np.abs(index - (size - 1) / 2) <= size / 2 + FACE_ROUNDING
        return within


def box_around(
    mask: Bool[np.ndarray, "*axes"] | UInt8[np.ndarray, "*axes"],
    margins: int | Sequence[int],
) -> tuple[slice, ...]:
    """The smallest box that holds all of a mask, and a margin around it.

    Args:
        mask: what is not zero counts; (z, y, x), or (y, x).
        margins: voxels added at both ends of each axis, in the mask's order, as far as
            the grid goes; one number: of every axis.

    Raises:
        ValueError: the mask is empty.
    """
    found = ndimage.find_objects(mask.astype(bool).view(np.uint8))
    if not found:
        raise ValueError("an empty mask has no box around it")
    extra = np.broadcast_to(margins, mask.ndim).tolist()
    return tuple(
        slice(max(0, one.start - margin), min(end, one.stop + margin))
        for one, margin, end in zip(found[0], extra, mask.shape, strict=True)
    )


def shift_origin(affine: Affine, start: Sequence[int]) -> Affine:
    """Affine of a grid that begins at voxel `start` (z y x) of the affine's own.

    Negative: before its first voxel.
    """
    corner = np.eye(4)
    corner[:3, 3] = start[::-1]
    return affine @ corner


def centred_grid(
    scan_affine: Affine, centre_mm: Float[np.ndarray, "3"], settings: PrepareSettings
) -> Grid:
    """The prepared grid: along the scan's own axes around a point in mm.

    `scan_affine` is nearest RAS. Axes that are not at right angles are replaced by the
    nearest ones that are (polar decomposition), so that a rotation of the prepared grid
    is one of the head.
    """
    left, _, right = np.linalg.svd(unit_axes(scan_affine))
    affine = np.eye(4)
    affine[:3, :3] = (left @ right) * settings.spacing_mm[::-1]
    middle = (np.array(settings.shape[::-1]) - 1) / 2
    affine[:3, 3] = centre_mm - affine[:3, :3] @ middle
    return Grid(settings.shape, affine)


def blur_sigma(growth: float) -> float:
    """Sigma, in old voxels, of the blur by which voxels are `growth` times as wide."""
    return np.sqrt(growth**2 - 1) / FWHM_PER_SIGMA


def resample(
    volume: Num[np.ndarray, "z y x"],
    affine: Affine,
    to: Grid,
    *,
    order: int = 1,
    outside: float = 0.0,
    average: bool = True,
) -> Float32[np.ndarray, "to_z to_y to_x"]:
    """Values of a volume at the voxels of another grid, `outside` beyond its faces.

    Order 1 is linear, after a Gaussian along each axis whose voxels grow (the width
    that turns the old voxel's profile into the new one's; not without `average`);
    order 0 is nearest neighbour. From the centre of an outermost voxel to its face,
    half a voxel on, its value holds, as in ITK.
    """
    here = Grid(volume.shape, affine)
    matrix, offset = here.index_map(to)
    volume = volume.astype(np.float32, copy=False)
    if order > 0 and average:
        for axis, step in enumerate(np.linalg.norm(matrix, axis=1)):
            if step > 1.01:
                volume = ndimage.gaussian_filter1d(
                    volume, blur_sigma(step), axis, mode="nearest", truncate=3.0
                )
    values = ndimage.affine_transform(
        volume, matrix, offset, to.shape, order=order, mode="nearest"
    )
    values[~here.reaches(to)] = outside
    return values


def fill_beyond(
    volume: Num[np.ndarray, "z y x"], affine: Affine, scan: Grid
) -> Num[np.ndarray, "z y x"]:
    """Let the voxels next to a scan take the nearest value that lies in the scan.

    A voxel whose centre the scan does not reach knows nothing of it, yet without this
    it would have a say in the scan's outermost slice, which lies between the two.
    """
    within = scan.reaches(Grid(volume.shape, affine))
    if within.all() or not within.any():
        return volume
    near = box_around(within, 1)
    filled = volume.copy()
    filled[near] = take_nearest(volume[near], within[near], spacing_of(affine))
    return filled


def take_nearest(
    volume: Num[np.ndarray, "z y x"],
    known: Bool[np.ndarray, "z y x"],
    spacing_mm: Spacing,
) -> Num[np.ndarray, "z y x"]:
    """The volume with the value of the nearest known voxel at each that is not."""
    nearest = ndimage.distance_transform_edt(
        ~known, sampling=spacing_mm, return_distances=False, return_indices=True
    )
    return volume[tuple(nearest)]


def shrink(
    volume: Num[np.ndarray, "z y x"], affine: Affine, smallest_mm: Spacing
) -> tuple[Float32[np.ndarray, "z2 y2 x2"], Affine]:
    """Average whole blocks of voxels until they are about `smallest_mm` (z y x) wide.

    Returns the smaller volume and its affine; voxels that fill no block are dropped.
    """
    factors = [
        max(1, round(smallest / spacing))
        for smallest, spacing in zip(smallest_mm, spacing_of(affine), strict=True)
    ]
    blocks = [n // factor for n, factor in zip(volume.shape, factors, strict=True)]
    kept = volume[tuple(slice(n * f) for n, f in zip(blocks, factors, strict=True))]
    for axis, (count, factor) in enumerate(zip(blocks, factors, strict=True)):
        if factor > 1:
            shape = (*kept.shape[:axis], count, factor, *kept.shape[axis + 1 :])
            kept = kept.reshape(shape).mean(axis=axis + 1, dtype=np.float32)
    step = np.array(factors[::-1], float)
    smaller = affine @ np.diag([*step, 1.0])
    smaller[:3, 3] = (affine @ np.array([*(step - 1) / 2, 1.0]))[:3]
    return kept.astype(np.float32, copy=False), smaller
