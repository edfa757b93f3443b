"""One self-contained page about an evaluation: no file beside it, no network."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any

from adn_jax.config import Recipe
from adn_jax.evaluation.scores import CaseResult
from adn_jax.io.paths import Place
from adn_jax.report.pages import format_number, page_environment


def render_report(
    summary: Mapping[str, Any],
    results: Sequence[CaseResult],
    figures: Mapping[str, Place],
    recipe: Recipe,
) -> str:
    """The page as HTML, pictures embedded; flagged cases come first in its table."""
    environment = page_environment("adn_jax.evaluation")
    environment.filters["interval"] = format_interval
    return environment.get_template("report.html").render(
        summary=summary,
        rows=sorted(results, key=lambda result: (not result.flags, result.name)),
        figures={name: data_uri(path) for name, path in figures.items()},
        recipe=recipe,
    )


def format_interval(summary: Mapping[str, Any], digits: int = 2) -> str:
    """The 95 % interval of a mean; empty where there is none."""
    if summary["ci95"] is None:
        return ""
    low, high = (format_number(value, digits) for value in summary["ci95"])
    return f"95 % interval {low} to {high}"


def data_uri(path: Place) -> str:
    """A PNG file as an address that holds its bytes."""
    return "data:image/png;base64," + b64encode(path.read_bytes()).decode()
