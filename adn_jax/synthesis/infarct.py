"""Infarcts by vascular territory: which, how large, how old, and what they displace."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from scipy.special import ndtri

from adn_jax.config.stream import StreamSettings
from adn_jax.phantom.head import ramp
from adn_jax.synthesis.atlas import (
    COARSE_MM,
    LOW_MM,
    POINTS_PER_TERRITORY,
    TERRITORY_NAMES,
    HeadAtlas,
)
from adn_jax.synthesis.fields import Points, between, trilinear
from adn_jax.types import Key

CHANCES = {
    "mca_superior": 0.16,
    "mca_inferior": 0.16,
    "mca_deep": 0.09,
    "aca": 0.06,
    "pca": 0.13,
    "thalamus": 0.04,
    "cerebellum_superior": 0.04,
    "cerebellum_inferior": 0.07,
    "brainstem": 0.04,
    "mca": 0.07,
    "carotid": 0.02,
    "watershed_front": 0.03,
    "watershed_back": 0.04,
    "lacunar": 0.05,
}
"""Chance of each territory: small ones more often than in life, to be learnt."""

LARGEST_INFARCT_ML = {
    "mca_deep": 40.0,
    "thalamus": 8.0,
    "brainstem": 5.0,
    "lacunar": 2.0,
    "watershed_front": 25.0,
    "watershed_back": 25.0,
}
"""Largest volume in a territory of small arteries."""

ANTERIOR = ("mca_superior", "mca_inferior", "mca_deep", "mca", "carotid")
"""Territories in which an infarct can go with a dense middle cerebral artery."""

POSTERIOR = ("pca", "thalamus", "brainstem", "cerebellum_superior")
"""The same for the basilar artery."""

OLD = 0.7
"""Age, 0 hyperacute to 1 old, from which an infarct has shrunk instead of swollen."""

SIDE_MM = 2.0
"""Beside the mid-plane the weight of an infarct rises from 0 to 1 over this."""


class Infarcts(NamedTuple):
    """The infarcts of one head, `n` of them at most."""

    present: Bool[Array, " n"]
    territory: Int[Array, " n"]
    side: Float[Array, " n"]
    """-1 left, 1 right."""
    centre: Float[Array, "n 3"]
    radius: Float[Array, " n"]
    """Of a ball of the drawn volume in mm."""
    ratios: Float[Array, "n 3"]
    """Relative extent along x, y, z."""
    age: Float[Array, " n"]
    """0 hyperacute, 1 old."""
    loss_hu: Float[Array, " n"]
    rim_mm: Float[Array, " n"]
    swelling_mm: Float[Array, " n"]
    midline_mm: Float[Array, " n"]


def draw_infarcts(key: Key, atlas: HeadAtlas, settings: StreamSettings) -> Infarcts:
    """Draw the infarcts of one head."""
    most = len(settings.infarcts) - 1
    keys = jax.random.split(key, 4)
    drawn = jax.random.uniform(keys[0], (13, most))
    reached = jnp.cumsum(jnp.array(settings.infarcts))
    count = jnp.searchsorted(reached, drawn[0, 0] * reached[-1], side="right")
    territory = jnp.searchsorted(_reached_chances(settings), drawn[1])
    first = jnp.where(drawn[2, 0] < 0.5, 1.0, -1.0)
    turned = (drawn[3] < settings.other_side).at[0].set(False)
    side = jnp.where(turned, -first, first)
    centre = atlas.candidates[
        territory, (drawn[4] * POINTS_PER_TERRITORY).astype(jnp.int32)
    ]
    centre += COARSE_MM * (drawn[5:8].T - 0.5)
    centre = centre.at[:, 0].multiply(side)
    volume = _draw_volume_ml(keys[1], territory, settings)
    ratios = jnp.exp(0.3 * jax.random.normal(keys[2], (most, 3)))
    radius = jnp.cbrt(3000.0 * volume / (4 * np.pi))
    age = drawn[8]
    spread = 0.3 * drawn[9] - 0.15
    loss = between(jnp.clip(age**1.5 + spread, 0.0, 1.0), settings.infarct_loss_hu)
    rim = between(drawn[10] * (1 - 0.6 * age), settings.infarct_rim_mm)
    effect, shift = drawn[11:]
    large = jnp.clip((radius - 10) / 15, 0.0, 1.0)
    shrunk, swollen = settings.swelling_mm
    fresh = jnp.clip(1 - age / OLD, 0.0, 1.0)
    swelling = (
        jnp.where(age > OLD, shrunk, swollen * (4 * fresh * (1 - fresh))) * effect
    )
    pushing = large**2 * (swelling > 0)
    least_shift, most_shift = settings.midline_mm
    # not by `between`: with a least shift of 0 the last digits are what they were
    midline = pushing * shift * most_shift * effect
    midline += pushing * (1 - shift) * least_shift * effect
    return Infarcts(
        present=jnp.arange(most) < count,
        territory=territory,
        side=side,
        centre=centre,
        radius=radius,
        ratios=ratios / jnp.cbrt(ratios.prod(axis=1, keepdims=True)),
        age=age,
        loss_hu=loss,
        rim_mm=jnp.minimum(rim, radius),
        swelling_mm=large * swelling,
        midline_mm=midline,
    )


def _reached_chances(settings: StreamSettings) -> Float[Array, " t"]:
    """Chance of each territory and of those before it together, without those that
    have no infarct as large as the smallest is to be."""
    chances = np.array([CHANCES[name] for name in TERRITORY_NAMES])
    reached = np.cumsum(chances)
    large_enough = _largest_ml() >= settings.infarct_limits_ml[0]
    left = jnp.cumsum(jnp.where(large_enough, chances, 0.0))
    # sums of the host where all are left: the same digits on every device
    whole = large_enough.all()
    return jnp.where(whole, jnp.array(reached / reached[-1]), left / left[-1])


def _largest_ml() -> Float[Array, " t"]:
    """Largest volume in each territory; infinite where it alone sets no limit."""
    return jnp.array([LARGEST_INFARCT_ML.get(name, np.inf) for name in TERRITORY_NAMES])


def _draw_volume_ml(
    key: Key, territory: Int[Array, " n"], settings: StreamSettings
) -> Float[Array, " n"]:
    """Log-normal volumes, with a width of their own below and above the median."""
    low, median, high = jnp.log(jnp.array(settings.infarct_quantiles_ml))
    normal = jax.random.normal(key, territory.shape)
    width = jnp.where(normal > 0, high - median, median - low) / ndtri(0.9)
    least, most = settings.infarct_limits_ml
    limits = jnp.minimum(_largest_ml()[territory], most)
    return jnp.clip(jnp.exp(median + width * normal), least, limits)


def displace(points: Points, infarcts: Infarcts) -> Points:
    """Where the tissue at points comes from, if infarcts swell or have shrunk."""
    for each in _each(infarcts):
        away = points - each.centre.reshape(3, 1, 1, 1)
        reach = jnp.exp(-(away**2).sum(0) / (2 * (1.3 * each.radius) ** 2))
        pushed = each.present * each.swelling_mm / each.radius * reach * away
        near = jnp.exp(-((points[0] / 35) ** 2)) * each.present
        aside = each.side * each.midline_mm * near
        points = (points - pushed).at[0].add(aside)
    return points


def pressure(points: Points, infarcts: Infarcts) -> Float[Array, "*shape"]:
    """How much infarcts narrow (above 0) or widen sulci around them, about -1 to 1."""
    total = jnp.zeros(points.shape[1:])
    for each in _each(infarcts):
        away = points - each.centre.reshape(3, 1, 1, 1)
        reach = jnp.exp(-(away**2).sum(0) / (2 * (1.3 * each.radius) ** 2))
        total += each.present * jnp.clip(each.swelling_mm / 4, -1.0, 1.0) * reach
    return total


def margins(
    points: Points, wobble: Float[Array, "n *shape"], atlas: HeadAtlas, found: Infarcts
) -> Float[Array, "n *shape"]:
    """How far points lie inside the border of each infarct's territory in mm, waved."""
    bent = points.at[0].set(jnp.abs(points[0]))
    inside = [
        trilinear(
            atlas.territories[each.territory][..., None],
            bent,
            LOW_MM,
            np.full(3, COARSE_MM, np.float32),
        )[0]
        for each in _each(found)
    ]
    return jnp.stack(inside) + 3.0 * wobble


