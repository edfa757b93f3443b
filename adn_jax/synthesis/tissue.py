"""What a head is made of: fractions of tissue, and CT numbers without a scanner."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from adn_jax.config.stream import StreamSettings
from adn_jax.phantom.head import ramp
from adn_jax.synthesis.atlas import LEVELS, TERRITORY_NAMES
from adn_jax.synthesis.fields import (
    Maps,
    Points,
    ball,
    between,
    grid_noise,
    voxels_apart,
)
from adn_jax.synthesis.infarct import ANTERIOR, OLD, POSTERIOR, Infarcts
from adn_jax.types import Key

CALCIFICATIONS = (
    *((-23.0, -42.0, 8.0), (23.0, -42.0, 8.0), (0.0, -29.0, 2.0)),
    *((-20.0, -3.0, 0.0), (20.0, -3.0, 0.0)),
)
"""Plexus in both atria, pineal gland, both pallida (x y z)."""

CYSTS = (
    *((-38.0, 14.0, -30.0), (38.0, 14.0, -30.0), (0.0, -72.0, -50.0)),
    *((-40.0, 30.0, 40.0), (40.0, -50.0, 50.0)),
)
"""Where CSF can gather outside the brain: temporal poles, cisterna magna, convexity."""

LACUNES = 6

SPOTS = 3
"""Spots of blood in an infarct, at most."""

SPOT_RADII = (0.12, 0.5)
"""Their radius against the infarct's."""

CALCIFIED_MM = (1.5, 4.5)
"""Radius of a calcification."""

CYST_MM = (8.0, 24.0)
"""Radius of a cyst."""

DEEP_HU = 1.5
"""What deep grey matter has above the cortex."""

MOTTLE_MM = 9.0
"""Distance of the values of the field that mottles infarcts."""

SCAR_HU = 1.0
"""What an old infarct keeps above CSF."""

ARTERIES = (
    ((-8.0, 3.0, -12.0), (-32.0, 3.0, -12.0)),
    ((8.0, 3.0, -12.0), (32.0, 3.0, -12.0)),
    ((0.0, -24.0, -34.0), (0.0, -16.0, -12.0)),
)
"""Ends of the left and right middle cerebral and the basilar artery."""

ARTERY_MM = 1.8


class Anatomy(NamedTuple):
    """What is at each voxel of a head."""

    points: Points
    """Its place in the template."""
    grey: Maps
    white: Maps
    depth: Maps
    """Below the surface of the cranial cavity in mm."""
    to_ventricle: Maps
    """Distance in mm."""
    deep: Maps
    """Share of deep grey matter."""
    dura: Maps
    base: Maps
    """Nearness of the skull base, 0 to 1."""
    regional: Maps
    """Normal field that differs between the sides."""
    ageing: Maps
    """Normal field that both sides share."""
    rim: Maps
    """Normal field of the rim."""


class Tissue(NamedTuple):
    """Shares of tissue and CT numbers of a head; `loss_hu` is what infarcts took."""

    grey: Maps
    white: Maps
    csf: Maps
    hu: Maps
    loss_hu: Maps
    lesion: Maps
    """Share of the voxel that is infarct."""

    def shown(self) -> tuple[Maps, ...]:
        """What the label, the darkening and the shares of tissue are made of."""
        return self.lesion, self.loss_hu, self.grey, self.white


def read_atlas(
    points: Points,
    sampled: Float[Array, "c z y x"],
    atrophy: Maps,
    sulci: Maps,
    *fields: Maps,
) -> Anatomy:
    """Tissue at a level of atrophy (0 to 1), and the other maps of the atlas.

    `sulci` is the share of CSF in sulci of the head's own; `fields` are the last ones
    of `Anatomy`.
    """
    at = jnp.clip(atrophy, 0.0, 1.0) * (len(LEVELS) - 1)
    share = [jnp.maximum(1 - jnp.abs(at - level), 0.0) for level in range(len(LEVELS))]
    count = len(LEVELS)
    grey, white = (
        sum(share[level] * sampled[first + level] for level in range(count))
        for first in (0, count)
    )
    others = sampled[2 * count :]
    depth = others[0]
    cortex = ramp(depth - 1.0, 4.0) * ramp(18.0 - depth, 10.0)
    left = 1 - sulci * cortex
    return Anatomy(points, grey * left, white * left, *others, *fields)


