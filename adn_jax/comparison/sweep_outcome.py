"""Writes a sweep: OUT/sweep.{md,csv,png}."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from adn_jax.comparison.compare import Row, compare
from adn_jax.comparison.curves import Curve, sweep_figure
from adn_jax.comparison.heading import decided_by_rule, heading
from adn_jax.comparison.scores import Scores
from adn_jax.comparison.sweep import (
    OF_P,
    Setting,
    narrow_section,
    sweep_lines,
    sweep_section,
)
from adn_jax.data.manifest import Manifest
from adn_jax.inference.figures import save_figure
from adn_jax.io.files import write_text
from adn_jax.report.tables import Section, markdown, to_csv

DRAWN = {"dice": "Dice", "auroc": OF_P["auroc"]}


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
    name = settings[0].system.recipe.name
    facts = {"Recipe": f"{name} ({settings[0].system.config})"}
    facts |= heading(scores, manifest, split)
    title = f"{name} over {' and '.join(settings[0].values)}"
    section = sweep_section(settings, rows, title)
    write_text(out / "sweep.md", markdown(title, facts, [section], missing))
    write_text(out / "sweep.csv", to_csv(sweep_lines(settings, rows)))
    field, *_ = settings[0].values
    values = list(dict.fromkeys(each.values[field] for each in settings))
    panels = [
        (label, curves(settings, rows, score, values))
        for score, label in DRAWN.items()
        if any(row.scores[score].cases for row in rows)
    ]
    save_figure(sweep_figure(field, values, panels), out / "sweep.png")
    return replace(narrow_section(section), notes=decided_by_rule(scores))


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
