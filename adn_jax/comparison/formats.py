"""A comparison as Markdown, CSV and TeX."""

import csv
from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any

from adn_jax.benchmarks.sections import Section, to_markdown
from adn_jax.comparison.compare import COMPARED, Difference, Estimate, Row
from adn_jax.comparison.published import TABLE_1, method_name

TEX_SIGNS = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "<": "$<$",
    ">": "$>$",
    "−": "$-$",
    "–": "--",
    "×": r"$\times$",
    "°": r"$^\circ$",
}


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
    tables = [tex_table(section) for section in sections]
    return "\n".join([*comments, "% needs \\usepackage{booktabs}", *tables]) + "\n"


def tex_table(section: Section) -> str:
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
    low, high = (found and found.ci95) or (None, None)
    return {
        f"{name}_difference": found and found.mean,
        f"{name}_difference_low": low,
        f"{name}_difference_high": high,
        f"{name}_p": found and found.p,
        f"{name}_p_holm": found and found.p_holm,
    }


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Lines with a head; None is left empty."""
    buffer = StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()