def compose(
    key: Key,
    anatomy: Anatomy,
    infarcts: Infarcts,
    soft: Float[Array, "n z y x"],
    hard: Float[Array, "n z y x"],
    blur_mm: Float[np.ndarray, "3"],
    settings: StreamSettings,
) -> Tissue:
    """CT numbers of the tissues, of what age adds, and of infarcts.

    Args:
        key: randomness of this head.
        anatomy: what is at each voxel.
        infarcts: as drawn.
        soft: weight of the darkening of each infarct.
        hard: share of each voxel that is this infarct.
        blur_mm: half a voxel's size (x y z).
        settings: ranges.
    """
    keys, points = jax.random.split(key, 7), anatomy.points
    holes = jnp.maximum(
        _lacunes(keys[0], points, blur_mm, settings),
        _cyst(keys[1], points, settings),
    )
    grey, white = anatomy.grey * (1 - holes), anatomy.white * (1 - holes)
    csf = 1 - grey - white
    drawn = jax.random.uniform(keys[2], (3,))
    grey_hu = between(drawn[0], settings.grey_hu)
    contrast = between(drawn[1], settings.contrast_hu)
    csf_hu = between(drawn[2], settings.csf_hu)
    own = settings.regional_hu * anatomy.regional
    dark = _dark_white(keys[3], anatomy, settings)
    hu = (
        grey * (grey_hu + own)
        + white * (grey_hu - contrast + own - dark)
        + csf * csf_hu
    )
    most = jnp.maximum(hu - csf_hu - SCAR_HU, 0.0)
    taken = _darkening(keys[6], grey, white, infarcts, soft, blur_mm, settings)
    loss = jnp.minimum(taken, most)
    extra = _dense(keys[4], anatomy, blur_mm, settings)
    extra += _blood(keys[5], points, infarcts, hard, blur_mm, settings)
    return Tissue(
        grey=grey,
        white=white,
        csf=csf,
        hu=hu + extra,
        loss_hu=loss,
        lesion=hard.max(0) * _solid(grey, white),
    )


def _solid(grey: Maps, white: Maps) -> Maps:
    """How far a voxel counts as tissue: wholly from half of it on."""
    return jnp.minimum(1.0, 2 * (grey + white))


def _darkening(
    key: Key,
    grey: Maps,
    white: Maps,
    infarcts: Infarcts,
    soft: Float[Array, "n z y x"],
    blur_mm: Float[np.ndarray, "3"],
    settings: StreamSettings,
) -> Maps:
    """CT numbers that infarcts take: less of white matter while they are fresh, and
    here more than there."""
    own_key, field_key = jax.random.split(key)
    count, z, y, x = soft.shape
    drawn = jax.random.uniform(own_key, (2, count))
    white_share = between(drawn[0], settings.infarct_white)
    white_share += (1 - white_share) * jnp.clip(infarcts.age / OLD, 0.0, 1.0)
    mottle = between(drawn[1], settings.infarct_mottle)
    apart = voxels_apart(MOTTLE_MM, float(blur_mm[0]))
    field = grid_noise(field_key, (z, y, x), apart)
    taken = [
        soft[one]
        * infarcts.loss_hu[one]
        * _solid(grey, white_share[one] * white)
        * jnp.maximum(1 + mottle[one] * field, 0.0)
        for one in range(count)
    ]
    return jnp.stack(taken).max(0)


def _dark_white(key: Key, anatomy: Anatomy, settings: StreamSettings) -> Maps:
    """Darkening of white matter around the ventricles and in patches further out."""
    drawn = jax.random.uniform(key, (2,))
    amount = between(drawn[0], settings.dark_white_hu)
    reach = between(drawn[1], settings.dark_white_mm)
    field = anatomy.ageing + 0.3 * anatomy.regional
    return amount * jax.nn.sigmoid((reach + 6.0 * field - anatomy.to_ventricle) / 2.5)


def _lacunes(
    key: Key,
    points: Points,
    blur_mm: Float[np.ndarray, "3"],
    settings: StreamSettings,
) -> Maps:
    """Share of CSF in old lacunes of the deep brain."""
    drawn = jax.random.uniform(key, (LACUNES, 5))
    present = drawn[:, 0] < settings.lacunes
    radius = between(drawn[:, 1], settings.lacune_mm)
    side = 2 * drawn[:, 2:] - 1
    centre = jnp.sign(side[:, :1]) * np.array([20.0, 0.0, 0.0]) + np.array(
        [0.0, -4.0, 14.0]
    )
    centre += side * np.array([10.0, 26.0, 18.0])
    shares = [
        present[one] * ball(points, centre[one], radius[one], blur_mm)
        for one in range(LACUNES)
    ]
    return jnp.minimum(1.3 * sum(shares), 1.0)


