"""Slices of a tilted gantry, or unevenly far apart: onto one regular grid, and back."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import nibabel as nib
import numpy as np
from jaxtyping import Float, Float32, Num, UInt8

from adn_jax.errors import UserError
from adn_jax.io.image import SAME_VOXEL, SCANNER, Image, in_order_of

SAME_PLACE_MM = 0.02
"""Slices nearer than this lie at the same place."""

HALF_WAY = 1e-3
"""Planes nearer than this to the middle between two slices, of their distance."""

FIRST_HALF = 0.4999
"""Where a plane midway between two slices of a mask is taken: the first decides."""

EVEN = 0.02
"""Distances that differ by less than this share of themselves are even."""


@dataclass(frozen=True)
class SliceStack:
    """Slices as they were taken, from the first to the last, and where each one lies.

    `values` is (x, y, z) as in NIfTI, one slice a z. `affine` takes a voxel of the
    first slice to mm (RAS+); its third column is a right angle to the slices, in the
    direction of their order. `origins_mm` is where voxel (0, 0) of each slice lies.
    """

    values: Num[np.ndarray, "x y z"]
    affine: Float[np.ndarray, "4 4"]
    origins_mm: Float[np.ndarray, "z 3"]

    @property
    def heights_mm(self) -> Float[np.ndarray, " z"]:
        """Distance of each slice from the first one, at a right angle to it."""
        return (self.origins_mm - self.origins_mm[0]) @ unit(self.affine[:3, 2])

    @property
    def shifts(self) -> Float[np.ndarray, "z 2"]:
        """How far each slice lies aside of the first one, in voxels (x, y)."""
        moved = self.origins_mm - self.origins_mm[0]
        steps = np.linalg.norm(self.affine[:3, :2], axis=0)
        return moved @ (self.affine[:3, :2] / steps) / steps

    @property
    def tilt_deg(self) -> float:
        """Angle between the way through the slices and their normal."""
        along = unit(self.origins_mm[-1] - self.origins_mm[0])
        cosine = along @ unit(self.affine[:3, 2])
        return float(np.rad2deg(np.arccos(np.clip(cosine, -1, 1))))

    @property
    def is_even(self) -> bool:
        """Whether the slices are evenly far apart."""
        return bool(_is_even(np.diff(self.heights_mm)))

    @property
    def is_upright(self) -> bool:
        """Whether the slices lie above each other, to half a voxel."""
        return bool(abs(self.shifts).max() < 0.5)

    @property
    def is_regular(self) -> bool:
        """Whether an affine with right angles says where every voxel lies."""
        return self.is_even and self.is_upright


def unit(vector: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3"]:
    """A vector of length 1 with the same direction; zero stays zero."""
    return vector / (np.linalg.norm(vector) or 1.0)


class Straightening(NamedTuple):
    """How the slices of a stack lie on its regular grid, in voxels of a slice.

    `shifts` is how far each slice is moved, `room` by how much the image grows,
    `grid_mm` the height of each slice of the grid.
    """

    shifts: Float[np.ndarray, "z 2"]
    room: Num[np.ndarray, "2"]
    grid_mm: Float[np.ndarray, " z2"]
    affine: Float[np.ndarray, "4 4"]


def straightening(stack: SliceStack) -> Straightening:
    """The regular grid of a stack: upright, as close as its closest slices."""
    heights, shifts = stack.heights_mm, stack.shifts
    if stack.is_regular:
        affine = _with_distance(stack.affine, float(np.diff(heights).mean()))
        return Straightening(0 * shifts, np.zeros(2, int), heights, affine)
    lowest = np.floor(shifts.min(axis=0) + 1e-3).astype(int)
    room = np.ceil(shifts.max(axis=0) - 1e-3).astype(int) - lowest
    step = grid_distance(heights)
    count = 1 + int(np.ceil(heights[-1] / step - 1e-3))
    affine = _with_distance(stack.affine, step)
    affine[:3, 3] += affine[:3, :2] @ lowest
    moves = np.clip(shifts - lowest, 0, room)
    return Straightening(moves, room, np.arange(count) * step, affine)


def straighten(
    stack: SliceStack, outside: float, *, is_mask: bool = False
) -> tuple[Float32[np.ndarray, "x2 y2 z2"], Float[np.ndarray, "4 4"]]:
    """Values on a grid with right angles and even distances, and its affine.

    Linear in the slice, where a tilted gantry moved it, and linear between slices. The
    image grows by what the slices were moved; `outside` fills that. A mask goes the
    same way as its image (`straighten_mask`), but for planes of the grid midway between
    two slices: there the first one decides, as half of either would make both.
    """
    way = straightening(stack)
    values = stack.values.astype(np.float32, copy=False)
    if stack.is_regular:
        return values, way.affine
    shape = (*(values.shape[:2] + way.room), len(values.T))
    upright = np.empty(shape, np.float32, order="F")
    for z, shift in enumerate(way.shifts):
        upright[:, :, z] = _move_slice(values[:, :, z], shift, way.room, outside)
    place = np.interp(way.grid_mm, stack.heights_mm, np.arange(len(stack.heights_mm)))
    if is_mask:
        halves = abs(place % 1 - 0.5) < HALF_WAY
        place = np.where(halves, np.floor(place) + FIRST_HALF, place)
    return _between_slices(upright, place), way.affine


def straighten_mask(mask: SliceStack) -> UInt8[np.ndarray, "x2 y2 z2"]:
    """A mask of a series' slices (0 and 1) on the grid of its straightened scan."""
    return (straighten(mask, 0.0, is_mask=True)[0] >= 0.5).astype(np.uint8)


