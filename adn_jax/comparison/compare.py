"""Systems beside a reference: means, intervals, differences, tests, lesion sizes.

Dice and HD95 of a case are averaged over the seeds for tests; intervals draw cases and
seeds anew (`evaluation.summary`). Differences are system minus reference, case by
case and seed by seed, over the seeds that both have.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from io import StringIO
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from adn_jax.comparison.peers import PeerMethod, PeerRun
from adn_jax.comparison.work import Method, PlannedRun
from adn_jax.errors import UserError
from adn_jax.evaluation.summary import (
    SeedsByCases,
    defined,
    holm,
    interval_over_seeds,
    mean_of_seeds,
    signed_rank_p,
)
from adn_jax.io.files import read_json
from adn_jax.metrics.disentanglement import Disentanglement
from adn_jax.report.pages import format_number
from adn_jax.report.tables import NONE


class Published(NamedTuple):
    """A row of the paper's Table 1: AISD, 345 training and 52 test scans."""

    method: str
    aligned: bool
    dice: float
    hd95_mm: float


TABLE_1 = {
    "deepmedic": Published("DeepMedic", False, 0.4412, 58.20),
    "unet": Published("3D U-Net", False, 0.4281, 42.18),
    "resunet": Published("3D ResUNet", False, 0.4763, 42.55),
    "clerigues": Published("Clèrigues et al.", True, 0.5051, 43.17),
    "sean": Published("SEAN", True, 0.5047, 40.07),
    "resunet_aligned": Published("3D ResUNet, aligned", True, 0.4850, 39.87),
    "adn_no_tissue": Published("ADN without tissue", True, 0.5090, 39.66),
    "adn": Published("ADN", True, 0.5245, 39.18),
}
"""Name of our recipe -> row, in the paper's order."""

GRID_SCORES = ("dice", "hd95_mm", "label_ml")
"""Scores that exist on each grid."""

COMPARED = ("dice", "hd95_mm")
"""Scores that are tested against the reference."""

SIZES_ML = (5.0, 30.0)
"""Label volumes that part small from medium, and medium from large infarcts."""

DIGITS = {"dice": 3, "hd95_mm": 1}

NAMES = {"dice": "Dice", "hd95_mm": "HD95 mm"}

ALIGNED = {True: "yes", False: "no", None: NONE}


def method_name(system: str) -> str:
    """The paper's name of a method; the system's own where the paper has none."""
    return TABLE_1[system].method if system in TABLE_1 else system


def paper_order(system: str) -> int:
    """Place in the paper's table; behind it where the paper has no such method."""
    names = list(TABLE_1)
    return names.index(system) if system in names else len(names)


@dataclass(frozen=True)
class SystemScores:
    """What a system scored: tables with a row a seed and a column a case."""

    system: Method | PeerMethod
    seeds: tuple[int, ...]
    tables: dict[str, SeedsByCases]
    """Score -> table: Dice, HD95 and the scores of P."""
    summaries: tuple[dict[str, Any], ...]
    """Content of `summary.json` of each seed."""


@dataclass(frozen=True)
class Scores:
    """All scores of a comparison."""

    grid: str
    """Grid on which masks were scored: native or prepared."""
    cases: tuple[str, ...]
    label_ml: Float[np.ndarray, " cases"]
    systems: tuple[SystemScores, ...]
    """Those with at least one finished run, in the order of the comparison."""