def weights(
    points: Points,
    margin: Float[Array, "n *shape"],
    wobble: Float[Array, "*shape"],
    found: Infarcts,
    voxel_mm: float,
) -> tuple[Float[Array, "n *shape"], Float[Array, "n *shape"]]:
    """Weight of each infarct's darkening at points, and the share that is infarct.

    The weight is 1 in the core and 0.5 at the border, where the label ends.
    """
    soft, hard = [], []
    for number, each in enumerate(_each(found)):
        away = [
            (points[axis] - each.centre[axis]) / each.ratios[axis] for axis in range(3)
        ]
        distance = jnp.sqrt(sum(one**2 for one in away) + 1e-6)
        radius = each.radius * (1.12 + 0.16 * wobble)
        # the rim lies inside: a small infarct keeps its core
        inside = jnp.minimum(margin[number], radius - distance)
        side = jnp.clip(each.side * points[0] / SIDE_MM, 0.0, 1.0)
        here = jnp.where(each.present, side, 0.0)
        soft.append(here * ramp(inside, each.rim_mm))
        hard.append(here * ramp(inside, voxel_mm))
    return jnp.stack(soft), jnp.stack(hard)


def _each(infarcts: Infarcts) -> list[Infarcts]:
    """The infarcts one by one."""
    return [
        Infarcts(*(part[number] for part in infarcts))
        for number in range(len(infarcts.present))
    ]
