"""The comparison in tables: for Markdown, TeX and HTML; a short one for terminals."""

from collections.abc import Sequence

from adn_jax.comparison.compare import COMPARED, SIZES_ML, Estimate, Row
from adn_jax.comparison.published import TABLE_1, method_name
from adn_jax.comparison.words import (
    DIGITS,
    NAMES,
    NONE,
    difference_cells,
    estimate_cells,
)
from adn_jax.report.pages import format_number
from adn_jax.report.tables import Section

PAPER = (
    "Paper: published means on AISD (Ni et al., MICCAI 2022, Table 1; 345 training and "
    "52 test scans, on a resampled grid); other data cannot be held against them."
)


def table_sections(rows: Sequence[Row], reference: str) -> list[Section]:
    """Scores beside the paper's, differences to the reference, and infarct sizes."""
    sections = [scores_section(rows)]
    if any(row.differences for row in rows):
        sections.append(difference_section(rows, reference))
    return [*sections, sizes_section(rows)]


def scores_section(rows: Sequence[Row]) -> Section:
    """Dice and HD95 of every system beside the published numbers."""
    columns = ["method", "aligned"]
    for name in COMPARED:
        columns += [NAMES[name], "95 % interval", "sd of seeds"]
    return Section(
        "Scores",
        columns=(*columns, "paper Dice", "paper HD95"),
        rows=tuple(scores_row(row) for row in rows),
        notes=(
            "Means over cases and seeds; intervals by drawing cases and seeds anew; sd "
            "of seeds: standard deviation of the seeds' means.",
            PAPER,
        ),
        texts=2,
    )


def scores_row(row: Row) -> tuple[str, ...]:
    """One line of the scores."""
    cells = [method_name(row.name), "yes" if row.aligned else "no"]
    for name in COMPARED:
        found, digits = row.scores[name], DIGITS[name]
        cells += [
            *estimate_cells(found, digits),
            format_number(found.seeds_std, digits),
        ]
    paper = TABLE_1.get(row.name)
    published = (NONE, NONE) if paper is None else (paper.dice, paper.hd95_mm)
    if paper is not None:
        published = (f"{paper.dice:.4f}", f"{paper.hd95_mm:.2f}")
    return (*cells, *published)


def difference_section(rows: Sequence[Row], reference: str) -> Section:
    """Every system minus the reference."""
    columns = ["method"]
    for name in COMPARED:
        columns += [NAMES[name], "95 % interval", "p (Holm)"]
    tests = sum(each.p is not None for row in rows for each in row.differences.values())
    others = [row for row in rows if row.differences]
    return Section(
        f"Difference to {method_name(reference)}",
        columns=tuple(columns),
        rows=tuple(difference_row(row) for row in others),
        notes=(
            f"Method minus {method_name(reference)}, case by case; Wilcoxon's "
            "signed-rank test of the cases' means over seeds, p corrected for "
            f"{tests} tests.",
        ),
    )


def difference_row(row: Row) -> tuple[str, ...]:
    """One line of the differences."""
    cells = [method_name(row.name)]
    for name in COMPARED:
        cells += difference_cells(row.differences.get(name), DIGITS[name])
    return tuple(cells)


def sizes_section(rows: Sequence[Row]) -> Section:
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
    return Section(
        "Dice by infarct volume",
        columns=("method", *columns),
        rows=tuple(
            (method_name(row.name), *(size_cell(found) for found in row.sizes.values()))
            for row in rows
        ),
        notes=(
            "Volume of the label; cases with an empty label are in no column. Mean and "
            "95 % interval.",
        ),
    )


def size_cell(found: Estimate) -> str:
    """Mean and interval of one size."""
    mean, between = estimate_cells(found, DIGITS["dice"])
    return mean if between == NONE else f"{mean} ({between})"


def short_section(rows: Sequence[Row], reference: str) -> Section:
    """What fits a terminal: scores with intervals, and p against the reference."""
    columns = ["method"]
    for name in COMPARED:
        columns += [NAMES[name], "95 % interval", "p"]
    return Section(
        f"Dice and HD95; p (Holm) against {method_name(reference)}",
        columns=tuple(columns),
        rows=tuple(short_row(row) for row in rows),
    )


def short_row(row: Row) -> tuple[str, ...]:
    """One line for the terminal."""
    cells = [method_name(row.name)]
    for name in COMPARED:
        *_, p = difference_cells(row.differences.get(name), DIGITS[name])
        cells += [*estimate_cells(row.scores[name], DIGITS[name]), p]
    return tuple(cells)
