"""Writes the table of a comparison: OUT/table.{md,csv,tex,html,json}, OUT/figures/."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from adn_jax.comparison.boxes import box_figure
from adn_jax.comparison.compare import Row, compare
from adn_jax.comparison.formats import table_csv
from adn_jax.comparison.heading import GRIDS, decided_by_rule, heading
from adn_jax.comparison.page import Picture, render_page
from adn_jax.comparison.plan import PlannedRun
from adn_jax.comparison.published import method_name
from adn_jax.comparison.qualitative import (
    check_cases,
    predict_scans,
    qualitative_figure,
    spread_cases,
)
from adn_jax.comparison.scores import Scores
from adn_jax.comparison.table import short_section, table_sections
from adn_jax.data.manifest import Manifest
from adn_jax.evaluation.statistics import mean_of_seeds
from adn_jax.inference.figures import save_figure
from adn_jax.io.files import write_json, write_text
from adn_jax.report.tables import Section, markdown, tex

TITLE = "Comparison of systems"
BOXES = {"dice": ("Dice", (-0.03, 1.03)), "hd95_mm": ("HD95 in mm", None)}


def write_table(
    runs: Sequence[PlannedRun],
    scores: Scores,
    manifest: Manifest,
    out: Path,
    reference: str,
    split: str,
    cases: Sequence[str],
    missing: Sequence[str],
) -> Section:
    """Write everything; returns what is for the terminal.

    Args:
      runs: the scored runs.
      scores: what they scored.
      manifest: the data set.
      out: folder of the comparison.
      reference: name of the system that the others are compared with.
      split: the split that was scored.
      cases: cases of the qualitative figure; none: spread by the reference's Dice.
      missing: sentences on the runs that are missing.
    """
    check_cases(cases, scores.cases)
    rows = compare(scores, reference)
    facts = heading(scores, manifest, split)
    tables = table_sections(rows, reference)
    write_text(out / "table.md", markdown(TITLE, facts, tables, missing))
    write_text(out / "table.csv", table_csv(rows))
    write_text(out / "table.tex", tex(facts, tables, missing))
    content = table_json(rows, scores, facts, reference, missing)
    write_json(out / "table.json", content)
    pictures = write_pictures(runs, scores, manifest, out / "figures", reference, cases)
    page = render_page(TITLE, facts, tables, missing, pictures)
    write_text(out / "table.html", page)
    return replace(short_section(rows, reference), notes=decided_by_rule(scores))


def table_json(
    rows: Sequence[Row],
    scores: Scores,
    facts: dict[str, str],
    reference: str,
    missing: Sequence[str],
) -> dict:
    """All numbers, those of single cases included; None where one is not defined."""
    return {
        "facts": facts,
        "reference": reference,
        "missing": list(missing),
        "rows": [asdict(row) for row in rows],
        "cases": list(scores.cases),
        "label_ml": scores.label_ml.tolist(),
        "per_case": {
            each.system.name: {
                "seeds": list(each.seeds),
                **{
                    name: [
                        [None if value != value else value for value in of_seed]
                        for of_seed in table.tolist()
                    ]
                    for name, table in each.tables.items()
                    if name != "label_ml"
                },
            }
            for each in scores.systems
        },
    }


def write_pictures(
    runs: Sequence[PlannedRun],
    scores: Scores,
    manifest: Manifest,
    folder: Path,
    reference: str,
    cases: Sequence[str],
) -> list[Picture]:
    """Draw box plots and the qualitative figure."""
    names = [each.system.name for each in scores.systems]
    place = names.index(reference) if reference in names else None
    drawn = {
        score.removesuffix("_mm"): box_figure(
            [mean_of_seeds(each.tables[score]) for each in scores.systems],
            [method_name(name) for name in names],
            label,
            place,
            limits,
        )
        for score, (label, limits) in BOXES.items()
    }
    ranking = scores.systems[place or 0].tables["dice"]
    chosen = cases or spread_cases(mean_of_seeds(ranking), scores.cases)
    shared = set.intersection(*(set(each.seeds) for each in scores.systems))
    shown = [run for run in runs if not shared or run.seed == min(shared)]
    first = [
        next(run for run in shown if run.system == each.system)
        for each in scores.systems
    ]
    drawn["fig3"] = qualitative_figure(
        predict_scans(first, scores, manifest, chosen),
        names,
        first[0].recipe.system.prepare.window_hu,
    )
    for name, figure in drawn.items():
        save_figure(figure, folder / f"{name}.png")
    seeds = sorted({run.seed for run in first})
    return pictures_of(folder, " and ".join(map(str, seeds)), scores.grid)


def pictures_of(folder: Path, seed: str, grid: str) -> list[Picture]:
    """The figures with their captions."""
    boxes = (
        f"Mean over seeds of each case, on {GRIDS[grid]}. Box: quartiles; whiskers: "
        "1.5 times its length; the long line is the reference's median."
    )
    return [
        (folder / "dice.png", "Dice of every system, case by case", f"Dice. {boxes}"),
        (
            folder / "hd95.png",
            "HD95 of every system, case by case",
            f"HD95. {boxes} Where nothing was predicted it is the image's diagonal.",
        ),
        (
            folder / "fig3.png",
            "CT slices with the label and every system's prediction outlined",
            f"The slice with most of the label, as scanned; runs with seed {seed}. "
            f"Dice is that of the whole scan on {GRIDS[grid]}.",
        ),
    ]