def _cyst(key: Key, points: Points, settings: StreamSettings) -> Maps:
    """Share of CSF in a cyst or a wide cistern of some heads."""
    drawn = jax.random.uniform(key, (3,))
    present = drawn[0] < settings.cyst
    centre = jnp.array(CYSTS)[(drawn[1] * len(CYSTS)).astype(jnp.int32)]
    radius = between(drawn[2], CYST_MM)
    away = sum((points[axis] - centre[axis]) ** 2 for axis in range(3))
    return present * ramp(radius - jnp.sqrt(away + 1e-6), 4.0)


def _dense(
    key: Key,
    anatomy: Anatomy,
    blur_mm: Float[np.ndarray, "3"],
    settings: StreamSettings,
) -> Maps:
    """CT numbers that calcifications, dura and deep grey matter add."""
    drawn = jax.random.uniform(key, (3, len(CALCIFICATIONS) + 1))
    total = between(drawn[0, -1], settings.dura_hu) * anatomy.dura
    total += DEEP_HU * anatomy.deep
    present = drawn[0] < settings.calcified
    amount = between(drawn[1], settings.calcified_hu)
    radius = between(drawn[2], CALCIFIED_MM)
    for one, centre in enumerate(CALCIFICATIONS):
        share = ball(anatomy.points, jnp.array(centre), radius[one], blur_mm)
        total += present[one] * amount[one] * share
    return total


def _blood(
    key: Key,
    points: Points,
    infarcts: Infarcts,
    hard: Float[Array, "n z y x"],
    blur_mm: Float[np.ndarray, "3"],
    settings: StreamSettings,
) -> Maps:
    """CT numbers that blood adds: in arteries, dense ones of fresh infarcts among
    them, and in spots inside infarcts."""
    artery_key, spot_key = jax.random.split(key)
    total = jnp.zeros(points.shape[1:])
    amount = _artery_hu(artery_key, infarcts, settings)
    for one, (start, end) in enumerate(ARTERIES):
        total += amount[one] * _tube(points, start, end, blur_mm)
    count = len(infarcts.present)
    drawn = jax.random.uniform(spot_key, (6, count, SPOTS))
    present = drawn[0] < settings.haemorrhage
    size = between(drawn[1], SPOT_RADII)
    density = between(drawn[2], settings.haemorrhage_hu)
    place = 1.2 * drawn[3:] - 0.6
    for number, spot in np.ndindex(count, SPOTS):
        radius = infarcts.radius[number]
        centre = infarcts.centre[number] + radius * place[:, number, spot]
        share = ball(points, centre, size[number, spot] * radius, blur_mm)
        added = present[number, spot] * density[number, spot] * hard[number]
        total += added * jnp.minimum(share, 1.0)
    return total


def _artery_hu(
    key: Key, infarcts: Infarcts, settings: StreamSettings
) -> Float[Array, "3"]:
    """CT numbers that blood adds to each artery, and a clot to some."""
    drawn = jax.random.uniform(key, (len(infarcts.present) + 2,))
    fresh = infarcts.present & (infarcts.age < OLD)
    dense = (drawn[2:] < settings.dense_vessel) & fresh
    front, back = (
        jnp.isin(
            infarcts.territory,
            np.array([TERRITORY_NAMES.index(name) for name in names]),
        )
        for names in (ANTERIOR, POSTERIOR)
    )
    where = jnp.stack([front & (infarcts.side < 0), front & (infarcts.side > 0), back])
    clot = between(drawn[1], settings.dense_vessel_hu) * (where & dense).any(1)
    return between(drawn[0], settings.vessel_hu) + clot


def _tube(
    points: Points,
    start: tuple[float, float, float],
    end: tuple[float, float, float],
    blur_mm: Float[np.ndarray, "3"],
) -> Maps:
    """Share of each voxel that a straight artery fills."""
    first, axis = np.array(start), np.array(end) - np.array(start)
    length = float(np.linalg.norm(axis))
    axis = axis / length
    away = [points[one] - first[one] for one in range(3)]
    along = jnp.clip(sum(away[one] * axis[one] for one in range(3)), 0.0, length)
    wide = np.sqrt(ARTERY_MM**2 + blur_mm**2)
    across = sum(
        ((away[one] - along * axis[one]) / (1.6 * wide[one])) ** 2 for one in range(3)
    )
    # two of three directions dilute a tube
    filled = ARTERY_MM**2 / float(np.prod(np.sort(wide)[1:]))
    return filled * jnp.maximum(1 - across, 0.0) ** 2
