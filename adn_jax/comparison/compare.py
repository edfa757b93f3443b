"""Systems beside a reference: means, intervals, differences, tests, lesion sizes.

Dice and HD95 of a case are averaged over the seeds for tests; intervals draw cases and
seeds anew (`evaluation.statistics`). Differences are system minus reference, case by
case and seed by seed, over the seeds that both have.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from adn_jax.comparison.plan import System
from adn_jax.comparison.published import TABLE_1, method_name
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
from adn_jax.report.pages import format_number
from adn_jax.report.tables import to_csv
from adn_jax.training.runs import stages_of

COMPARED = ("dice", "hd95_mm")
"""Scores that are tested against the reference."""

SIZES_ML = (5.0, 30.0)
"""Label volumes that part small from medium, and medium from large infarcts."""

DIGITS = {"dice": 3, "hd95_mm": 1}

NAMES = {"dice": "Dice", "hd95_mm": "HD95 mm"}

NONE = "–"


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
    rows = [_row_of(each, by_name.get(reference), scores) for each in scores.systems]
    return correct(rows)


def _row_of(own: SystemScores, reference: SystemScores | None, scores: Scores) -> Row:
    """One system, its p values not corrected yet."""
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
        differences={}
        if reference is None or own is reference
        else {name: difference(own, reference, name) for name in COMPARED},
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


def table_csv(rows: Sequence[Row]) -> str:
    """All numbers of the table, a line a system; undefined ones are empty."""
    return to_csv([flat_row(row) for row in rows])


def flat_row(row: Row) -> dict[str, Any]:
    """The numbers of a system under one name each."""
    paper = TABLE_1.get(row.name)
    flat: dict[str, Any] = {
        "recipe": row.name,
        "method": method_name(row.name),
        "aligned": "yes" if row.aligned else "no",
        "seeds": " ".join(str(seed) for seed in row.seeds),
    }
    for name in COMPARED:
        flat |= spread_estimate(name, row.scores[name])
    flat |= {
        "paper_dice": paper and paper.dice,
        "paper_hd95_mm": paper and paper.hd95_mm,
    }
    for name in COMPARED:
        flat |= spread_difference(name, row.differences.get(name))
    for name, size in row.sizes.items():
        flat |= spread_estimate(f"dice_{name}", size)
    return flat


def spread_estimate(name: str, estimate: Estimate) -> dict[str, Any]:
    """Mean, interval, spread over seeds and count of cases."""
    low, high = estimate.ci95 or (None, None)
    return {
        name: estimate.mean,
        f"{name}_low": low,
        f"{name}_high": high,
        f"{name}_seeds_std": estimate.seeds_std,
        f"{name}_cases": estimate.cases,
    }


def spread_difference(name: str, found: Difference | None) -> dict[str, Any]:
    """Difference, interval and p; empty for the reference itself."""
    low, high = (None if found is None else found.ci95) or (None, None)
    return {
        f"{name}_difference": found and found.mean,
        f"{name}_difference_low": low,
        f"{name}_difference_high": high,
        f"{name}_p": found and found.p,
        f"{name}_p_holm": found and found.p_holm,
    }


def interval(ci95: tuple[float, float] | None, digits: int, sign: bool = False) -> str:
    """An interval in words; a dash where there is none."""
    if ci95 is None:
        return NONE
    return " to ".join(format_number(value, digits, sign) for value in ci95)


def estimate_cells(estimate: Estimate, digits: int) -> tuple[str, str]:
    """Mean and interval."""
    return format_number(estimate.mean, digits), interval(estimate.ci95, digits)


def difference_cells(found: Difference | None, digits: int) -> tuple[str, str, str]:
    """Difference, interval and corrected p; dashes for the reference itself."""
    if found is None:
        return NONE, NONE, NONE
    return (
        format_number(found.mean, digits, sign=True),
        interval(found.ci95, digits, sign=True),
        p_text(found.p_holm),
    )


def p_text(p: float | None) -> str:
    """A p value with as many digits as mean something."""
    if p is None:
        return NONE
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def steps_text(system: System) -> str:
    """Steps of every stage of a system."""
    recipe = system.recipe
    return ", ".join(
        f"{stage} {getattr(recipe, stage).steps}" for stage in stages_of(recipe)
    )
