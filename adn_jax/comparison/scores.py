"""The scores of every case by every run of a system, as evaluations wrote them."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any

import numpy as np
from jaxtyping import Float

from adn_jax.comparison.plan import PlannedRun, System
from adn_jax.errors import UserError
from adn_jax.evaluation.statistics import SeedsByCases
from adn_jax.io.files import read_json
from adn_jax.metrics.disentanglement import Disentanglement

GRID_SCORES = ("dice", "hd95_mm", "label_ml")
"""Scores that exist on each grid."""


@dataclass(frozen=True)
class SystemScores:
    """What a system scored: tables with a row a seed and a column a case."""

    system: System
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


def read_scores(runs: Sequence[PlannedRun], split: str, grid: str = "") -> Scores:
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
    folders = [run.folder / "evaluation" / split for run in runs]
    summaries = [read_json(folder / "summary.json") for folder in folders]
    rows = [_read_rows((folder / "per_case.csv").read_text()) for folder in folders]
    check_same_cases(runs, rows)
    shared = set.intersection(*(set(summary["grids"]) for summary in summaries))
    chosen = grid or ("native" if "native" in shared else "prepared")
    if chosen not in shared:
        raise UserError(
            f"the scans have no label on the {chosen} grid; choose --grid prepared."
        )
    names = tuple(rows[0])
    systems = tuple(dict.fromkeys(run.system for run in runs))
    tables = [_read_tables(of_run, names, chosen) for of_run in rows]
    return Scores(
        grid=chosen,
        cases=names,
        label_ml=tables[0]["label_ml"],
        systems=tuple(collect(system, runs, tables, summaries) for system in systems),
    )


def collect(
    system: System,
    runs: Sequence[PlannedRun],
    tables: Sequence[Mapping[str, Float[np.ndarray, " cases"]]],
    summaries: Sequence[dict[str, Any]],
) -> SystemScores:
    """The runs of one system, seed over seed."""
    own = [place for place, run in enumerate(runs) if run.system == system]
    return SystemScores(
        system=system,
        seeds=tuple(runs[place].seed for place in own),
        tables={
            name: np.stack([tables[place][name] for place in own]) for name in tables[0]
        },
        summaries=tuple(summaries[place] for place in own),
    )


def _read_rows(text: str) -> dict[str, dict[str, str]]:
    """The lines of a `per_case.csv` by case."""
    return {row["case"]: row for row in csv.DictReader(StringIO(text))}


def _read_tables(
    rows: Mapping[str, Mapping[str, str]], cases: Sequence[str], grid: str
) -> dict[str, Float[np.ndarray, " cases"]]:
    """The scores of one run, case by case; NaN where one is not defined."""
    columns = {name: f"{grid}_{name}" for name in GRID_SCORES}
    columns |= {name: name for name in Disentanglement._fields}
    return {
        name: np.array([float(rows[case].get(column) or "nan") for case in cases])
        for name, column in columns.items()
    }


def check_same_cases(
    runs: Sequence[PlannedRun], rows: Sequence[Mapping[str, Any]]
) -> None:
    """Raise `UserError` unless every run was scored on the same cases."""
    for run, of_run in zip(runs, rows, strict=True):
        if set(of_run) != set(rows[0]):
            raise UserError(
                f"{run.name} was scored on other cases than {runs[0].name}; remove "
                f"{run.folder / 'evaluation'} and run the command again."
            )
