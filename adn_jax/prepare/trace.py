"""Soft tissue that bone surrounds, followed from slice to slice.

Radii and areas are in mm and cm²; `spacing_mm` is that of rows and columns (y x).
"""

import numpy as np
from jaxtyping import Bool, Int
from scipy import ndimage

from adn_jax.errors import UserError

START_CM2 = 15.0
"""The largest slice of a brain is larger than this, eroded."""
CANAL_CM2 = 5.0
"""Below the foramen magnum the canal is smaller than this, eroded."""
REGION_CM2 = 1.0
"""Smaller regions of a slice, eroded, are no brain: air cells, marrow, orbit."""
OVERLAP = 0.5
"""Share of a region that must lie under or over the brain of the slice before."""


def disk(
    radius_mm: float, spacing_mm: tuple[float, float]
) -> Bool[np.ndarray, "1 y x"]:
    """Structuring element: a disk in the slice, at least one voxel wide each way."""
    rows, columns = (max(1, int(radius_mm / spacing)) for spacing in spacing_mm)
    y, x = np.ogrid[-rows : rows + 1, -columns : columns + 1]
    within = (y * spacing_mm[0]) ** 2 + (x * spacing_mm[1]) ** 2 <= radius_mm**2
    within[rows, :] |= abs(x[0]) <= 1
    within[:, columns] |= abs(y[:, 0]) <= 1
    return within[None]


def rays_that_meet(bone: Bool[np.ndarray, "z y x"]) -> Int[np.ndarray, "z y x"]:
    """How many of the eight rays from a voxel, in its slice, meet bone."""
    count = np.zeros(bone.shape, np.int8)
    for flipped, total in ((bone, count), (bone[:, ::-1], count[:, ::-1])):
        for step in (-1, 0, 1):
            total += met_on_the_way(flipped, step)
    for flipped, total in ((bone, count), (bone[..., ::-1], count[..., ::-1])):
        total += np.logical_or.accumulate(flipped, axis=2)
    return count


def met_on_the_way(
    bone: Bool[np.ndarray, "z y x"], step: int
) -> Bool[np.ndarray, "z y x"]:
    """Whether bone was met on the way through the rows, `step` columns a row."""
    met = bone.copy()
    for row in range(1, bone.shape[1]):
        before = met[:, row - 1]
        if step > 0:
            met[:, row, 1:] |= before[:, :-1]
        elif step < 0:
            met[:, row, :-1] |= before[:, 1:]
        else:
            met[:, row] |= before
    return met


def trace(
    core: Bool[np.ndarray, "z y x"], spacing_mm: tuple[float, float]
) -> Bool[np.ndarray, "z y x"]:
    """Follow the largest region of any slice up and down.

    A region of the next slice is kept where most of it lies over or under the brain of
    the slice before: the throat, under the skull base, does not.
    """
    voxel_cm2 = spacing_mm[0] * spacing_mm[1] / 100
    regions = [regions_of(one) for one in core]
    largest = [max(sizes, default=0) * voxel_cm2 for _, sizes in regions]
    start = int(np.argmax(largest))
    if largest[start] < START_CM2:
        raise UserError(
            "no brain was found (nowhere does bone surround soft tissue of its size); "
            "give a CT of a whole head in Hounsfield units."
        )
    kept = np.zeros_like(core)
    labels, sizes = regions[start]
    kept[start] = labels == 1 + int(np.argmax(sizes))
    up, down = range(start + 1, len(core)), range(start - 1, -1, -1)
    for order, end_cm2 in ((up, REGION_CM2), (down, CANAL_CM2)):
        before = kept[start]
        for z in order:
            before = follow(*regions[z], before, REGION_CM2 / voxel_cm2)
            if before.sum() * voxel_cm2 < end_cm2:
                break
            kept[z] = before
    return kept


def regions_of(
    mask: Bool[np.ndarray, "y x"],
) -> tuple[Int[np.ndarray, "y x"], Int[np.ndarray, " regions"]]:
    """Connected regions of a slice, numbered from 1, and their sizes in voxels."""
    labels, _ = ndimage.label(mask)
    return labels, np.bincount(labels.ravel())[1:]


def follow(
    labels: Int[np.ndarray, "y x"],
    sizes: Int[np.ndarray, " regions"],
    before: Bool[np.ndarray, "y x"],
    smallest: float,
) -> Bool[np.ndarray, "y x"]:
    """The regions of a slice that mostly overlap the mask of the slice before.

    `smallest` is the least size in voxels.
    """
    shared = np.bincount(labels[before], minlength=len(sizes) + 1)[1:]
    wanted = (shared >= OVERLAP * sizes) & (sizes >= smallest)
    return np.isin(labels, 1 + np.flatnonzero(wanted))
