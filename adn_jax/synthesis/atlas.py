"""Constant maps that every drawn head is a deformation of, made once on the host.

Coordinates are millimetres of the ICBM 152 template (x right, y front, z up, the
anterior commissure at the origin). Tissue is known at several levels of atrophy, each
already averaged over a voxel of the prepared grid: what a scan of that voxel size sees.
"""

from dataclasses import dataclass
from functools import lru_cache

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from scipy import ndimage

from adn_jax.phantom.head import ramp
from adn_jax.phantom.template import (
    Template,
    close_gaps,
    distance_to_surface,
    load_template,
    sample_template,
)
from adn_jax.types import register_arrays

LEVELS = (0.25, 0.55, 0.85)
"""Template share of brain from which a point is tissue: narrow to wide sulci."""

LOW_MM, HIGH_MM = np.array([-80.0, -114.0, -70.0]), np.array([80.0, 82.0, 88.0])
"""Box of the maps (x y z): the brain and a margin."""

FORAMEN_MM = -62.0
"""Height of the foramen magnum, below which a skull strip ends."""

GAP_MM = 4.5
"""Half the width of gaps of the brain that hold CSF, not bone."""

COARSE_MM = 4
"""Voxel size of the maps that are smooth."""

DEEP_MM = 25
"""Distances are cut off here."""

POINTS_PER_TERRITORY = 512
"""Points in each territory at which an infarct can begin."""

TERRITORIES: dict[str, tuple[tuple[float, float, float], ...]] = {
    "mca_superior": (
        *((45, 10, 15), (50, -10, 30), (38, 22, 32), (50, 22, 4), (46, -14, 46)),
        *((36, 38, 12), (34, 30, -10), (38, 6, 4)),
    ),
    "mca_inferior": (
        *((56, -28, 0), (54, -48, 20), (50, -10, -18), (46, -40, 36), (50, -56, 6)),
        *((38, 8, -30), (40, -22, 6)),
    ),
    "mca_deep": ((25, 0, 2), (18, 12, 8), (25, -12, 8), (24, -6, 18)),
    "aca": (
        *((8, 45, 10), (8, 30, 35), (8, 0, 55), (8, 55, -8), (10, -30, 58)),
        *((16, 42, 38), (10, 20, 50), (12, 62, 14)),
    ),
    "pca": (
        *((12, -85, 5), (20, -70, -5), (28, -45, -14), (25, -92, 0), (10, -65, 18)),
        *((30, -28, -22), (20, -92, 16)),
    ),
    "thalamus": ((12, -18, 8),),
    "cerebellum_superior": ((20, -60, -22), (35, -55, -28), (8, -65, -18)),
    "cerebellum_inferior": (
        *((15, -65, -48), (28, -65, -45), (8, -55, -55), (30, -45, -42)),
    ),
    "brainstem": ((5, -28, -30), (4, -28, -15), (4, -35, -45), (4, -38, -58)),
}
"""Landmarks (|x| y z) of the arteries' territories: a point belongs to the nearest."""

UNIONS = {
    "mca": ("mca_superior", "mca_inferior", "mca_deep"),
    "carotid": ("mca_superior", "mca_inferior", "mca_deep", "aca"),
}
"""Territories that an occlusion further upstream takes together."""

BORDERS = {
    "watershed_front": ("aca", "mca_superior"),
    "watershed_back": ("pca", "mca_inferior"),
}
"""Watersheds: what lies between two territories."""

WATERSHED_MM = 8.0
"""Half the width of a watershed."""

LACUNAR = ("mca_deep", "thalamus", "brainstem")
"""Territories of perforating arteries."""

TERRITORY_NAMES = (*TERRITORIES, *UNIONS, *BORDERS, "lacunar")


@register_arrays
@dataclass(frozen=True)
class HeadAtlas:
    """Maps of the template on two grids; both begin at `LOW_MM`.

    The channels of `fine`, after grey and white matter at each level of `LEVELS`, are
    the depth below the surface of the cranial cavity in mm (negative outside), the
    distance to the ventricles in mm, and the shares of deep grey matter, of dura (falx
    and tentorium) and of the skull base's neighbourhood.
    """

    fine: Float[Array, "z y x c"]
    step_mm: Float[Array, "3"]
    """Voxel size of `fine` (x y z)."""
    depth: Float[Array, "u v w 1"]
    """Depth below the surface of the cavity, every `COARSE_MM`."""
    territories: Float[Array, "t u v w"]
    """Distance to the border of each territory in mm, positive inside."""
    candidates: Float[Array, "t n 3"]
    """Points inside each territory (|x| y z)."""