def read_scores(
    runs: Sequence[PlannedRun | PeerRun], split: str, grid: str = ""
) -> Scores:
    """Read the scores of finished runs.

    Args:
        runs: scored runs.
        split: the split they were scored on.
        grid: native or prepared; empty: native where every run has it.

    Raises:
        UserError: there is no run, runs have different cases, or lack the grid.
    """
    if not runs:
        raise UserError("no run is finished, so there is nothing to compare.")
    summaries, rows = [], []
    for run in runs:
        folder = run.folder / "evaluation" / split
        summaries.append(read_json(folder / "summary.json"))
        lines = csv.DictReader(StringIO((folder / "per_case.csv").read_text("utf-8")))
        rows.append({line["case"]: line for line in lines})
        if set(rows[-1]) != set(rows[0]):
            raise UserError(
                f"{run.name} was scored on other cases than {runs[0].name}; remove "
                f"{run.folder / 'evaluation'} and run the command again."
            )
    shared = set.intersection(*(set(summary["grids"]) for summary in summaries))
    chosen = grid or ("native" if "native" in shared else "prepared")
    if chosen not in shared:
        raise UserError(
            f"the scans have no label on the {chosen} grid; choose --grid prepared."
        )
    columns = {name: f"{chosen}_{name}" for name in GRID_SCORES}
    columns |= {name: name for name in Disentanglement._fields}
    names = tuple(rows[0])
    tables = [  # NaN where a score is not defined
        {
            score: np.array(
                [float(of_run[case].get(column) or "nan") for case in names]
            )
            for score, column in columns.items()
        }
        for of_run in rows
    ]
    systems = []
    for system in dict.fromkeys(run.system for run in runs):
        own = [place for place, run in enumerate(runs) if run.system == system]
        stacked = {
            score: np.stack([tables[place][score] for place in own])
            for score in columns
        }
        seeds = tuple(runs[place].seed for place in own)
        of_seeds = tuple(summaries[place] for place in own)
        systems.append(SystemScores(system, seeds, stacked, of_seeds))
    return Scores(chosen, names, tables[0]["label_ml"], tuple(systems))


def interval_text(
    ci95: tuple[float, float] | None, digits: int, sign: bool = False
) -> str:
    """An interval in words; a dash if there is none."""
    if ci95 is None:
        return NONE
    return " to ".join(format_number(value, digits, sign) for value in ci95)


@dataclass(frozen=True)
class Estimate:
    """Mean of a score over cases and seeds; None if there are too few."""

    mean: float | None
    ci95: tuple[float, float] | None
    """Interval over cases and seeds."""
    seeds_std: float | None
    """Standard deviation of the seeds' means."""
    cases: int
    """Cases where the score is defined."""

    @classmethod
    def of(cls, values: SeedsByCases) -> "Estimate":
        """Mean, interval and spread over seeds of a table."""
        by_case = defined(mean_of_seeds(values))
        by_seed = defined(mean_of_seeds(values.T))
        return cls(
            mean=float(by_case.mean()) if by_case.size else None,
            ci95=interval_over_seeds(values),
            seeds_std=float(by_seed.std(ddof=1)) if by_seed.size > 1 else None,
            cases=by_case.size,
        )

    def cells(self, digits: int) -> tuple[str, str]:
        """Mean and interval as text."""
        return format_number(self.mean, digits), interval_text(self.ci95, digits)

    def flat(self, name: str) -> dict[str, Any]:
        """The numbers under one name each, for a CSV file."""
        low, high = self.ci95 or (None, None)
        return {
            name: self.mean,
            f"{name}_low": low,
            f"{name}_high": high,
            f"{name}_seeds_std": self.seeds_std,
            f"{name}_cases": self.cases,
        }


@dataclass(frozen=True)
class Difference:
    """A system minus the reference."""

    mean: float | None
    ci95: tuple[float, float] | None
    p: float | None
    """Of the signed-rank test over cases."""
    p_holm: float | None = None
    """The same, corrected for all tests of the comparison."""
    seeds: tuple[int, ...] = ()
    """Those that both have, which it is over."""

    @classmethod
    def between(
        cls, own: SystemScores, reference: SystemScores, name: str
    ) -> "Difference":
        """A score of a system minus that of the reference, over the seeds of both."""
        shared = tuple(seed for seed in own.seeds if seed in reference.seeds)
        mine, theirs = (
            each.tables[name][[each.seeds.index(seed) for seed in shared]]
            for each in (own, reference)
        )
        values = mine - theirs
        by_case = mean_of_seeds(values)
        found = defined(by_case)
        return cls(
            mean=float(found.mean()) if found.size else None,
            ci95=interval_over_seeds(values),
            p=signed_rank_p(by_case),
            seeds=shared,
        )


