"""Estimates, differences and steps as a reader wants them."""

from adn_jax.comparison.compare import Difference, Estimate
from adn_jax.comparison.plan import System
from adn_jax.report.pages import format_number
from adn_jax.training.runs import stages_of

DIGITS = {"dice": 3, "hd95_mm": 1}
NAMES = {"dice": "Dice", "hd95_mm": "HD95 mm"}
NONE = "–"


def interval(ci95: tuple[float, float] | None, digits: int, sign: bool = False) -> str:
    """An interval in words; a dash where there is none."""
    if ci95 is None:
        return NONE
    return " to ".join(format_number(value, digits, sign) for value in ci95)


def estimate_cells(estimate: Estimate, digits: int) -> tuple[str, str]:
    """Mean and interval."""
    return format_number(estimate.mean, digits), interval(estimate.ci95, digits)


def difference_cells(found: Difference | None, digits: int) -> tuple[str, str, str]:
    """Difference, interval and corrected p; dashes for the reference itself."""
    if found is None:
        return NONE, NONE, NONE
    return (
        format_number(found.mean, digits, sign=True),
        interval(found.ci95, digits, sign=True),
        p_text(found.p_holm),
    )


def p_text(p: float | None) -> str:
    """A p value with as many digits as mean something."""
    if p is None:
        return NONE
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def steps_text(system: System) -> str:
    """Steps of every stage of a system."""
    recipe = system.recipe
    return ", ".join(
        f"{stage} {getattr(recipe, stage).steps}" for stage in stages_of(recipe)
    )