@lru_cache(maxsize=4)
def load_head_atlas(spacing_mm: tuple[float, float, float]) -> HeadAtlas:
    """The maps for a grid of such voxels (z y x); made once a process, in seconds."""
    template = load_template()
    cavity = _cavity_depth(template)
    stack = _fine_maps(template, cavity)
    step = _steps(spacing_mm)
    fine = [_averaged(each, spacing_mm, step[::-1]) for each in stack]
    depth = ndimage.gaussian_filter(cavity, 1.5)[(slice(None, None, COARSE_MM),) * 3]
    territories, candidates = _territories(depth)
    return HeadAtlas(
        fine=jnp.asarray(np.stack(fine, axis=-1), jnp.float32),
        step_mm=jnp.asarray(step, jnp.float32),
        depth=jnp.asarray(depth[..., None], jnp.float32),
        territories=jnp.asarray(territories, jnp.float32),
        candidates=jnp.asarray(candidates, jnp.float32),
    )


def _averaged(
    values: Float[np.ndarray, "z y x"],
    spacing_mm: tuple[float, float, float],
    steps: tuple[int, int, int],
) -> Float[np.ndarray, "w v u"]:
    """A map as voxels of that spacing see it, one point in so many (z y x)."""
    for axis, (spacing, step) in enumerate(zip(spacing_mm, steps, strict=True)):
        values = ndimage.gaussian_filter1d(
            values, 0.36 * spacing, axis, mode="nearest", truncate=3.0
        )
        # what is left out along one axis need not be averaged along the next
        kept = [slice(None)] * 3
        kept[axis] = slice(None, None, step)
        values = values[tuple(kept)]
    return values


def _steps(spacing_mm: tuple[float, float, float]) -> tuple[int, int, int]:
    """Steps in mm (x y z) at which maps that are averaged over such voxels are kept."""
    z, y, x = spacing_mm
    return max(1, round(0.7 * x)), max(1, round(0.7 * y)), max(1, round(0.45 * z))


def _axes(step: int = 1) -> list[Float[np.ndarray, "..."]]:
    """Coordinates x, y, z of the box's points, to be broadcast over z y x."""
    x, y, z = (
        np.arange(low, high, step, dtype=np.float32)
        for low, high in zip(LOW_MM, HIGH_MM, strict=True)
    )
    return [x[None, None, :], y[None, :, None], z[:, None, None]]


def _cut_out(
    tissue: Float[np.ndarray, "i j k"], origin: Float[np.ndarray, "3"]
) -> Float[np.ndarray, "z y x"]:
    """The box of a map of the template (x y z), which has a voxel at every whole mm."""
    low, high = ((end - origin).astype(int) for end in (LOW_MM, HIGH_MM))
    return tissue[tuple(map(slice, low, high))].transpose(2, 1, 0)


def _distance_to(
    mask: Bool[np.ndarray, "z y x"], reach: int
) -> Float[np.ndarray, "z y x"]:
    """Distance to the mask in voxels, `reach` where it is further."""
    (extent,) = ndimage.find_objects(mask.astype(np.uint8))
    # further away nothing need be measured
    near = tuple(slice(max(s.start - reach, 0), s.stop + reach) for s in extent)
    distance = np.full(mask.shape, float(reach))
    measured = ndimage.distance_transform_edt(~mask[near])
    distance[near] = np.minimum(measured, reach)
    return distance


def _cavity_depth(template: Template) -> Float[np.ndarray, "z y x"]:
    """Depth below the surface of the cranial cavity in mm, negative outside."""
    step = 2
    brain = (template.grey + template.white)[::step, ::step, ::step] > 0.1
    brain = np.pad(brain, ((6, 6), (6, 6), (0, 6)))
    brain = ndimage.binary_fill_holes(brain, np.ones((3, 3, 1)))
    brain = np.pad(brain, ((0, 0), (0, 0), (6, 0)), mode="edge")
    distance = distance_to_surface(close_gaps(brain, GAP_MM / step), float(step))
    points = np.stack(np.broadcast_arrays(*_axes()))
    origin = template.origin - 6 * step
    depth = 1.5 - sample_template(distance, origin, float(step), points)
    return np.minimum(depth, _axes()[2] - FORAMEN_MM)