def by_size(label_ml: Float[np.ndarray, " cases"]) -> Mapping[str, np.ndarray]:
    """Which cases have a small, medium or large infarct; an empty label is none.

    The limits count as medium.
    """
    low, high = SIZES_ML
    return {
        "small": (label_ml > 0) & (label_ml < low),
        "medium": (label_ml >= low) & (label_ml <= high),
        "large": label_ml > high,
    }


def difference_cells(found: Difference | None, digits: int) -> tuple[str, str, str]:
    """Difference, interval and corrected p; dashes for the reference itself."""
    if found is None:
        return NONE, NONE, NONE
    mean = format_number(found.mean, digits, sign=True)
    p = NONE if found.p_holm is None else f"{found.p_holm:.3f}"
    if found.p_holm is not None and found.p_holm < 0.001:
        p = "< 0.001"
    return mean, interval_text(found.ci95, digits, sign=True), p


@dataclass(frozen=True)
class Row:
    """A system as the table shows it."""

    name: str
    aligned: bool | None
    """None: of another tool, it is not known."""
    seeds: tuple[int, ...]
    scores: dict[str, Estimate]
    differences: dict[str, Difference]
    """Score -> difference to the reference; empty for the reference itself."""
    sizes: dict[str, Estimate]
    """small, medium, large -> Dice of the cases with such an infarct."""

    @property
    def difference_seeds(self) -> tuple[int, ...]:
        """Seeds that the differences are over; none for the reference."""
        return next((each.seeds for each in self.differences.values()), ())

    def difference_cells(self) -> tuple[str, ...]:
        """Difference, interval and corrected p of each compared score as text."""
        cells = (
            difference_cells(self.differences.get(name), DIGITS[name])
            for name in COMPARED
        )
        return tuple(cell for of_score in cells for cell in of_score)

    def flat_differences(self) -> dict[str, Any]:
        """Differences, their seeds, intervals and p for a CSV file; empty for the
        reference."""
        seeds = " ".join(map(str, self.difference_seeds))
        flat: dict[str, Any] = {"difference_seeds": seeds}
        for name in COMPARED:
            found = self.differences.get(name)
            low, high = (None if found is None else found.ci95) or (None, None)
            flat |= {
                f"{name}_difference": found and found.mean,
                f"{name}_difference_low": low,
                f"{name}_difference_high": high,
                f"{name}_p": found and found.p,
                f"{name}_p_holm": found and found.p_holm,
            }
        return flat

    def flat(self) -> dict[str, Any]:
        """All numbers of the system under one name each, for a CSV file."""
        paper = TABLE_1.get(self.name)
        flat: dict[str, Any] = {
            "recipe": self.name,
            "method": method_name(self.name),
            "aligned": ALIGNED[self.aligned],
            "seeds": " ".join(str(seed) for seed in self.seeds),
        }
        for name in COMPARED:
            flat |= self.scores[name].flat(name)
        flat |= {
            "paper_dice": paper and paper.dice,
            "paper_hd95_mm": paper and paper.hd95_mm,
        }
        flat |= self.flat_differences()
        for name, size in self.sizes.items():
            flat |= size.flat(f"dice_{name}")
        return flat


def compare(scores: Scores, reference: str) -> list[Row]:
    """A row for each system; without the reference there are no differences."""
    by_name = {each.system.name: each for each in scores.systems}
    base = by_name.get(reference)
    rows = []
    for own in scores.systems:
        differences = {}
        if base is not None and own is not base:
            differences = {
                name: Difference.between(own, base, name) for name in COMPARED
            }
        rows.append(
            Row(
                name=own.system.name,
                aligned=own.system.aligned,
                seeds=own.seeds,
                scores={
                    name: Estimate.of(table)
                    for name, table in own.tables.items()
                    if name != "label_ml"
                },
                differences=differences,
                sizes={
                    name: Estimate.of(own.tables["dice"][:, chosen])
                    for name, chosen in by_size(scores.label_ml).items()
                },
            )
        )
    return correct(rows)


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
