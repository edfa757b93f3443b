"""The healthy head: template, pose, deformation, tissue and CT numbers.

Head coordinates are millimetres, x to the right, y to the front, z to the top, with
the mid-sagittal plane at x = 0. Every smooth quantity is drawn on a lattice in head
coordinates, evaluated on coarse knots of the scan and interpolated from there; only
the template itself is sampled at every point of the scan.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import ndimage
from scipy.spatial.transform import Rotation

from adn_jax.phantom.settings import Difficulty
from adn_jax.phantom.template import TEMPLATE_STEP, load_template, sample_template

KNOT_MM = 8.0

LATTICE_HALF_MM = 128.0

HEAD_CENTRE_MM = np.array([0.0, -15.0, 8.0])

PHANTOM_VENTRICLE_MM = np.array([14.0, -15.0, 14.0])

VENTRICLE_REACH_MM = 20.0

CSF_RIM_MM = 2.0

SKULL_MM = 6.5

SCALP_MM = 5.0

DEEP_TISSUE_HU = ((-2.2, -1.9, -1.0, -0.5, 1.0, 1.4), (-900, -80, -70, 45, 60, 600))
"""Below the skull base a random texture becomes air, fat, muscle, bone in this order.
"""

GridPoints = Float[np.ndarray, "3 z y x"]

HeadMap = Float[np.ndarray, "z y x"]

Values = Float[Any, "*shape"]
"""Arrays of NumPy or JAX: drawn heads use the same functions."""


@dataclass(frozen=True)
class SamplePoints:
    """Sample points of a scan: centred axes in mm, `per_slice` samples a slice."""

    z: Float[np.ndarray, " z"]
    y: Float[np.ndarray, " y"]
    x: Float[np.ndarray, " x"]
    per_slice: int


@dataclass(frozen=True)
class PhantomHead:
    """A healthy head at the sample points of a scan; fractions add up to at most 1."""

    grey: HeadMap
    white: HeadMap
    csf: HeadMap
    ct: HeadMap


def sample_points(slice_mm: float, difficulty: Difficulty) -> SamplePoints:
    """Sample points: voxel centres in plane, several points through each slice."""
    depth, height, width = difficulty.field_of_view_mm
    slices = round(depth / slice_mm)
    per_slice = max(2, round(slice_mm / 3.0))

    def centred(count: int, step: float) -> np.ndarray:
        return ((np.arange(count) - (count - 1) / 2) * step).astype(np.float32)

    return SamplePoints(
        z=centred(slices * per_slice, slice_mm / per_slice),
        y=centred(difficulty.in_plane, height / difficulty.in_plane),
        x=centred(difficulty.in_plane, width / difficulty.in_plane),
        per_slice=per_slice,
    )


def average_slices(
    values: Float[np.ndarray, "s y x"], per_slice: int
) -> Float[np.ndarray, "z y x"]:
    """Mean of the samples of each slice: the partial volume effect."""
    return values.reshape(-1, per_slice, *values.shape[1:]).mean(1)


def head_to_world(
    rotation_deg: Float[np.ndarray, "3"], shift_mm: Float[np.ndarray, "3"]
) -> Float[np.ndarray, "4 4"]:
    """Pose of the head: turned about its centre (x, then y, then z), then shifted.

    The centre of the head comes to rest at `shift_mm`; the scanner's is the origin.
    """
    rotation = Rotation.from_euler("xyz", rotation_deg, degrees=True).as_matrix()
    pose = np.eye(4)
    pose[:3, :3] = rotation
    pose[:3, 3] = shift_mm - rotation @ HEAD_CENTRE_MM
    return pose


def random_lattice(
    rng: np.random.Generator, length_mm: float
) -> Float[np.ndarray, "n n n"]:
    """Independent normal values every `length_mm` of the head, as z y x."""
    half = int(np.ceil(LATTICE_HALF_MM / length_mm))
    return rng.standard_normal((2 * half + 1,) * 3)


def evaluate_lattice(
    lattice: Float[np.ndarray, "n n n"], points: GridPoints, length_mm: float
) -> HeadMap:
    """Cubic interpolation of a lattice at `points` (x y z in mm), variance near 1."""
    index = points[::-1] / length_mm + (len(lattice) - 1) / 2
    values = ndimage.map_coordinates(lattice, index, order=3, mode="nearest")
    return values * 1.3  # between the knots the interpolation averages


def sided_field(
    rng: np.random.Generator,
    points: GridPoints,
    length_mm: float,
    shared: float,
    sided: float,
    odd: bool = False,
) -> HeadMap:
    """Smooth random field: `shared` by both sides, plus `sided`, each side its own.

    The shared part is even in x, or odd: then it suits displacements along x.
    """
    lattice, own = random_lattice(rng, length_mm), random_lattice(rng, length_mm)
    mirrored = -lattice[:, :, ::-1] if odd else lattice[:, :, ::-1]
    mixed = shared * (lattice + mirrored) / np.sqrt(2) + sided * own
    return evaluate_lattice(mixed, points, length_mm)


def ramp(distance: Values, width: Any) -> Values:
    """0 to 1 over `width` around distance 0: a surface with partial volume."""
    return (0.5 + distance / width).clip(0.0, 1.0)


def knots(axis: Float[np.ndarray, " n"]) -> Float[np.ndarray, " k"]:
    """Even knots, at most `KNOT_MM` apart, from end to end of an axis."""
    count = int(np.ceil(np.ptp(axis) / KNOT_MM)) + 1
    return np.linspace(axis[0], axis[-1], max(count, 2), dtype=np.float32)


def interpolation(
    knots: Float[np.ndarray, " k"], points: Float[np.ndarray, " n"]
) -> Float[np.ndarray, "n k"]:
    """Weights of linear interpolation from even knots to points between them."""
    weights = 1 - np.abs(points[:, None] - knots) / (knots[1] - knots[0])
    return np.maximum(weights, 0).astype(np.float32)


def refine(coarse: Float[np.ndarray, "k l m"], grid: SamplePoints) -> HeadMap:
    """Values at the knots of a scan -> values at its sample points."""
    z, y, x = (interpolation(knots(axis), axis) for axis in (grid.z, grid.y, grid.x))
    return np.tensordot(z, y @ (coarse.astype(np.float32) @ x.T), 1)


def points_in_head(
    z: Float[np.ndarray, " z"],
    y: Float[np.ndarray, " y"],
    x: Float[np.ndarray, " x"],
    pose: Float[np.ndarray, "4 4"],
) -> GridPoints:
    """Head coordinates (x y z) of all points with these scanner coordinates."""
    turn = pose[:3, :3].T.astype(np.float32)
    shift = (pose[:3, :3].T @ pose[:3, 3]).astype(np.float32)
    axes = (x, y[:, None], z[:, None, None])
    return np.stack(
        [
            sum(turn[row, column] * axes[column] for column in range(3)) - shift[row]
            for row in range(3)
        ]
    )


def keep_mid_plane(moved: Values, resting: Values) -> Values:
    """x after a displacement that fades towards x = 0, so that this plane stays there.

    Args:
        moved: x of points after their displacement, in mm.
        resting: x before it.
    """
    free = resting**2 / (resting**2 + 100.0)
    return resting + free * (moved - resting)


def _displacement(
    rng: np.random.Generator,
    points: GridPoints,
    length_mm: float,
    shared: float,
    sided: float,
) -> GridPoints:
    """Smooth random displacement of each point in mm (see `sided_field`)."""
    return np.stack(
        [
            sided_field(rng, points, length_mm, shared, sided, odd=axis == 0)
            for axis in range(3)
        ]
    )


def _skull_map(
    rng: np.random.Generator, points: GridPoints, difficulty: Difficulty
) -> GridPoints:
    """Map head coordinates to the template by size and a deformation of long waves."""
    scale = rng.uniform(*difficulty.head_scale) * rng.normal(1.0, 0.015, 3)
    resting = points / scale[:, None, None, None]
    moved = resting + _displacement(
        rng, points, 70.0, difficulty.deformation_mm, 0.5 * difficulty.asymmetry_mm
    )
    moved[0] = keep_mid_plane(moved[0], resting[0])
    return moved


def _brain_map(
    rng: np.random.Generator, skull: GridPoints, depth: HeadMap, difficulty: Difficulty
) -> GridPoints:
    """Add what moves inside the skull: shorter waves, and ventricles of any size.

    `depth` is the distance to the brain's surface in mm, where the brain keeps still.
    """
    growth = rng.uniform(*difficulty.ventricle) + (
        rng.normal(0.0, difficulty.ventricle_asymmetry, 2)
    )
    waves = _displacement(
        rng, skull, 35.0, 0.5 * difficulty.deformation_mm, difficulty.asymmetry_mm
    )
    moved = skull + waves * np.clip(depth / 20.0, 0.0, 1.0)
    for side, grown in zip((-1, 1), np.clip(growth, -0.3, 0.6), strict=True):
        centre = PHANTOM_VENTRICLE_MM * (side, 1, 1)
        away = skull - centre[:, None, None, None]
        reach = np.exp(-(away**2).sum(0) / (2 * VENTRICLE_REACH_MM**2))
        moved -= grown * reach * away
    moved[0] = keep_mid_plane(moved[0], skull[0])
    return moved


def build_head(
    rng: np.random.Generator,
    pose: Float[np.ndarray, "4 4"],
    grid: SamplePoints,
    difficulty: Difficulty,
) -> PhantomHead:
    """Draw a healthy head and look at it from a pose, without noise."""
    template = load_template()
    distances = template.distance_origin, float(TEMPLATE_STEP)
    coarse = points_in_head(knots(grid.z), knots(grid.y), knots(grid.x), pose)
    skull_coarse = _skull_map(rng, coarse, difficulty)
    depth = -sample_template(template.brain_distance, *distances, skull_coarse)
    brain_coarse = _brain_map(rng, skull_coarse, depth, difficulty)
    to_skull = np.stack([refine(axis, grid) for axis in skull_coarse])
    to_tissue = np.stack([refine(axis, grid) for axis in brain_coarse])

    def field(length_mm: float, shared: float, sided: float) -> HeadMap:
        return refine(sided_field(rng, coarse, length_mm, shared, sided), grid)

    own = float(difficulty.asymmetry_mm > 0)
    uneven = field(35.0, 0.05, difficulty.atrophy_asymmetry)
    atrophy = np.clip(rng.uniform(*difficulty.atrophy) + uneven, 0.2, 0.75)
    regional = field(40.0, 0.3, difficulty.regional_hu)
    skull_mm = SKULL_MM + field(45.0, 0.7, 0.5 * own)
    texture = field(14.0, 0.7, 0.7 * own)

    to_head = sample_template(template.head_distance, *distances, to_skull)
    inside = to_head < CSF_RIM_MM + SKULL_MM + SCALP_MM + 5.0
    to_brain = np.full_like(to_head, 99.0)
    to_brain[inside] = sample_template(
        template.brain_distance, *distances, to_skull[:, inside]
    )
    cranial = ramp(CSF_RIM_MM - to_brain, 1.5)
    grey, white = np.zeros_like(to_head), np.zeros_like(to_head)
    inside = cranial > 0
    for filled, tissue in ((grey, template.grey), (white, template.white)):
        filled[inside] = sample_template(
            tissue, template.origin, 1.0, to_tissue[:, inside]
        )
    total = np.maximum(grey + white, 1e-3)
    share = cranial * ramp(total - atrophy, 0.4) / total
    grey, white = grey * share, white * share
    csf = cranial - grey - white
    ct = (
        grey * (difficulty.grey_hu + regional)
        + white * (difficulty.white_hu + regional)
        + csf * difficulty.csf_hu
        + surroundings(to_brain, to_head, cranial, skull_mm, texture)
    )
    return PhantomHead(grey, white, csf, ct.astype(np.float32))


def surroundings(
    to_brain: HeadMap,
    to_head: HeadMap,
    cranial: HeadMap,
    skull: HeadMap,
    texture: HeadMap,
) -> HeadMap:
    """CT numbers of skull, soft tissue and air, weighted by their share of a voxel.

    The skull has two dense tables and marrow between them; below its base lies the
    soft tissue of face and neck, around all a scalp of fat under skin.
    """
    outer = CSF_RIM_MM + skull
    table = ramp(outer - to_head, 1.5)
    bone = np.minimum(ramp(outer - to_brain, 1.5), table)
    head = ramp(outer + SCALP_MM - to_head, 1.5)
    depth = np.clip((to_brain - CSF_RIM_MM) / skull, 0.0, 1.0)
    spongy = np.clip(1.3 - np.abs(2 * depth - 1) * 1.6, 0.0, 1.0)
    bone_hu = 1300.0 - spongy * (420.0 + 110.0 * texture)
    under_skin = np.clip((outer + SCALP_MM - to_head) / 2.0, 0.0, 1.0)
    scalp_hu = 35.0 - 105.0 * under_skin + 12.0 * texture
    deep = np.maximum(table - bone, 0.0)
    deep_hu = np.zeros_like(deep)
    deep_hu[deep > 0] = np.interp(texture[deep > 0], *DEEP_TISSUE_HU)
    return (
        np.maximum(bone - cranial, 0.0) * bone_hu
        + deep * deep_hu
        + (head - table) * scalp_hu
        - 1000.0 * (1 - head)
    )