def taken_image(stack: SliceStack, meaning: str) -> Image:
    """The slices as taken, as programs lay the series that they come from.

    The sform says where the slices lie, leaning where the gantry was tilted, which
    nibabel follows; the qform stands upright on the first slice, as ITK reads the
    series (dcm2niix writes both). Uneven distances are given by their mean.
    """
    count = len(stack.origins_mm) - 1
    upright = _with_distance(stack.affine, float(stack.heights_mm[-1] / count))
    leaning = upright.copy()
    leaning[:3, 2] = (stack.origins_mm[-1] - stack.origins_mm[0]) / count
    header = nib.Nifti1Header()
    header.set_data_shape(stack.values.shape)
    header.set_qform(upright, SCANNER)
    header.set_sform(leaning, SCANNER)
    return Image(stack.values, leaning, meaning, header)


def onto_slices(image: Image, stack: SliceStack) -> SliceStack:
    """An image that was drawn on a series as taken, in the order of its slices.

    Its header describes the series as one regular grid, which tilted or uneven slices
    do not form, and programs differ in which. So one of its end slices has to lie on
    the series' own, and the others follow by their number.

    Raises:
        UserError: it has another number of voxels, or lies elsewhere.
    """
    for place in image.places:
        turned = in_order_of(replace(image, affine=place), stack.affine)
        last = turned.shape[2] - 1
        if turned.shape == stack.values.shape and any(
            lies_on_slice(_at_slice(turned, z), stack, z) for z in (0, last)
        ):
            return replace(stack, values=turned.voxels)
    raise UserError(
        f"the {image.meaning} lies neither on the straightened scan nor on the "
        f"{len(stack.origins_mm)} slices of the series as taken; give one that was "
        "drawn on this scan."
    )


def _at_slice(image: Image, z: int) -> Image:
    """One slice of an image, at its own place."""
    affine = image.affine.copy()
    affine[:3, 3] += z * affine[:3, 2]
    return Image(image.voxels[:, :, z : z + 1], affine, image.meaning)


def lies_on_slice(one: Image, stack: SliceStack, z: int) -> bool:
    """Whether an image of one slice lies on slice `z` of a stack, to half a voxel."""
    x, y, _ = one.shape
    corners = np.array([(i, j, 0, 1) for i in (0, x - 1) for j in (0, y - 1)], float).T
    wanted = _with_distance(stack.affine, float(np.median(np.diff(stack.heights_mm))))
    wanted[:3, 3] = stack.origins_mm[z]
    there = np.linalg.inv(wanted) @ one.affine @ corners
    return bool(np.abs(there - corners).max() <= SAME_VOXEL)


def as_stack(image: Image) -> SliceStack:
    """An image as slices along its third axis, each at its own place."""
    affine = image.affine.copy()
    normal = np.cross(affine[:3, 0], affine[:3, 1])
    affine[:3, 2] = unit(normal) * np.sign(normal @ affine[:3, 2])
    steps = np.arange(image.shape[2])[:, None] * image.affine[:3, 2]
    return SliceStack(image.voxels, affine, image.affine[:3, 3] + steps)


def _is_even(distances_mm: Float[np.ndarray, " gaps"]) -> bool:
    """Whether slices lie evenly, but for what headers round."""
    return bool(np.ptp(distances_mm) <= EVEN * np.median(distances_mm))


def grid_distance(heights_mm: Float[np.ndarray, " z"]) -> float:
    """Distance of the slices of the regular grid: as close as the closest tenth.

    A single pair that lies closer, where two stacks meet, would only make more of them.
    There are at most twice as many as there were, and as many where they lie evenly.
    """
    distances = np.diff(heights_mm)
    if _is_even(distances):
        return float(distances.mean())
    close = np.quantile(distances, 0.1, method="higher")
    return float(max(close, heights_mm[-1] / (2 * len(heights_mm) - 1)))


def _with_distance(
    affine: Float[np.ndarray, "4 4"], distance_mm: float
) -> Float[np.ndarray, "4 4"]:
    """The affine with another distance between slices."""
    changed = affine.copy()
    changed[:3, 2] = unit(affine[:3, 2]) * distance_mm
    return changed


def _move_slice(
    values: Float32[np.ndarray, "x y"],
    shift: Float[np.ndarray, "2"],
    room: Num[np.ndarray, "2"],
    outside: float,
) -> Float32[np.ndarray, "x2 y2"]:
    """One slice moved by part of a voxel or more, in an image larger by `room`."""
    moved = values
    for axis in (0, 1):
        if room[axis] == 0:
            continue
        whole = int(np.floor(shift[axis]))
        part = np.float32(shift[axis] - whole)
        before, after = [(0, 0), (0, 0)], [(0, 0), (0, 0)]
        before[axis] = (whole, int(room[axis]) - whole)
        after[axis] = (whole + 1, int(room[axis]) - whole - 1)
        near = np.pad(moved, before, constant_values=outside)
        if part > 1e-3:
            far = np.pad(moved, after, constant_values=outside)
            near = (1 - part) * near + part * far
        moved = near
    return moved


def _between_slices(
    values: Float32[np.ndarray, "x y z"], place: Float[np.ndarray, " z2"]
) -> Float32[np.ndarray, "x y z2"]:
    """Linear interpolation at places that count slices."""
    below = np.minimum(place.astype(int), values.shape[2] - 2)
    shape = (*values.shape[:2], len(place))
    result = np.empty(shape, np.float32, order="F")  # slices in one piece
    for z, (lower, part) in enumerate(zip(below, place - below, strict=True)):
        result[:, :, z] = values[:, :, lower]
        result[:, :, z] += np.float32(part) * (
            values[:, :, lower + 1] - values[:, :, lower]
        )
    return result
