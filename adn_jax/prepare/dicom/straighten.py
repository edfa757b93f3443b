"""Slices of a tilted gantry, or unevenly far apart, brought onto one regular grid."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Num

SAME_PLACE_MM = 0.02
"""Slices nearer than this lie at the same place."""

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
    def is_regular(self) -> bool:
        """Whether an affine with right angles says where every voxel lies."""
        distances = np.diff(self.heights_mm)
        even = np.ptp(distances) <= EVEN * np.median(distances)
        return bool(even and abs(self.shifts).max() < 0.5)


def unit(vector: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3"]:
    """A vector of length 1 with the same direction; zero stays zero."""
    return vector / (np.linalg.norm(vector) or 1.0)


def straighten(
    stack: SliceStack, outside: float
) -> tuple[Float32[np.ndarray, "x2 y2 z2"], Float[np.ndarray, "4 4"]]:
    """Values on a grid with right angles and even distances, and its affine.

    Linear in the slice, where a tilted gantry moved it, and linear between slices. The
    image grows by what the slices were moved; `outside` fills that. A mask goes the
    same way as its image: as 0 and 1 with `outside` 0, then cut at one half.
    """
    heights, shifts = stack.heights_mm, stack.shifts
    values = stack.values.astype(np.float32, copy=False)
    if stack.is_regular:
        return values, with_distance(stack.affine, float(np.diff(heights).mean()))
    lowest = np.floor(shifts.min(axis=0) + 1e-3).astype(int)
    room = np.ceil(shifts.max(axis=0) - 1e-3).astype(int) - lowest
    shape = (*(values.shape[:2] + room), len(heights))
    upright = np.empty(shape, np.float32, order="F")
    for z, shift in enumerate(np.clip(shifts - lowest, 0, room)):
        upright[:, :, z] = move(values[:, :, z], shift, room, outside)
    step = grid_distance(heights)
    count = 1 + int(np.ceil(heights[-1] / step - 1e-3))
    affine = with_distance(stack.affine, step)
    affine[:3, 3] += affine[:3, :2] @ lowest
    return between_slices(upright, heights, np.arange(count) * step), affine


def grid_distance(heights_mm: Float[np.ndarray, " z"]) -> float:
    """Distance of the slices of the regular grid: as close as the closest tenth.

    A single pair that lies closer, where two stacks meet, would only make more of them.
    There are at most twice as many as there were.
    """
    close = np.quantile(np.diff(heights_mm), 0.1, method="higher")
    return float(max(close, heights_mm[-1] / (2 * len(heights_mm) - 1)))


def with_distance(
    affine: Float[np.ndarray, "4 4"], distance_mm: float
) -> Float[np.ndarray, "4 4"]:
    """The affine with another distance between slices."""
    changed = affine.copy()
    changed[:3, 2] = unit(affine[:3, 2]) * distance_mm
    return changed


def move(
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


def between_slices(
    values: Float32[np.ndarray, "x y z"],
    heights_mm: Float[np.ndarray, " z"],
    wanted_mm: Float[np.ndarray, " z2"],
) -> Float32[np.ndarray, "x y z2"]:
    """Linear interpolation between slices at other heights."""
    place = np.interp(wanted_mm, heights_mm, np.arange(len(heights_mm)))
    below = np.minimum(place.astype(int), len(heights_mm) - 2)
    shape = (*values.shape[:2], len(wanted_mm))
    result = np.empty(shape, np.float32, order="F")  # slices in one piece
    for z, (lower, part) in enumerate(zip(below, place - below, strict=True)):
        result[:, :, z] = values[:, :, lower]
        result[:, :, z] += np.float32(part) * (
            values[:, :, lower + 1] - values[:, :, lower]
        )
    return result
