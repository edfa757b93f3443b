"""Whether a probability means what it says: of the voxels given 0.3, 30 % are infarct.

Everything is a sum over voxels in equal bins of probability, so that the sums of
single cases add up to those of a data set.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

BINS = 15
"""Equal bins of [0, 1], as many as Guo et al. (2017) take."""
NEAR = 0.01
"""A voxel counts as near a lesion where probability or label exceeds this."""


@dataclass(frozen=True)
class Reliability:
    """Sums over the voxels of each bin; a bin holds its upper edge, the first both."""

    count: Int[np.ndarray, " bins"]
    """Voxels."""
    probability: Float[np.ndarray, " bins"]
    """Sum of their probabilities."""
    label: Float[np.ndarray, " bins"]
    """Sum of their labels."""
    squared_error: Float[np.ndarray, " bins"]
    """Sum of (probability - label)^2."""

    def __add__(self, other: "Reliability") -> "Reliability":
        """The sums over the voxels of both."""
        return Reliability(
            self.count + other.count,
            self.probability + other.probability,
            self.label + other.label,
            self.squared_error + other.squared_error,
        )


def reliability(
    probability: Float[np.ndarray, "*shape"],
    label: Bool[np.ndarray, "*shape"],
    bins: int = BINS,
    inside: Bool[np.ndarray, "*shape"] | None = None,
) -> Reliability:
    """Sort voxels (those `inside`; None: all) into equal bins of their probability."""
    chosen = np.ones(label.shape, bool) if inside is None else inside
    values, truth = probability[chosen].astype(float), label[chosen].astype(float)
    edges = np.linspace(0.0, 1.0, bins + 1)
    place = np.searchsorted(edges[1:-1], values)

    def summed(weights: Float[np.ndarray, " n"]) -> Float[np.ndarray, " bins"]:
        return np.bincount(place, weights, minlength=bins).astype(float)

    return Reliability(
        count=np.bincount(place, minlength=bins),
        probability=summed(values),
        label=summed(truth),
        squared_error=summed((values - truth) ** 2),
    )


def near_lesion(
    probability: Float[np.ndarray, "*shape"], label: Bool[np.ndarray, "*shape"]
) -> Bool[np.ndarray, "*shape"]:
    """Voxels that the label or the network takes for infarct, if only by `NEAR`.

    Nearly all of a brain is background at a probability near 0, right by itself: over
    the whole brain any network looks calibrated.
    """
    return (probability > NEAR) | label


def bin_means(
    total: Float[np.ndarray, " bins"], sums: Reliability
) -> Float[np.ndarray, " bins"]:
    """A sum over each bin, a voxel; NaN where a bin is empty."""
    return total / np.where(sums.count > 0, sums.count, np.nan)


def gaps(sums: Reliability) -> Float[np.ndarray, " bins"]:
    """|share of infarct - mean probability| of each bin; NaN where a bin is empty."""
    return bin_means(np.abs(sums.label - sums.probability), sums)


def expected_calibration_error(sums: Reliability) -> float:
    """Mean gap over the voxels (Guo et al. 2017); NaN without voxels.

    >>> infarct = np.array([True, False, False, False])
    >>> expected_calibration_error(reliability(np.full(4, 0.25), infarct))
    0.0
    >>> expected_calibration_error(reliability(np.full(4, 0.75), infarct))
    0.5
    """
    return _mean_over_voxels(np.abs(sums.label - sums.probability), sums)


def maximum_calibration_error(sums: Reliability) -> float:
    """Largest gap of a bin that has voxels (Guo et al. 2017); NaN without voxels."""
    return float(np.nanmax(gaps(sums))) if sums.count.any() else float("nan")


def brier_score(sums: Reliability) -> float:
    """Mean squared difference of probability and label (Brier 1950); NaN without
    voxels."""
    return _mean_over_voxels(sums.squared_error, sums)


def _mean_over_voxels(total: Float[np.ndarray, " bins"], sums: Reliability) -> float:
    """Sum over the bins, a voxel; NaN without voxels."""
    voxels = int(sums.count.sum())
    return float(total.sum()) / voxels if voxels else float("nan")


def mean_or_nan(values: Shaped[np.ndarray, " n"]) -> float:
    """The mean; NaN of no values."""
    return float(values.mean(dtype=np.float64)) if values.size else float("nan")
