"""Schedules of loss weights, from text."""

import math
from dataclasses import dataclass

from adn_jax.config.serialization import RENAMED
from adn_jax.errors import UserError


@dataclass(frozen=True)
class Schedule:
    """How the weight of a term changes: linearly, from step to step."""

    term: str
    from_step: int
    to_step: int
    from_factor: float
    to_factor: float


def parse_schedule(text: str) -> Schedule:
    """The schedule `term:FROM:TO` (factors 0 and 1) or `term:FROM:TO:A:B`.

    A term of one's own has a colon in its name, `module:function`. Raises `UserError`
    for any other text.

    >>> parse_schedule("tissue:0:200")
    Schedule(term='tissue', from_step=0, to_step=200, from_factor=0.0, to_factor=1.0)
    """
    parts = text.split(":")
    count = len(parts)
    while count and _is_number(parts[count - 1]):
        count -= 1
    term, numbers = ":".join(parts[:count]), parts[count:]
    steps, factors = numbers[:2], numbers[2:] or ["0", "1"]
    known = term and len(steps) == len(factors) == 2 and all(map(str.isdigit, steps))
    if not known or int(steps[0]) >= int(steps[1]) or min(map(float, factors)) < 0:
        raise UserError(
            f"the schedule {text!r} has another form than term:FROM:TO or "
            "term:FROM:TO:A:B with whole steps FROM < TO and factors A and B of at "
            "least 0; write for example tissue:0:200 or regularisation:100:300:1:0."
        )
    term = RENAMED.get(term, term)
    return Schedule(term, *map(int, steps), *map(float, factors))


def _is_number(text: str) -> bool:
    """Whether a text is a finite number."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
