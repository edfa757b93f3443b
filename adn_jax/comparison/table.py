"""The table of a comparison: what it says, and OUT/table.{md,csv,tex,html,json}."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from adn_jax.comparison.compare import (
    ALIGNED,
    COMPARED,
    DIGITS,
    NAMES,
    NONE,
    SIZES_ML,
    TABLE_1,
    Row,
    Scores,
    compare,
    difference_cells,
    method_name,
)
from adn_jax.comparison.peers import PeerMethod, PeerRun
from adn_jax.comparison.qualitative import (
    PICTURED_BY_DEFAULT,
    check_cases,
    predict_chosen,
    qualitative_figure,
)
from adn_jax.comparison.work import Method, PlannedRun
from adn_jax.config.fields import changed_fields, leaves, pair
from adn_jax.data.manifest import Manifest
from adn_jax.errors import counted
from adn_jax.evaluation.report import data_uri, spread_cases
from adn_jax.evaluation.summary import FEWEST_CASES, label_lost, mean_of_seeds
from adn_jax.inference.figures import BAR, MEDIAN, save_figure
from adn_jax.io.files import write_json, write_text
from adn_jax.io.paths import Place, spelled_out
from adn_jax.report.pages import format_number, page_environment
from adn_jax.report.tables import Section, markdown, tex, to_csv

TITLE = "Comparison of systems"

BOXES = {"dice": ("Dice", (-0.03, 1.03)), "hd95_mm": ("HD95 in mm", None)}

POINT_COLOUR = "#6b7785"

MEAN_COLOUR = "#1b2430"

ROW_INCHES = 0.42

SPREAD = 0.18
"""Points are moved at most so far from the middle of their row, in rows."""

GOLDEN_RATIO = 0.618034
"""Its multiples, less their whole parts, spread evenly, however many there are."""

GRIDS = {"native": "the scans' own grids", "prepared": "the prepared grid"}

Picture = tuple[Place, str, str]
"""File, what it shows in a few words, and its caption."""

PAPER = (
    "Paper: published means on AISD (Ni et al., MICCAI 2022, Table 1; 345 training and "
    "52 test scans, on a resampled grid); other data cannot be held against them."
)


def write_table(
    runs: Sequence[PlannedRun | PeerRun],
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
    tables = [_scores_section(rows)]
    if any(row.differences for row in rows):
        tables.append(_difference_section(rows, reference))
    tables.append(_sizes_section(rows))
    write_text(out / "table.md", markdown(TITLE, facts, tables, missing))
    write_text(out / "table.csv", to_csv([row.flat() for row in rows]))
    write_text(out / "table.tex", tex(facts, tables, missing))
    content = _table_json(rows, scores, facts, reference, missing)
    write_json(out / "table.json", content)
    pictures = _write_pictures(
        runs, scores, manifest, out / "figures", reference, cases
    )
    template = page_environment("adn_jax.comparison").get_template("table.html")
    page = template.render(
        title=TITLE,
        facts=facts,
        sections=tables,
        missing=missing,
        pictures=[(data_uri(path), what, text) for path, what, text in pictures],
    )
    write_text(out / "table.html", page)
    notes = (*decided_by_rule(scores), *differing_seeds(rows, reference))
    return replace(_short_section(rows, reference), notes=notes)


def _table_json(
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


def _write_pictures(
    runs: Sequence[PlannedRun | PeerRun],
    scores: Scores,
    manifest: Manifest,
    folder: Path,
    reference: str,
    cases: Sequence[str],
) -> list[Picture]:
    """Draw box plots and the qualitative figure; they come with their captions."""
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
    ranking = mean_of_seeds(scores.systems[place or 0].tables["dice"])
    spread = spread_cases(ranking, PICTURED_BY_DEFAULT)
    chosen = cases or [scores.cases[place] for place in spread]
    first = _first_runs(runs, scores)
    drawn["fig3"] = qualitative_figure(
        predict_chosen(first, scores, manifest, chosen),
        names,
        manifest.settings.window_hu,
    )
    for name, figure in drawn.items():
        save_figure(figure, folder / f"{name}.png")
    seed = " and ".join(map(str, sorted({run.seed for run in first})))
    grid = GRIDS[scores.grid]
    boxes = (
        f"Mean over seeds of each case, on {grid}. Box: quartiles; whiskers: "
        "1.5 times its length; the long line is the reference's median."
    )
    return [
        (folder / "dice.png", "Dice of every system, case by case", f"Dice. {boxes}"),
        (
            folder / "hd95.png",
            "HD95 of every system, case by case",
            f"HD95. {boxes} Where one of label and prediction is empty it is the "
            "image's diagonal.",
        ),
        (
            folder / "fig3.png",
            "CT slices with the label and every system's prediction outlined",
            f"The slice with most of the label, as scanned; runs with seed {seed}. "
            f"Dice is that of the whole scan on {grid}.",
        ),
    ]


def _first_runs(
    runs: Sequence[PlannedRun | PeerRun], scores: Scores
) -> list[PlannedRun | PeerRun]:
    """A run of each system, all of one seed if they have one in common."""
    shared = set.intersection(*(set(each.seeds) for each in scores.systems))
    shown = [run for run in runs if not shared or run.seed == min(shared)]
    return [
        next(run for run in shown if run.system == each.system)
        for each in scores.systems
    ]


def box_figure(
    values: Sequence[Float[np.ndarray, " cases"]],
    names: Sequence[str],
    label: str,
    reference: int | None = None,
    limits: tuple[float, float] | None = None,
) -> Figure:
    """A box (quartiles, median; whiskers to 1.5 of its length) and points of cases.

    Args:
        values: a number a case for every system, NaN where it is not defined.
        names: the systems, first on top.
        label: what the numbers are.
        reference: its median is a line over all rows; None: no such line.
        limits: ends of the axis; None: by the data.
    """
    known = [row[~np.isnan(row)] for row in values]
    height = 1.0 + ROW_INCHES * len(names)
    figure = Figure(figsize=(7.2, height), dpi=160, layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(names))
    if reference is not None and known[reference].size:
        axes.axvline(
            np.median(known[reference]), color=MEDIAN, linewidth=1.0, alpha=0.55
        )
    axes.boxplot(
        known,
        positions=places,
        orientation="horizontal",
        widths=0.5,
        showfliers=False,
        patch_artist=True,
        boxprops={"facecolor": BAR, "alpha": 0.28, "edgecolor": BAR},
        medianprops={"color": MEDIAN, "linewidth": 1.8},
        whiskerprops={"color": BAR},
        capprops={"color": BAR},
    )
    for place, row in zip(places, known, strict=True):
        # shifts keep points apart, the same for each case in every row
        shifts = SPREAD * (2 * (GOLDEN_RATIO * np.arange(row.size) % 1) - 1)
        axes.scatter(
            row, place + shifts, s=9, color=POINT_COLOUR, alpha=0.75, linewidth=0
        )
        if row.size:
            axes.plot(row.mean(), place, "D", color=MEAN_COLOUR, markersize=4.2)
    axes.set_yticks(places, names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(f"{label}: points are cases, the line is the median, ◆ the mean")
    axes.set_xlim(*(limits or (0, None)))
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    return figure


def heading(scores: Scores, manifest: Manifest, split: str) -> dict[str, str]:
    """Facts by name, in the order in which they are shown."""
    settings = manifest.settings
    summary = scores.systems[0].summaries[0]
    layout = f" ({manifest.layout})" if manifest.layout else ""
    shape, spacing = (
        " × ".join(f"{each:g}" for each in values)
        for values in (settings.shape, settings.spacing_mm)
    )
    low, high = settings.window_hu
    seeds = dict.fromkeys(seed for each in scores.systems for seed in each.seeds)
    changed = shared_settings([each.system for each in scores.systems])
    lost = label_lost(summary["grids"][scores.grid]["empty"])
    return {
        "Data": f"{spelled_out(manifest.folder)}{layout}, split {split}, "
        f"{counted(len(scores.cases), 'case')}",
        "Seeds": ", ".join(str(seed) for seed in sorted(seeds)),
        "Scored on": GRIDS[scores.grid],
        "Prepared grid": f"{shape} voxels of {spacing} mm (z, y, x), "
        f"window {low:g} to {high:g} HU",
        "Label rule": summary["label_rule"],
        "Empty masks": " ".join([summary["empty"]["rule"], *decided_by_rule(scores)]),
        **({"Left out": f"{lost}: no score there"} if lost else {}),
        "HD95": summary["hd95_convention"].partition(";")[0],
        "Steps": all_steps(scores),
        **({"Settings": changed} if changed else {}),
        "Versions": ", ".join(
            f"{package} {number}" for package, number in summary["versions"].items()
        ),
    }


def decided_by_rule(scores: Scores) -> tuple[str, ...]:
    """A sentence on how many scores the rule for empty masks gives, if it gives any."""
    counts = {}
    for each in scores.systems:
        found = [summary["grids"][scores.grid]["empty"] for summary in each.summaries]
        counts[each.system.name] = sum(
            empty[kind] for empty in found for kind in ("label", "prediction", "both")
        )
    if not any(counts.values()):
        return ()
    listed = ", ".join(
        f"{name} {counts[name]} of {len(each.seeds) * len(scores.cases)}"
        for name, each in zip(counts, scores.systems, strict=True)
    )
    return (f"The rule for empty masks, not a measurement, gives these: {listed}.",)


def all_steps(scores: Scores) -> str:
    """Steps of the stages; systems with the same steps are named together."""
    groups: dict[str, list[str]] = {}
    for each in scores.systems:
        if each.system.steps:
            groups.setdefault(each.system.steps, []).append(each.system.name)
    if len(groups) == 1:
        return next(iter(groups))
    return "; ".join(f"{', '.join(names)}: {steps}" for steps, names in groups.items())


def shared_settings(systems: Sequence[Method | PeerMethod]) -> str:
    """The size, unless it is full, and fields that recipes have otherwise than their
    config files say, as far as all have the same value; empty if there are none."""
    own = [each for each in systems if isinstance(each, Method)]
    values = [dict(leaves(each.recipe)) for each in own]
    changed = {
        name: value
        for each in own
        for name, value in changed_fields(each.base, each.recipe).items()
        if all(other.get(name) == value for other in values)
    }
    sizes = dict.fromkeys(each.size for each in own if each.size != "full")
    said = [f"size {size}" for size in sizes]
    return ", ".join([*said, *(pair(name, value) for name, value in changed.items())])


def _scores_section(rows: Sequence[Row]) -> Section:
    """Dice and HD95 of every system beside the published numbers."""
    columns = ["method", "aligned"]
    for name in COMPARED:
        columns += [NAMES[name], "95 % interval", "sd of seeds"]
    lines = []
    for row in rows:
        cells = [method_name(row.name), ALIGNED[row.aligned]]
        for name in COMPARED:
            found, digits = row.scores[name], DIGITS[name]
            cells += [*found.cells(digits), format_number(found.seeds_std, digits)]
        paper = TABLE_1.get(row.name)
        cells.append(f"{paper.dice:.4f}" if paper else NONE)
        cells.append(f"{paper.hd95_mm:.2f}" if paper else NONE)
        lines.append(tuple(cells))
    return Section(
        "Scores",
        columns=(*columns, "paper Dice", "paper HD95"),
        rows=tuple(lines),
        notes=(
            "Means over cases and seeds; intervals by drawing cases and seeds anew, "
            f"none of fewer than {FEWEST_CASES} cases; sd of seeds: standard deviation "
            "of the seeds' means.",
            PAPER,
        ),
        texts=2,
    )


def _difference_section(rows: Sequence[Row], reference: str) -> Section:
    """Every system minus the reference."""
    columns = ["method"]
    for name in COMPARED:
        columns += [NAMES[name], "95 % interval", "p (Holm)"]
    tests = sum(each.p is not None for row in rows for each in row.differences.values())
    return Section(
        f"Difference to {method_name(reference)}",
        columns=tuple(columns),
        rows=tuple(
            (method_name(row.name), *row.difference_cells())
            for row in rows
            if row.differences
        ),
        notes=(
            f"Method minus {method_name(reference)}, case by case; Wilcoxon's "
            "signed-rank test of the cases' means over seeds, p corrected for "
            f"{tests} tests.",
            *differing_seeds(rows, reference),
        ),
    )


def differing_seeds(rows: Sequence[Row], reference: str) -> tuple[str, ...]:
    """A sentence on differences that not all seeds of both sides are in, if any."""
    theirs = {seed for row in rows if row.name == reference for seed in row.seeds}
    listed = [
        f"{method_name(row.name)} {', '.join(map(str, row.difference_seeds)) or 'none'}"
        for row in rows
        if row.differences and {*row.difference_seeds} != theirs | {*row.seeds}
    ]
    if not listed:
        return ()
    return (f"Differences are over shared seeds alone: {'; '.join(listed)}.",)


def _sizes_section(rows: Sequence[Row]) -> Section:
    """Dice by the volume of the labelled infarct."""
    low, high = SIZES_ML
    limits = {
        "small": f"< {low:g}",
        "medium": f"{low:g} to {high:g}",
        "large": f"> {high:g}",
    }
    columns = (
        f"{name}, {limits[name]} mL (n = {found.cases})"
        for name, found in rows[0].sizes.items()
    )
    lines = []
    for row in rows:
        cells = [found.cells(DIGITS["dice"]) for found in row.sizes.values()]
        texts = (mean if ci == NONE else f"{mean} ({ci})" for mean, ci in cells)
        lines.append((method_name(row.name), *texts))
    return Section(
        "Dice by infarct volume",
        columns=("method", *columns),
        rows=tuple(lines),
        notes=(
            "Volume of the label; cases with an empty label are in no column. Mean and "
            "95 % interval.",
        ),
    )


def _short_section(rows: Sequence[Row], reference: str) -> Section:
    """What fits a terminal: scores with intervals, and p against the reference."""
    columns = ["method"]
    for name in COMPARED:
        columns += [NAMES[name], "95 % interval", "p"]
    lines = []
    for row in rows:
        cells = [method_name(row.name)]
        for name in COMPARED:
            *_, p = difference_cells(row.differences.get(name), DIGITS[name])
            cells += [*row.scores[name].cells(DIGITS[name]), p]
        lines.append(tuple(cells))
    return Section(
        f"Dice and HD95; p (Holm) against {method_name(reference)}",
        columns=tuple(columns),
        rows=tuple(lines),
    )
