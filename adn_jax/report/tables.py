"""Tables as Markdown, CSV and TeX, and sections of a report."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

NONE = "–"
"""Stands where a system has no such figure."""

PREFIXES = (("T", 1e12), ("G", 1e9), ("M", 1e6))

TEX_SIGNS = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "<": "$<$",
    ">": "$>$",
    "−": "$-$",
    "–": "--",
    "×": r"$\times$",
    "°": r"$^\circ$",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


@dataclass(frozen=True)
class Section:
    """A title, a table (or none) and sentences below it; texts stand on the left."""

    title: str
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()
    texts: int = 1
    """Columns of text, before those of numbers."""


def digits(value: float) -> str:
    """Three digits; whole numbers from a hundred on."""
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}".rstrip(".")


def rate(value: float) -> str:
    """A large number with three digits, a space and its prefix (T, G or M)."""
    prefix, factor = next((p for p in PREFIXES if value >= p[1]), PREFIXES[-1])
    return f"{digits(value / factor)} {prefix}"


def seconds(value: float | None) -> str:
    """A time with its unit."""
    if value is None:
        return NONE
    return f"{digits(value)} s" if value >= 1 else f"{digits(1000 * value)} ms"


def bytes_text(value: int) -> str:
    """Bytes with their unit."""
    return f"{value / 1e9:.2f} GB" if value >= 1e9 else f"{value / 1e6:.1f} MB"


def print_sections(found: Sequence[Section], console: Console) -> None:
    """Write sections to the terminal."""
    for section in found:
        console.print(f"\n{section.title}", style="bold", highlight=False, markup=False)
        if section.rows:
            table = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
            for number, column in enumerate(section.columns):
                side = "left" if number < section.texts else "right"
                table.add_column(column, justify=side)
            for row in section.rows:
                table.add_row(*row)
            console.print(table, markup=False)
        for note in section.notes:
            console.print(note, highlight=False, markup=False)


def to_markdown(found: Sequence[Section]) -> str:
    """Write sections as Markdown."""
    parts = []
    for section in found:
        parts.append(f"**{section.title}**")
        if section.rows:
            numbers = len(section.columns) - section.texts
            rule = [*["---"] * section.texts, *["---:"] * numbers]
            lines = (section.columns, rule, *section.rows)
            rows = (" | ".join(map(cell, line)) for line in lines)
            parts.append("\n".join(f"| {row} |" for row in rows))
        parts.extend(section.notes)
    return "\n\n".join(parts) + "\n"


def markdown(
    title: str,
    facts: Mapping[str, str],
    sections: Sequence[Section],
    missing: Sequence[str] = (),
) -> str:
    """A heading, facts as a list, tables, and what is missing."""
    listed = "\n".join(f"- {name}: {text}" for name, text in facts.items())
    absent = "".join(f"- {text}\n" for text in missing)
    parts = [f"# {title}\n\n{listed}\n", to_markdown(sections)]
    if absent:
        parts.insert(1, f"**Missing**\n\n{absent}")
    return "\n".join(parts)


def tex(
    facts: Mapping[str, str], sections: Sequence[Section], missing: Sequence[str] = ()
) -> str:
    """The tables for a paper (package booktabs), facts as comments before them."""
    comments = [f"% {name}: {text}" for name, text in facts.items()]
    comments += [f"% missing: {text}" for text in missing]
    tables = [_tex_table(section) for section in sections]
    return "\n".join([*comments, "% needs \\usepackage{booktabs}", *tables]) + "\n"


def _tex_table(section: Section) -> str:
    """One table with its title as caption."""
    numbers = len(section.columns) - section.texts
    head, *rows = (
        " & ".join(tex_text(cell) for cell in row) + r" \\"
        for row in (section.columns, *section.rows)
    )
    notes = " ".join(tex_text(note) for note in section.notes)
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{tex_text(section.title)}. {notes}}}",
            rf"\begin{{tabular}}{{{'l' * section.texts}{'r' * numbers}}}",
            r"\toprule",
            head,
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def tex_text(text: str) -> str:
    """Text with the signs that TeX takes for commands spelled out."""
    return "".join(TEX_SIGNS.get(sign, sign) for sign in text)


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Lines with a head; None is left empty."""
    buffer = StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def bullets(sentences: Iterable[str]) -> str:
    """A list."""
    return "\n".join(f"- {sentence}" for sentence in sentences)


def table(heading: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; what would break its cells is escaped. Empty where there are no rows."""
    lines = [heading, ["---"] * len(heading), *rows]
    if len(lines) == 2:
        return ""
    return "\n".join(
        "| " + " | ".join(cell(value) for value in line) + " |" for line in lines
    )


def cell(value: object) -> str:
    """A value as the text of one cell."""
    return " ".join(str(value).split()).replace("|", "\\|")
