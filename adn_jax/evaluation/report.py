"""One self-contained page about an evaluation: no file beside it, no network."""

import math
from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from adn_jax.config import Recipe
from adn_jax.evaluation.scores import CaseResult


def render_report(
    summary: Mapping[str, Any],
    results: Sequence[CaseResult],
    figures: Mapping[str, Path],
    recipe: Recipe,
) -> str:
    """The page as HTML, pictures embedded; flagged cases come first in its table."""
    environment = Environment(
        loader=PackageLoader("adn_jax.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = format_number
    environment.filters["interval"] = format_interval
    return environment.get_template("report.html").render(
        summary=summary,
        rows=sorted(results, key=lambda result: (not result.flags, result.name)),
        figures={name: data_uri(path) for name, path in figures.items()},
        recipe=recipe,
    )


def format_number(value: float | None, digits: int = 2, sign: bool = False) -> str:
    """A number with fixed digits; a dash where it is not defined."""
    if value is None or math.isnan(value):
        return "–"
    return f"{value:{'+' if sign else ''}.{digits}f}".replace("-", "−")


def format_interval(summary: Mapping[str, Any], digits: int = 2) -> str:
    """The 95 % interval of a mean; empty where there is none."""
    if summary["ci95"] is None:
        return ""
    low, high = (format_number(value, digits) for value in summary["ci95"])
    return f"95 % interval {low} to {high}"


def data_uri(path: Path) -> str:
    """A PNG file as an address that holds its bytes."""
    return "data:image/png;base64," + b64encode(path.read_bytes()).decode()
