"""From which probability a voxel is called infarct."""

from dataclasses import dataclass

import numpy as np

from adn_jax.inference.maps import Map
from adn_jax.metrics.overlap import Spacing

SMALL_ML = 10.0
"""Predicted volume on the prepared grid below which a case is small."""


@dataclass(frozen=True)
class Thresholds:
    """Probabilities from which a voxel is called infarct."""

    general: float
    small: float
    """For cases in which `general` finds less than `small_ml`."""
    small_ml: float = SMALL_ML


def threshold_for(
    probability: Map, spacing_mm: Spacing, thresholds: Thresholds
) -> float:
    """The threshold of a case, by its probability on the prepared grid."""
    voxels = np.count_nonzero(probability >= thresholds.general)
    volume = voxels * np.prod(spacing_mm) / 1000.0
    return thresholds.small if volume < thresholds.small_ml else thresholds.general
