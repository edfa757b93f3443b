"""Pages for the browser, each one file: what their templates share."""

import math

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from adn_jax.errors import counted


def page_environment(package: str) -> Environment:
    """Templates of a package, and those that all pages share.

    A page extends `page.html` (with `page.css`) and may include `table.js`.
    The filters `number` and `ml` are `format_number` and `format_ml`, `counted` is that
    of `adn_jax.errors`.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("adn_jax.report")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": format_number,
        "ml": format_ml,
        "counted": counted,
    }
    return environment


def format_number(value: float | None, digits: int = 2, sign: bool = False) -> str:
    """A number with fixed digits; a dash where it is not defined."""
    if value is None or math.isnan(value):
        return "–"
    return f"{value:{'+' if sign else ''}z.{digits}f}".replace("-", "−")


def format_ml(value: float | None) -> str:
    """A volume in mL, in tenths; in hundredths where tenths would hardly tell it."""
    return format_number(value, 2 if value is not None and 0 < value < 0.1 else 1)
