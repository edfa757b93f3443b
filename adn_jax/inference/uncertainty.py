"""How sure several predictions of one scan are, voxel by voxel and lesion by lesion.

Several predictions come from dropout samples (Gal and Ghahramani 2016) or from an
ensemble (Lakshminarayanan et al. 2017). Doubt is the entropy of their mean, in bits: 0
where it is 0 or 1, 1 where it is 0.5. The mutual information is the part of it that
comes from their disagreement; the rest is doubt that each of them has.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import ndimage
from scipy.special import entr

from adn_jax.inference.maps import Map
from adn_jax.metrics.overlap import TOUCHING, Mask, Spacing


class Doubt(NamedTuple):
    """What several predictions of one scan say together."""

    probability: Map
    """Their mean."""
    entropy: Map
    """Entropy of their mean, in bits."""
    mutual_information: Map
    """Entropy of their mean less the mean of their entropies, in bits."""


@dataclass(frozen=True)
class LesionDoubt:
    """A predicted lesion (26-connected component): means over its voxels."""

    volume_ml: float
    probability: float
    entropy: float
    """In bits."""
    mutual_information: float
    """In bits."""
    hit: bool | None = None
    """Whether it shares a voxel with the label; None: no label."""


def binary_entropy(
    probability: Float[np.ndarray, "*shape"],
) -> Float[np.ndarray, "*shape"]:
    """Entropy in bits of a yes or no that is yes with this probability."""
    return (entr(probability) + entr(1.0 - probability)) / np.log(2.0)


def doubt_of(predictions: Iterable[Map]) -> Doubt:
    """Mean, entropy and mutual information of several predictions of one scan.

    They are taken one by one: no more than one is held at a time.
    """
    count, total, entropies = 0, np.zeros(()), np.zeros(())
    for prediction in predictions:
        wide = prediction.astype(np.float64)
        count, total = count + 1, total + wide
        entropies = entropies + binary_entropy(wide)
    mean = total / count
    entropy = binary_entropy(mean)
    shared = np.maximum(entropy - entropies / count, 0.0)
    return Doubt(*(volume.astype(np.float32) for volume in (mean, entropy, shared)))


def lesion_doubts(
    predicted: Mask, doubt: Doubt, spacing_mm: Spacing, lesion: Mask | None = None
) -> tuple[LesionDoubt, ...]:
    """Every predicted lesion with its mean probability and doubt, the largest first."""
    parts, count = ndimage.label(predicted, TOUCHING)

    def summed(weights: Float[np.ndarray, "z y x"]) -> Float[np.ndarray, " n"]:
        return np.bincount(parts.ravel(), weights.ravel(), count + 1)[1:]

    sizes = summed(predicted.astype(np.float64))
    means = [summed(volume) / sizes for volume in doubt]
    hits = [None] * count if lesion is None else summed(lesion.astype(np.float64)) > 0
    found = [
        LesionDoubt(
            float(size * np.prod(spacing_mm) / 1000.0),
            *map(float, values),
            hit=None if hit is None else bool(hit),
        )
        for size, hit, *values in zip(sizes, hits, *means, strict=True)
    ]
    return tuple(sorted(found, key=lambda one: one.volume_ml, reverse=True))
