"""Gaps in the skull, closed by a wall where the bone around them says it would be.

Craniectomies, open fontanelles, and heads that the field of view cuts. Seen from within
the head the inner table is a smooth function of the direction: spherical harmonics are
fitted to it where there is bone, and tell how far away it would be where there is none.
Directions are unit vectors (z y x), radii are in mm.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

# it is compiled and has no stubs
from scipy.spatial import cKDTree  # ty: ignore[missing-module-member]
from scipy.special import sph_harm_y

from adn_jax.metrics.overlap import Mask, Spacing
from adn_jax.scans.hounsfield import FLOOR_HU, HuVolume

DIRECTIONS = 4000
"""Seen from the middle of a head they are 4 mm apart on the skull."""
APART = np.sqrt(4 * np.pi / DIRECTIONS)
DEGREE = 8
"""Of the harmonics: what is finer than about 45 degrees is no shape of a skull."""
PLIANT, STIFF = 1e-3, 0.1
"""Weight of a shell's bending: to follow the bone there is, and to bridge a gap."""
LOWEST = -0.7
"""Directions further down (44 degrees below the slice) meet the face and the neck."""
RADII_MM = np.arange(35.0, 130.0)
TABLE_MM = (-12.0, 25.0)
"""Bone so far inside and outside of the fitted inner table is the skull."""
LEAST_CM2 = 8.0
"""Smaller gaps lose 3 mL at most: of eight rays seven meet bone."""
MOST_OPEN = 0.4
"""Fraction of the directions without bone; what is more open is no skull."""
LEAST_SKULL = 0.8
"""Fraction of the bone that lies at the fitted shell; of ribs little does."""
ASTRAY_MM = 10.0
SKIN_HU = -300.0
OUTER_AIR_MM = 15
"""So much air in a row lies outside the head; less, between a flap and the brain."""
WALL_MM = 8.0
SLICE_MARGIN_MM = 40.0
"""Added around the slices: the brain behind a gap may bulge, or leave the image."""

Rays = Bool[np.ndarray, " n"]
"""One value for each direction of `sphere`."""
Radii = Float[np.ndarray, " n"]


@dataclass(frozen=True)
class Gap:
    """Directions without bone, how far the brain reaches there, and the gap's size."""

    centre: Float[np.ndarray, "3"]
    directions: Float[np.ndarray, "n 3"]
    reach_mm: Float[np.ndarray, " n"]
    cm2: float

    def wall(
        self, shape: tuple[int, int, int], spacing_mm: Spacing, first: Sequence[int]
    ) -> Mask:
        """Voxels of a wall that closes the gap.

        They are on a grid of `shape` whose voxel `first` is voxel 0 of the gap's own.
        """
        middle = self.centre + np.array(first)
        axes = [
            (np.arange(n, dtype=np.float32) - at) * np.float32(size)
            for n, at, size in zip(shape, middle, spacing_mm, strict=True)
        ]
        z, y, x = np.ix_(*axes)
        radius = np.sqrt(z**2 + y**2 + x**2)
        low, high = self.reach_mm.min(), self.reach_mm.max() + WALL_MM
        wall = (radius >= low) & (radius <= high)
        index = np.nonzero(wall)
        places = np.stack(
            [axis[one] for axis, one in zip(axes, index, strict=True)], axis=1
        )
        _, nearest = cKDTree(self.directions).query(
            places / radius[wall][:, None], distance_upper_bound=APART
        )
        depth = radius[wall] - np.append(self.reach_mm, np.inf)[nearest]
        wall[index] = (depth >= 0) & (depth <= WALL_MM)
        return wall


def find_gap(
    hu: HuVolume, bone: Mask, spacing_mm: Spacing, bone_hu: float
) -> Gap | None:
    """The gaps of a skull that are large enough to lose brain; None: it has none.

    Nor is there a gap to close if the bone does not make a skull.
    """
    # The middle of the soft tissue inside bone, of the slices where it is large.
    soft = (hu > 0) & (hu < 100) & ~bone & (rays_that_meet(bone) >= 5)
    core = ndimage.binary_erosion(soft, disk(3.0, spacing_mm[1:]))
    areas = core.sum(axis=(1, 2))
    if not areas.any():
        return None
    large = core & (areas >= areas.max() / 2)[:, None, None]
    centre = np.array(ndimage.center_of_mass(large))

    # HU along rays from there to all directions.
    steps = sphere().T[:, :, None] * RADII_MM / np.array(spacing_mm)[:, None, None]
    rays = ndimage.map_coordinates(
        np.clip(hu, FLOOR_HU, -FLOOR_HU),
        centre[:, None, None] + steps,
        order=1,
        cval=FLOOR_HU,  # outside the image, as padding
    )
    is_bone, above = rays > bone_hu, sphere()[:, 0] > LOWEST

    # Bone is skull if it lies about the smooth shell through most of it.
    met = is_bone.any(axis=1) & above
    shell, fraction = smooth_shell(RADII_MM[is_bone.argmax(axis=1)], met, PLIANT)
    off = RADII_MM - shell[:, None]
    at_shell = is_bone & (off >= TABLE_MM[0]) & (off <= TABLE_MM[1])
    closed = at_shell.any(axis=1) & above
    inner = np.where(closed, RADII_MM[at_shell.argmax(axis=1)], np.nan)

    # The skull is open where the scan shows the shell and there is no bone at it.
    table, _ = smooth_shell(inner, np.isfinite(inner), STIFF)
    height = centre[0] + sphere()[:, 0] * table / spacing_mm[0]
    seen = (height >= -0.5) & (height <= len(hu) - 0.5) & above
    is_open = seen & np.isnan(inner)
    if fraction < LEAST_SKULL or is_open.sum() > MOST_OPEN * seen.sum():
        return None
    patch_cm2 = table**2 * (4 * np.pi / DIRECTIONS) / 100
    found = in_large_groups(is_open, patch_cm2)
    if not found.any():
        return None
    reach = _reach_of_brain(rays, is_bone, table, inner)
    return Gap(centre, sphere()[found], reach[found], float(patch_cm2[found].sum()))


