"""A recipe for several values of its settings: plan, table and files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from adn_jax.comparison.compare import COMPARED, Row
from adn_jax.comparison.formats import spread_difference, spread_estimate
from adn_jax.comparison.plan import System
from adn_jax.comparison.words import (
    DIGITS,
    NAMES,
    NONE,
    difference_cells,
    estimate_cells,
)
from adn_jax.config import Recipe
from adn_jax.config.fields import field_name, set_fields
from adn_jax.errors import UserError
from adn_jax.report.pages import format_number
from adn_jax.report.tables import Section

OF_P = {
    "auroc": "AUROC of P",
    "auroc_asymmetry": "AUROC of A",
    "mass_share": "share of min(P, A)",
    "mass_share_asymmetry": "share of A",
}
"""Scores of the disentanglement, and their names in the table."""


@dataclass(frozen=True)
class Setting:
    """One combination of values, by field, and the system that it gives."""

    values: dict[str, str]
    system: System


def plan_settings(
    config: Path, base: Recipe, recipe: Recipe, over: Mapping[str, str]
) -> list[Setting]:
    """Every combination of the values, the last field's changing fastest.

    Args:
      config: the config file.
      base: what it gives at the chosen size.
      recipe: the same with the settings of the command line.
      over: field -> values, separated by commas.

    Raises:
      UserError: an unknown field, a value that it cannot have, or none.
    """
    if not over:
        raise UserError(
            "there is nothing to sweep over; give --over "
            "joint_loss.regularisation=0,1,10."
        )
    values: dict[str, list[str]] = {}
    for name, text in over.items():
        field = field_name(recipe, name)
        values[field] = [value.strip() for value in text.split(",")]
        if "" in values[field] or len(set(values[field])) < len(values[field]):
            raise UserError(
                f"--over {name}={text} has an empty value or one twice; give different "
                "values, separated by commas."
            )
    settings = []
    for combination in product(*values.values()):
        chosen = dict(zip(values, combination, strict=True))
        label = ",".join(f"{name}={text}" for name, text in chosen.items())
        system = System(
            label.replace("/", ":").replace(" ", "_"),
            config,
            base,
            set_fields(recipe, chosen),
        )
        settings.append(Setting(chosen, system))
    return settings


def sweep_section(
    settings: Sequence[Setting], rows: Sequence[Row], title: str
) -> Section:
    """A line a setting; scores of P as far as any setting has them."""
    of_p = [name for name in OF_P if any(row.scores[name].cases for row in rows)]
    fields = tuple(settings[0].values)
    columns = [*fields]
    for name in COMPARED:
        columns += [NAMES[name], "95 % interval"]
    columns += [OF_P[name] for name in of_p]
    for name in COMPARED:
        columns += [f"{NAMES[name]} − first", "95 % interval", "p (Holm)"]
    by_name = {row.name: row for row in rows}
    return Section(
        title,
        columns=tuple(columns),
        rows=tuple(sweep_row(each, by_name, of_p, len(columns)) for each in settings),
        notes=(
            "Means over cases and seeds; intervals by drawing cases and seeds anew. "
            "Differences to the first line, case by case.",
            *of_p_notes(of_p),
        ),
        texts=len(fields),
    )


def narrow_section(section: Section) -> Section:
    """What of a sweep's table fits a terminal: values, Dice, HD95, and AUROC of P."""
    width = section.texts + 2 * len(COMPARED)
    if OF_P["auroc"] in section.columns:
        width += 1
    return replace(
        section,
        columns=section.columns[:width],
        rows=tuple(row[:width] for row in section.rows),
        notes=(),
    )


def of_p_notes(of_p: Sequence[str]) -> tuple[str, ...]:
    """What the scores of P say, where there are any."""
    if not of_p:
        return ()
    return (
        "AUROC: over asymmetric voxels, how often the map is higher where the "
        "asymmetry is pathological; share: how much of the map lies there.",
    )


def sweep_row(
    setting: Setting, rows: Mapping[str, Row], of_p: Sequence[str], width: int
) -> tuple[str, ...]:
    """One line; dashes where the setting has no finished run."""
    cells = list(setting.values.values())
    row = rows.get(setting.system.name)
    if row is None:
        return (*cells, *[NONE] * (width - len(cells)))
    for name in COMPARED:
        cells += estimate_cells(row.scores[name], DIGITS[name])
    cells += [format_number(row.scores[name].mean, 3) for name in of_p]
    for name in COMPARED:
        cells += difference_cells(row.differences.get(name), DIGITS[name])
    return tuple(cells)


def sweep_lines(
    settings: Sequence[Setting], rows: Sequence[Row]
) -> list[dict[str, Any]]:
    """The numbers of every finished setting, for a CSV file."""
    by_name = {row.name: row for row in rows}
    lines = []
    for setting in settings:
        row = by_name.get(setting.system.name)
        if row is None:
            continue
        line: dict[str, Any] = dict(setting.values)
        for name in (*COMPARED, *OF_P):
            line |= spread_estimate(name, row.scores[name])
        for name in COMPARED:
            line |= spread_difference(name, row.differences.get(name))
        lines.append(line)
    return lines
