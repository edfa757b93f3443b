"""How well P separates pathological from anatomical asymmetry, where truth is known.

Only asymmetric voxels are asked (A above a threshold): elsewhere there is nothing to
separate, and the many symmetric voxels would flatter any map that is 0 there.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

ASYMMETRY_THRESHOLD = 0.025
"""A voxel is asymmetric where A exceeds this (2 HU of the window 0 to 80)."""
PATHOLOGY_THRESHOLD = 0.0125
"""A voxel is truly pathological where the infarct took more than this (1 HU of 80)."""


class Disentanglement(NamedTuple):
    """Scores of P, and those of A itself, which P has to beat."""

    auroc: float
    """Chance that P is higher at a pathological than at an anatomical asymmetric
    voxel (ties count half); NaN if a case lacks one of the two kinds."""
    auroc_asymmetry: float
    """The same for A."""
    mass_share: float
    """Share of the sum of min(P, A) that lies on true pathological asymmetry; NaN
    where the sum is 0."""
    mass_share_asymmetry: float
    """The same for the sum of A."""


def disentanglement(
    asymmetry: Float[np.ndarray, "z y x"],
    pathological: Float[np.ndarray, "z y x"],
    truth: Bool[np.ndarray, "z y x"],
    threshold: float = ASYMMETRY_THRESHOLD,
) -> Disentanglement:
    """Score P against the true pathological voxels, all maps on X's grid.

    min(P, A) is the part of the asymmetry that P takes: P itself is a sigmoid map and
    may be larger than A.
    """
    asymmetric = asymmetry > threshold
    taken = np.minimum(pathological, asymmetry)
    return Disentanglement(
        auroc=auroc(pathological[asymmetric], truth[asymmetric]),
        auroc_asymmetry=auroc(asymmetry[asymmetric], truth[asymmetric]),
        mass_share=mass_share(taken, truth & asymmetric),
        mass_share_asymmetry=mass_share(asymmetry, truth & asymmetric),
    )


def auroc(score: Float[np.ndarray, " n"], truth: Bool[np.ndarray, " n"]) -> float:
    """Area under the ROC curve by ranks; NaN if `truth` has one value only."""
    if truth.all() or not truth.any():
        return float("nan")
    from sklearn.metrics import roc_auc_score  # a second, which predicting never needs

    return float(roc_auc_score(truth, score))


def mass_share(
    mass: Float[np.ndarray, "z y x"], where: Bool[np.ndarray, "z y x"]
) -> float:
    """Share of the sum of a map that lies on a mask; NaN if the sum is 0."""
    total = float(np.sum(mass, dtype=np.float64))
    return float(np.sum(mass[where], dtype=np.float64)) / total if total else np.nan
