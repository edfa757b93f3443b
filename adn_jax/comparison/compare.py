"""Systems beside a reference: means, intervals, differences, tests, lesion sizes.

Dice and HD95 of a case are averaged over the seeds for tests; intervals draw cases and
seeds anew (`evaluation.statistics`). Differences are system minus reference, case by
case and seed by seed, over the seeds that both have.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from adn_jax.comparison.scores import Scores, SystemScores
from adn_jax.evaluation.statistics import (
    SeedsByCases,
    defined,
    holm,
    interval_over_seeds,
    mean_of_seeds,
    signed_rank_p,
)
from adn_jax.pipeline.align import aligns

COMPARED = ("dice", "hd95_mm")
"""Scores that are tested against the reference."""

SIZES_ML = (5.0, 30.0)
"""Label volumes that part small from medium, and medium from large infarcts."""


@dataclass(frozen=True)
class Estimate:
    """Mean of a score over cases and seeds; None where there are too few."""

    mean: float | None
    ci95: tuple[float, float] | None
    """Interval over cases and seeds."""
    seeds_std: float | None
    """Standard deviation of the seeds' means."""
    cases: int
    """Cases where the score is defined."""


@dataclass(frozen=True)
class Difference:
    """A system minus the reference."""

    mean: float | None
    ci95: tuple[float, float] | None
    p: float | None
    """Of the signed-rank test over cases."""
    p_holm: float | None = None
    """The same, corrected for all tests of the comparison."""


@dataclass(frozen=True)
class Row:
    """A system as the table shows it."""

    name: str
    aligned: bool
    seeds: tuple[int, ...]
    scores: dict[str, Estimate]
    differences: dict[str, Difference]
    """Score -> difference to the reference; empty for the reference itself."""
    sizes: dict[str, Estimate]
    """small, medium, large -> Dice of the cases with such an infarct."""


def compare(scores: Scores, reference: str) -> list[Row]:
    """A row for each system; without the reference there are no differences."""
    by_name = {each.system.name: each for each in scores.systems}
    rows = [row_of(each, by_name.get(reference), scores) for each in scores.systems]
    return correct(rows)


def row_of(own: SystemScores, reference: SystemScores | None, scores: Scores) -> Row:
    """One system, its p values not corrected yet."""
    others = () if reference is None or own is reference else COMPARED
    dice = own.tables["dice"]
    return Row(
        name=own.system.name,
        aligned=aligns(own.system.recipe.system),
        seeds=own.seeds,
        scores={
            name: estimate(table)
            for name, table in own.tables.items()
            if name != "label_ml"
        },
        differences={name: difference(own, reference, name) for name in others},
        sizes={
            name: estimate(dice[:, chosen])
            for name, chosen in sizes(scores.label_ml).items()
        },
    )


def estimate(values: SeedsByCases) -> Estimate:
    """Mean, interval and spread over seeds of a table."""
    by_case, by_seed = defined(mean_of_seeds(values)), defined(mean_of_seeds(values.T))
    return Estimate(
        mean=float(by_case.mean()) if by_case.size else None,
        ci95=interval_over_seeds(values),
        seeds_std=float(by_seed.std(ddof=1)) if by_seed.size > 1 else None,
        cases=by_case.size,
    )


def difference(own: SystemScores, reference: SystemScores, name: str) -> Difference:
    """A score of a system minus that of the reference, over the seeds of both."""
    shared = [seed for seed in own.seeds if seed in reference.seeds]
    mine, theirs = (
        each.tables[name][[each.seeds.index(seed) for seed in shared]]
        for each in (own, reference)
    )
    values = mine - theirs
    by_case = mean_of_seeds(values)
    found = defined(by_case)
    return Difference(
        mean=float(found.mean()) if found.size else None,
        ci95=interval_over_seeds(values),
        p=signed_rank_p(by_case),
    )


def correct(rows: Sequence[Row]) -> list[Row]:
    """The rows with p values corrected (Holm) for all tests in all of them."""
    tests = {
        (row.name, score): each.p
        for row in rows
        for score, each in row.differences.items()
        if each.p is not None
    }
    corrected = dict(zip(tests, holm(list(tests.values())), strict=True))
    return [
        replace(
            row,
            differences={
                score: replace(each, p_holm=corrected.get((row.name, score)))
                for score, each in row.differences.items()
            },
        )
        for row in rows
    ]


def sizes(label_ml: Float[np.ndarray, " cases"]) -> Mapping[str, np.ndarray]:
    """Which cases have a small, medium or large infarct; an empty label is none.

    The limits count as medium.
    """
    low, high = SIZES_ML
    return {
        "small": (label_ml > 0) & (label_ml < low),
        "medium": (label_ml >= low) & (label_ml <= high),
        "large": label_ml > high,
    }