def _fine_maps(
    template: Template, depth: Float[np.ndarray, "z y x"]
) -> list[Float[np.ndarray, "z y x"]]:
    """The channels of `HeadAtlas.fine` at every mm."""
    x, y, z = _axes()
    grey, white = (
        _cut_out(tissue, template.origin) for tissue in (template.grey, template.white)
    )
    total = grey + white
    cranial = ramp(depth, 1.5)
    levels = [cranial * ramp(total - level, 0.3) for level in LEVELS]
    share = [level / np.maximum(total, 1e-3) for level in levels]
    fluid = (total < 0.5) & (depth > 0)
    to_ventricle = _distance_to(_ventricles(fluid, x, y, z), DEEP_MM)
    side = np.abs(x)
    nuclei = (side > 3) & (side < 32) & (y > -32) & (y < 22) & (z > -12) & (z < 18)
    falx = (side <= 1) & (z > -6) & (to_ventricle > 5) & (white < 0.3)
    cleft = (y > -100) & (y < -38) & (z > -30) & (z < 4) & (side > 6) & (depth > 6)
    tentorium = cleft & (total < 0.6) & (to_ventricle > 8)
    base = np.exp(-np.maximum(z + 22, 0) / 8) * np.exp(-np.maximum(depth, 0) / 6)
    return [
        *(grey * part for part in share),
        *(white * part for part in share),
        np.clip(depth, -DEEP_MM, DEEP_MM),
        to_ventricle,
        grey * nuclei,
        ((falx * 1.0) + 0.5 * tentorium) * (depth > 0),
        base,
    ]


def _ventricles(
    fluid: Bool[np.ndarray, "z y x"], *axes: Float[np.ndarray, "..."]
) -> Bool[np.ndarray, "z y x"]:
    """Lateral, third and fourth ventricle among all that is CSF."""
    x, y, z = axes
    side = np.abs(x)
    lateral = (side < 30) & (y > -50) & (y < 34) & (z > -8) & (z < 32)
    horns = (side > 20) & (side < 40) & (y > -45) & (y < -8) & (z > -22) & (z <= -8)
    cistern = (side < 16) & (y < -24) & (z < 9)
    fissure = (side < 3) & ((y > 24) | (y < -34) | (z > 20))
    fourth = (side < 9) & (y > -58) & (y < -36) & (z > -46) & (z < -22)
    return fluid & (((lateral | horns) & ~cistern & ~fissure) | fourth)


def _territories(
    depth: Float[np.ndarray, "u v w"],
) -> tuple[Float[np.ndarray, "t u v w"], Float[np.ndarray, "t n 3"]]:
    """Distance to the border of each territory, and points inside."""
    x, y, z = np.broadcast_arrays(*_axes(COARSE_MM))
    points = np.stack([np.abs(x), y, z], axis=-1)
    nearest = {
        name: np.min(
            [np.linalg.norm(points - np.array(mark), axis=-1) for mark in marks], axis=0
        )
        for name, marks in TERRITORIES.items()
    }

    def inside(*members: str) -> Float[np.ndarray, "u v w"]:
        own = np.min([nearest[name] for name in members], axis=0)
        rest = [nearest[name] for name in nearest if name not in members]
        return (np.min(rest, axis=0) - own) / 2

    def between(one: str, other: str) -> Float[np.ndarray, "u v w"]:
        band = WATERSHED_MM - np.abs(nearest[one] - nearest[other]) / 2
        return np.minimum(band, inside(one, other))

    maps = [inside(name) for name in TERRITORIES]
    maps += [inside(*members) for members in UNIONS.values()]
    maps += [between(*pair) for pair in BORDERS.values()]
    maps += [inside(*LACUNAR)]
    generator = np.random.default_rng(0)
    candidates = []
    for each in maps:
        within = points[(each > 1.0) & (depth > 3.0)]
        candidates.append(
            within[generator.integers(len(within), size=POINTS_PER_TERRITORY)]
        )
    return np.stack(maps), np.stack(candidates)
