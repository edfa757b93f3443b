"""A recipe for several values of its settings: plan, table, curves, files."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from adn_jax.comparison.compare import (
    COMPARED,
    DIGITS,
    NAMES,
    NONE,
    Estimate,
    Row,
    Scores,
    compare,
)
from adn_jax.comparison.table import decided_by_rule, heading
from adn_jax.comparison.work import Method
from adn_jax.config import Recipe
from adn_jax.config.fields import field_name, set_fields
from adn_jax.config.sizes import Size
from adn_jax.data.manifest import Manifest
from adn_jax.errors import UserError
from adn_jax.inference.figures import save_figure
from adn_jax.io.files import write_text
from adn_jax.report.pages import format_number
from adn_jax.report.tables import Section, markdown, to_csv
from adn_jax.training.differences import changed_settings

OF_P = {
    "auroc": "AUROC of P",
    "auroc_asymmetry": "AUROC of A",
    "mass_share": "share of min(P, A)",
    "mass_share_asymmetry": "share of A",
}
"""Scores of the disentanglement, and their names in the table."""

CURVE_COLOURS = ("#3b6ea5", "#c2410c", "#2e7d5b", "#7c4d9e", "#8a6d1a", "#4b5563")

MARKERS = "osD^vP"

DECADES = 100.0
"""Largest over smallest value from which the axis is logarithmic."""

SIDESTEP = 0.06
"""Curves lie beside each other by so many units of the axis, or their bars would hide
one another."""

DRAWN = {"dice": "Dice", "auroc": OF_P["auroc"]}


@dataclass(frozen=True)
class Setting:
    """One combination of values, by field, and the system that it gives."""

    values: dict[str, str]
    system: Method


def plan_settings(
    config: Path,
    base: Recipe,
    recipe: Recipe,
    over: Mapping[str, str],
    size: Size = "full",
) -> list[Setting]:
    """Every combination of the values, the last field's changing fastest.

    Args:
        config: the config file.
        base: what it gives at the chosen size.
        recipe: the same with the settings of the command line.
        over: field -> values, separated by commas.
        size: the chosen size.

    Raises:
        UserError: an unknown field, a value that it cannot have, or none, or a field
            that does not count for this system.
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
        if "" in values[field]:
            raise UserError(
                f"--over {name}={text} has an empty value; give values, separated by "
                "commas."
            )
    settings = []
    for combination in product(*values.values()):
        chosen = dict(zip(values, combination, strict=True))
        label = ",".join(f"{name}={text}" for name, text in chosen.items())
        system = Method(
            label.replace("/", ":").replace(" ", "_"),
            config,
            base,
            set_fields(recipe, chosen),
            size,
        )
        settings.append(Setting(chosen, system))
    for one, other in combinations(settings, 2):
        if one.system.recipe == other.system.recipe:
            raise UserError(
                f"--over gives {one.system.name} and {other.system.name}, which are "
                "the same; give each value once."
            )
    for field, texts in values.items():
        if len(texts) > 1 and not _counts(field, settings):
            raise UserError(
                f"--over {field}={','.join(texts)} changes nothing by which "
                f"{recipe.name!r} is trained, so that its runs would all be the same; "
                "leave it out, or give a field that counts for this system."
            )
    return settings


def _counts(field: str, settings: Sequence[Setting]) -> bool:
    """Whether any two settings that differ in this field alone train differently."""
    firsts: dict[tuple[str, ...], Recipe] = {}
    for setting in settings:
        others = tuple(text for name, text in setting.values.items() if name != field)
        recipe = setting.system.recipe
        if changed_settings("joint", firsts.setdefault(others, recipe), recipe):
            return True
    return False


def _sweep_section(
    settings: Sequence[Setting], rows: Mapping[str, Row], title: str
) -> Section:
    """A line a setting, dashes if it has no finished run; scores of P as far as any
    setting has them."""
    of_p = [each for each in OF_P if any(r.scores[each].cases for r in rows.values())]
    fields = tuple(settings[0].values)
    columns = [*fields]
    for name in COMPARED:
        columns += [NAMES[name], "95 % interval"]
    columns += [OF_P[name] for name in of_p]
    for name in COMPARED:
        columns += [f"{NAMES[name]} − first", "95 % interval", "p (Holm)"]
    lines = []
    for setting in settings:
        cells = list(setting.values.values())
        row = rows.get(setting.system.name)
        if row is None:
            cells += [NONE] * (len(columns) - len(cells))
        else:
            for name in COMPARED:
                cells += row.scores[name].cells(DIGITS[name])
            cells += [format_number(row.scores[name].mean, 3) for name in of_p]
            cells += row.difference_cells()
        lines.append(tuple(cells))
    notes = (
        "Means over cases and seeds; intervals by drawing cases and seeds anew. "
        "Differences to the first line, case by case.",
    )
    if of_p:
        notes += (
            "AUROC: over asymmetric voxels, how often the map is higher where the "
            "asymmetry is pathological; share: how much of the map lies there.",
        )
    return Section(title, tuple(columns), tuple(lines), notes, texts=len(fields))


