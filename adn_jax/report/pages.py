"""Pages for the browser, each one file: what their templates share."""

import math

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined


def page_environment(package: str) -> Environment:
    """Templates of a package, and those that all pages share.

    A page extends `page.html` (with `page.css`) and may include `table.js`.
    The filter `number` is `format_number`.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("adn_jax.report")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = format_number
    return environment


def format_number(value: float | None, digits: int = 2, sign: bool = False) -> str:
    """A number with fixed digits; a dash where it is not defined."""
    if value is None or math.isnan(value):
        return "–"
    return f"{value:{'+' if sign else ''}z.{digits}f}".replace("-", "−")