@cache
def sphere() -> Float[np.ndarray, "n 3"]:
    """Directions spread evenly over the sphere (Fibonacci's spiral)."""
    index = np.arange(DIRECTIONS) + 0.5
    z, turn = 1 - 2 * index / DIRECTIONS, index * np.pi * (3 - np.sqrt(5))
    radius = np.sqrt(1 - z**2)
    return np.stack([z, radius * np.sin(turn), radius * np.cos(turn)], axis=1)


@cache
def _harmonics() -> tuple[Float[np.ndarray, "n terms"], Float[np.ndarray, " terms"]]:
    """Real spherical harmonics of every direction, and how much each one bends."""
    z, y, x = sphere().T
    polar, azimuth = np.arccos(z), np.arctan2(y, x)
    orders = [(n, m) for n in range(DEGREE + 1) for m in range(-n, n + 1)]
    values = [sph_harm_y(n, abs(m), polar, azimuth) for n, m in orders]
    parts = [
        one.imag if m < 0 else one.real
        for (_, m), one in zip(orders, values, strict=True)
    ]
    bending = np.array([(n * (n + 1.0)) ** 2 for n, _ in orders])
    return np.stack(parts, axis=1), bending


def smooth_shell(
    radius_mm: Radii, known: Rays, stiffness: float
) -> tuple[Radii, float]:
    """Radii of a smooth shell in every direction, through the known ones.

    What lies far off (calcifications, a clip, the face) is left out step by step.
    Also returns the fraction of the known ones that lie at the shell.
    """
    terms, bending = _harmonics()
    used, shell = known, np.full(DIRECTIONS, RADII_MM[0])
    for _ in range(4):
        if not used.any():
            return shell, 0.0
        chosen = terms[used]
        normal = chosen.T @ chosen + stiffness * np.diag(bending + 1e-6)
        shell = terms @ np.linalg.solve(normal, chosen.T @ radius_mm[used])
        used = known & (np.abs(radius_mm - shell) < ASTRAY_MM)
    return shell, float(used.sum() / known.sum())


def in_large_groups(chosen: Rays, patch_cm2: Radii) -> Rays:
    """The directions whose connected group is at least `LEAST_CM2` large."""
    index = np.flatnonzero(chosen)
    pairs = cKDTree(sphere()[index]).query_pairs(1.7 * APART, output_type="ndarray")
    graph = coo_array((np.ones(len(pairs)), pairs.T), shape=(len(index),) * 2)
    group = connected_components(graph, directed=False)[1]
    area = np.bincount(group, patch_cm2[index])
    large = np.zeros_like(chosen)
    large[index] = area[group] >= LEAST_CM2 if len(index) else False
    return large


def _reach_of_brain(
    rays: Float[np.ndarray, "n radii"],
    is_bone: Bool[np.ndarray, "n radii"],
    table: Radii,
    inner: Radii,
) -> Radii:
    """How far the brain reaches in every direction, were there a gap.

    As far as the inner table would lie, or under the scalp if that has sunk in; as deep
    under the skin as around the gap if it bulges. `inner` is the inner table, NaN where
    there is none.
    """
    # The head ends where much air begins; the image, or its padding, may cut it before.
    off = RADII_MM - table[:, None]
    ahead = ndimage.maximum_filter1d(
        (rays > SKIN_HU) & (off <= SLICE_MARGIN_MM),
        OUTER_AIR_MM,
        axis=1,
        origin=-(OUTER_AIR_MM // 2),
        mode="constant",
    )
    ends = (~ahead & (off >= -SLICE_MARGIN_MM)).argmax(axis=1)
    past = np.minimum(ends[:, None] + [2, 3, 4], len(RADII_MM) - 1)
    is_cut = (np.take_along_axis(rays, past, axis=1) <= FLOOR_HU).all(axis=1)
    skin = np.where(is_cut, np.inf, RADII_MM[ends])

    outer = RADII_MM[::-1][is_bone[:, ::-1].argmax(axis=1)]
    whole = np.isfinite(inner) & ~is_cut & (outer < skin)
    if not whole.any():
        return table
    depth, _ = smooth_shell(np.where(whole, skin - inner, 0), whole, STIFF)
    scalp = float(np.median((skin - outer)[whole]))
    sunken = np.minimum(table, skin - scalp)
    return np.maximum(sunken, np.where(is_cut, 0, skin - depth))


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


def rays_that_meet(bone: Mask) -> Int[np.ndarray, "z y x"]:
    """How many of the eight rays from a voxel, in its slice, meet bone."""
    count = np.zeros(bone.shape, np.int8)
    for y, x in product((1, -1), repeat=2):  # along a diagonal each
        met = bone[:, ::y, ::x].copy()
        for row in range(1, met.shape[1]):
            met[:, row, 1:] |= met[:, row - 1, :-1]
        count[:, ::y, ::x] += met
    for axis in (1, 2):
        count += np.logical_or.accumulate(bone, axis)
        back = np.logical_or.accumulate(np.flip(bone, axis), axis)
        count += np.flip(back, axis)
    return count
