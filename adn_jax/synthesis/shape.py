"""How a head lies and is formed: from the grid's knots to places in the template."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from adn_jax.config.stream import StreamSettings
from adn_jax.geometry.rigid import rotation_matrix
from adn_jax.phantom.head import VENTRICLE_REACH_MM, keep_mid_plane
from adn_jax.synthesis.atlas import COARSE_MM, LOW_MM, HeadAtlas
from adn_jax.synthesis.fields import (
    Points,
    ScanGrid,
    between,
    random_fields,
    trilinear,
    uniform,
)
from adn_jax.synthesis.infarct import Infarcts, displace
from adn_jax.types import Key

BRAIN_MM = np.array([0.0, -18.0, 8.0], np.float32)
"""Centre of mass of the template's brain (x y z)."""

BRAIN_ENDS_MM = (-62.0, 80.0)
"""Its lower and upper end."""

VENTRICLE_MM = np.array([14.0, -12.0, 14.0], np.float32)
"""Centre of the right lateral ventricle, from which it grows."""

GAP_CENTRE_MM = np.array([52.0, -5.0, 36.0], np.float32)
"""Middle of a right craniectomy."""

GAP_RADIUS_MM = 38.0

SKULL_WAVE_MM = 60.0

BRAIN_WAVE_MM = 28.0


class ScanPose(NamedTuple):
    """How a head lies in the scan, and what of it is in the field of view."""

    rotation: Float[Array, "3 3"]
    """From head to scan."""
    centre_mm: Float[Array, "3"]
    """Place of the brain's centre in the scan (x y z)."""
    scale: Float[Array, "3"]
    """Size of the head against the template along its axes."""
    ends_mm: Float[Array, "2"]
    """Heights between which the scan lies (z, from the grid's centre)."""

    def to_template(self, points: Points) -> Points:
        """Template coordinates of points of the scan, before any deformation."""
        away = [points[axis] - self.centre_mm[axis] for axis in range(3)]
        turned = [
            sum(self.rotation[axis, row] * away[axis] for axis in range(3))
            for row in range(3)
        ]
        return jnp.stack(
            [turned[row] / self.scale[row] + BRAIN_MM[row] for row in range(3)]
        )

    def matrix(self) -> Float[Array, "4 4"]:
        """From the head in mm to the scan in mm, both from their centres."""
        upper = jnp.concatenate([self.rotation, self.centre_mm[:, None]], axis=1)
        return jnp.concatenate([upper, jnp.array([[0.0, 0.0, 0.0, 1.0]])])

    def mirror_line(self) -> tuple[Float[Array, ""], Float[Array, "2"]]:
        """Angle (radians) and a point (x y in mm) of the mid-line in the slice of the
        brain's centre."""
        normal = self.rotation[:, 0]
        return jnp.arctan2(normal[1], normal[0]), self.centre_mm[:2]


class HeadShape(NamedTuple):
    """Smooth quantities of a head at the knots of the grid."""

    brain: Points
    """Place in the template."""
    atrophy: Float[Array, "z k l"]
    regional: Float[Array, "z k l"]
    """Normal, differing between regions and sides."""
    ageing: Float[Array, "z k l"]
    """Normal, alike on both sides."""
    rim: Float[Array, "z k l"]
    """Normal, each side its own."""
    wobble: Float[Array, "n z k l"]
    """Normal, for the border of each infarct."""


def draw_pose(key: Key, settings: StreamSettings) -> ScanPose:
    """Draw rotation, place, size and field of view."""
    keys = jax.random.split(key)
    drawn = jax.random.uniform(keys[0], (9,))
    limit = jnp.deg2rad(jnp.array(settings.rotation_deg))
    rotation = rotation_matrix(limit * (2 * drawn[None, :3] - 1))[0]
    stretch = 1 + settings.stretch * jax.random.normal(keys[1], (3,))
    scale = between(drawn[3], settings.scale) * stretch
    shift = jnp.array(settings.shift_mm) * (2 * drawn[4:7] - 1)
    # 1 below, -1 above, 0 nowhere
    place = 2 * drawn[7] - 1
    where = jnp.sign(place) * (jnp.abs(place) < settings.cut)
    cut = between(drawn[8], settings.cut_mm)
    centre = shift.at[2].add(-0.45 * where * cut)
    low, high = (centre[2] + scale[2] * (end - BRAIN_MM[2]) for end in BRAIN_ENDS_MM)
    ends = jnp.stack(
        [
            jnp.where(where > 0, low + cut, -1e3),
            jnp.where(where < 0, high - cut, 1e3),
        ]
    )
    return ScanPose(rotation, centre, scale, ends)