@dataclass(frozen=True)
class Curve:
    """A score for every value of the first field; None where a run is missing."""

    label: str
    """The values of the other fields; empty where there are none."""
    estimates: tuple[Estimate | None, ...]


def sweep_figure(
    field: str, values: Sequence[str], panels: Sequence[tuple[str, Sequence[Curve]]]
) -> Figure:
    """A panel a score with means and 95 % intervals, a curve for each other setting."""
    figure = Figure(figsize=(4.4 * len(panels), 3.5), dpi=160, layout="constrained")
    places, shown = axis_places(values)
    for axes, (name, curves) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
    ):
        for number, curve in enumerate(curves):
            shift = SIDESTEP * (number - (len(curves) - 1) / 2)
            _draw_curve(axes, places + shift, curve, number)
        axes.set_xticks(places, shown)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set(xlabel=field, ylabel=f"{name}, mean and 95 % interval")
        axes.margins(x=0.08, y=0.12)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.set_axisbelow(True)
    if any(curve.label for curve in panels[0][1]):
        lines = figure.axes[0].get_lines()
        figure.legend(handles=lines, loc="outside upper center", ncols=3, frameon=False)
    return figure


def _draw_curve(axes: Axes, places: np.ndarray, curve: Curve, number: int) -> None:
    """Means joined by a line, intervals as bars."""
    known = [
        (place, each)
        for place, each in zip(places, curve.estimates, strict=True)
        if each is not None and each.mean is not None
    ]
    colour = CURVE_COLOURS[number % len(CURVE_COLOURS)]
    for place, each in known:
        if each.ci95 is not None:
            axes.vlines(place, *each.ci95, color=colour, alpha=0.55, linewidth=1.4)
    axes.plot(
        [place for place, _ in known],
        [each.mean for _, each in known],
        color=colour,
        marker=MARKERS[number % len(MARKERS)],
        markersize=5,
        linewidth=1.6,
        label=curve.label or None,
    )


def axis_places(values: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Where values stand on the axis, in their order on it, and what is written there.

    Numbers over two decades or more stand by their logarithm, 0 a decade below the
    smallest; other numbers from 0 to 3 by their size; anything else one after another.
    """
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        return np.arange(len(values), dtype=float), list(values)
    positive = [number for number in numbers if number > 0]
    wide = positive and max(positive) >= DECADES * min(positive)
    if wide and min(numbers) >= 0:
        below = math.log10(min(positive)) - 1
        places = [math.log10(each) if each > 0 else below for each in numbers]
        return np.array(places), list(values)
    low, high = min(numbers), max(numbers)
    width = (high - low) or 1.0
    return np.array([3 * (each - low) / width for each in numbers]), list(values)


def write_sweep(
    settings: Sequence[Setting],
    scores: Scores,
    manifest: Manifest,
    out: Path,
    split: str,
    missing: Sequence[str],
) -> Section:
    """Write table and figure; returns what is for the terminal."""
    rows = compare(scores, settings[0].system.name)
    recipe = settings[0].system.recipe.name
    facts = {"Recipe": f"{recipe} ({settings[0].system.config})"}
    facts |= heading(scores, manifest, split)
    title = f"{recipe} over {' and '.join(settings[0].values)}"
    by_name = {row.name: row for row in rows}
    section = _sweep_section(settings, by_name, title)
    write_text(out / "sweep.md", markdown(title, facts, [section], missing))
    lines = []
    for setting in settings:
        if row := by_name.get(setting.system.name):
            line: dict[str, Any] = dict(setting.values)
            for name in (*COMPARED, *OF_P):
                line |= row.scores[name].flat(name)
            lines.append(line | row.flat_differences())
    write_text(out / "sweep.csv", to_csv(lines))
    field, *_ = settings[0].values
    values = list(dict.fromkeys(each.values[field] for each in settings))
    panels = [
        (label, curves(settings, rows, score, values))
        for score, label in DRAWN.items()
        if any(row.scores[score].cases for row in rows)
    ]
    save_figure(sweep_figure(field, values, panels), out / "sweep.png")
    # what fits a terminal: values, Dice, HD95, and AUROC of P
    width = section.texts + 2 * len(COMPARED) + (OF_P["auroc"] in section.columns)
    return replace(
        section,
        columns=section.columns[:width],
        rows=tuple(row[:width] for row in section.rows),
        notes=decided_by_rule(scores),
    )


def curves(
    settings: Sequence[Setting],
    rows: Sequence[Row],
    score: str,
    values: Sequence[str],
) -> list[Curve]:
    """A curve for each combination of the fields after the first, in sorted values."""
    by_name = {row.name: row.scores[score] for row in rows}
    found: dict[str, dict[str, str]] = {}
    for setting in settings:
        (_, value), *others = setting.values.items()
        label = ", ".join(f"{name} = {text}" for name, text in others)
        found.setdefault(label, {})[value] = setting.system.name
    return [
        Curve(label, tuple(by_name.get(names[value]) for value in values))
        for label, names in found.items()
    ]
