"""The probability from which a voxel is called infarct, chosen on validation cases.

Two thresholds are chosen, since a network is often too careful with small infarcts: one
for all cases, and another for those in which the first finds less than `SMALL_ML`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from adn_jax.evaluation.scores import EmptyRule
from adn_jax.inference.maps import SMALL_ML, Map, Thresholds
from adn_jax.metrics.overlap import Spacing

CANDIDATES = tuple(round(0.05 * step, 2) for step in range(1, 20))
"""Thresholds to choose from."""

FEW_CASES = 8
"""With fewer validation cases a choice is called weak."""

Curve = Float[np.ndarray, " candidates"]
"""A number for each of `CANDIDATES`."""


@dataclass(frozen=True)
class CaseCurves:
    """What each candidate makes of one validation case."""

    dice: Curve
    """NaN where prediction and label are both empty."""
    predicted_ml: Curve


@dataclass(frozen=True)
class Choice:
    """The thresholds chosen, and what they were chosen by."""

    thresholds: Thresholds
    cases: int
    """Validation cases."""
    small_cases: int
    """Those of them that are small."""
    dice: Curve
    """Mean Dice of all cases at each candidate."""
    small_dice: Curve
    """The same of the small ones; NaN without any."""


def dice_curve(
    probability: Float[np.ndarray, "*shape"], lesion: Bool[np.ndarray, "*shape"]
) -> Curve:
    """Dice at each candidate; NaN where prediction and label are both empty."""
    hits, predicted = (_counts_above(p) for p in (probability[lesion], probability))
    total = predicted + np.count_nonzero(lesion)
    return np.where(total > 0, 2.0 * hits / np.maximum(total, 1), np.nan)


def volume_curve(probability: Map, spacing_mm: Spacing) -> Curve:
    """Predicted volume in mL at each candidate."""
    return _counts_above(probability) * float(np.prod(spacing_mm) / 1000.0)


def _counts_above(probability: Float[np.ndarray, "*shape"]) -> Curve:
    """How many voxels have at least each candidate's probability."""
    edges = np.asarray(CANDIDATES, probability.dtype)
    reached = np.searchsorted(edges, probability.ravel(), side="right")
    counts = np.bincount(reached, minlength=len(CANDIDATES) + 1)
    return np.cumsum(counts[::-1])[::-1][1:].astype(float)


def choose_thresholds(
    cases: Sequence[CaseCurves], fixed: float, rule: EmptyRule = "penalise"
) -> Choice:
    """The thresholds with the best mean Dice; of equally good ones that next to
    `fixed`.

    Without any small case the general threshold serves for those, too.
    """
    everything = _mean_dice(cases, rule)
    best = best_candidate(everything, fixed)
    small = [case for case in cases if case.predicted_ml[best] < SMALL_ML]
    of_small = _mean_dice(small, rule)
    best_small = best_candidate(of_small, CANDIDATES[best])
    return Choice(
        Thresholds(CANDIDATES[best], CANDIDATES[best_small]),
        len(cases),
        len(small),
        everything,
        of_small,
    )


def _mean_dice(cases: Sequence[CaseCurves], rule: EmptyRule) -> Curve:
    """Mean over cases at each candidate, by the rule for empty masks; NaN of none."""
    scores = np.array([case.dice for case in cases], float)
    scores = scores.reshape(len(cases), len(CANDIDATES))
    if rule == "penalise":
        scores = np.nan_to_num(scores, nan=1.0)
    count = np.count_nonzero(~np.isnan(scores), axis=0)
    return np.where(count > 0, np.nansum(scores, 0) / np.maximum(count, 1), np.nan)


def best_candidate(scores: Curve, near: float) -> int:
    """Place of the highest score, of equal ones that next to the threshold `near`."""
    filled = np.nan_to_num(scores, nan=-1.0)
    equal = np.flatnonzero(filled >= filled.max() - 1e-9)
    distance = np.abs(np.array(CANDIDATES) - near)[equal]
    return int(equal[np.argmin(np.round(distance, 9))])


def choice_in_words(choice: Choice, grid: str) -> str:
    """A choice as a reader sees it, with a warning where it is weak."""
    chosen = choice.thresholds
    few = f"; a weak choice: fewer than {FEW_CASES} cases"
    return (
        f"{chosen.general:.2f}, below {chosen.small_ml:g} mL {chosen.small:.2f} "
        f"(chosen on {choice.cases} validation cases, {grid} grid, "
        f"{choice.small_cases} of them small{few if choice.cases < FEW_CASES else ''})"
    )