def draw_shape(
    key: Key,
    grid: ScanGrid,
    pose: ScanPose,
    jitter: Float[Array, "3 z 1 1"],
    infarcts: Infarcts,
    atlas: HeadAtlas,
    settings: StreamSettings,
) -> HeadShape:
    """Draw the form of a head at the knots of the grid."""
    keys = jax.random.split(key, 7)
    resting = pose.to_template(jnp.asarray(grid.knot_points()) + jitter)
    resting = resting.at[1].add(settings.skew * jax.random.normal(keys[0]) * resting[0])
    sided = settings.asymmetry_mm
    # displacements along x suit both sides if odd, along y and z if even
    long = random_fields(keys[1], resting, SKULL_WAVE_MM, even=2, odd=1, own=3)
    short = random_fields(
        keys[2], resting, BRAIN_WAVE_MM, even=3, odd=1, own=6 + len(infarcts.present)
    )
    skull = (
        resting + settings.deformation_mm * _as_xyz(long[:3]) + 0.5 * sided * long[3:]
    )
    skull = skull.at[0].set(keep_mid_plane(skull[0], resting[0]))
    skull = _bulge(keys[3], skull, settings)
    depth = trilinear(atlas.depth, skull, LOW_MM, np.full(3, COARSE_MM, np.float32))[0]
    inner = jnp.clip(depth / 18.0, 0.0, 1.0)
    waves = (
        0.5
        * settings.deformation_mm
        * _as_xyz(jnp.concatenate([short[:2], short[3:4]]))
    )
    moved = _grow_ventricles(keys[4], skull, settings) + sided * short[4:7]
    brain = skull + inner * (moved + waves - skull)
    brain = brain.at[0].set(keep_mid_plane(brain[0], skull[0]))
    brain = skull + inner * (displace(brain, infarcts) - skull)
    uneven = settings.atrophy_asymmetry * short[7]
    return HeadShape(
        brain=brain,
        atrophy=uniform(keys[5], settings.atrophy) + uneven,
        regional=short[8],
        ageing=short[2],
        rim=short[9],
        wobble=short[10:],
    )


def _as_xyz(fields: Float[Array, "3 *shape"]) -> Points:
    """Two even fields and an odd one as displacements along x, y, z."""
    return jnp.stack([fields[2], fields[0], fields[1]])


def _bulge(key: Key, points: Points, settings: StreamSettings) -> Points:
    """Let the brain bulge or sink over a gap in the skull of some heads."""
    drawn = jax.random.uniform(key, (3,))
    amount = (drawn[0] < settings.craniectomy) * between(drawn[1], settings.bulge_mm)
    side = jnp.where(drawn[2] < 0.5, 1.0, -1.0)
    middle = jnp.array(GAP_CENTRE_MM).at[0].multiply(side)
    away = ((points - middle.reshape(3, 1, 1, 1)) ** 2).sum(0)
    reach = jnp.exp(-away / (2 * GAP_RADIUS_MM**2))
    outward = middle / jnp.linalg.norm(middle)
    return points - amount * reach * outward.reshape(3, 1, 1, 1)


def _grow_ventricles(key: Key, points: Points, settings: StreamSettings) -> Points:
    """Where tissue comes from around ventricles of another size."""
    common, own = jax.random.split(key)
    growth = uniform(common, settings.ventricle)
    growth += settings.ventricle_asymmetry * jax.random.normal(own, (2,))
    moved = points
    for side, grown in zip((-1, 1), jnp.clip(growth, -0.4, 0.65), strict=True):
        centre = (VENTRICLE_MM * np.array([side, 1, 1])).reshape(3, 1, 1, 1)
        away = points - centre
        reach = jnp.exp(-(away**2).sum(0) / (2 * VENTRICLE_REACH_MM**2))
        moved = moved - grown * reach * away
    return moved
