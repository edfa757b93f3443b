"""A comparison as Markdown, CSV and TeX."""

from collections.abc import Sequence
from typing import Any

from adn_jax.comparison.compare import COMPARED, Difference, Estimate, Row
from adn_jax.comparison.published import TABLE_1, method_name
from adn_jax.report.tables import to_csv


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
