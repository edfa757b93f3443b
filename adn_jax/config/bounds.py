"""What the value of a field may be beside its type: `batch: PositiveInt = 6`."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, get_type_hints


@dataclass(frozen=True)
class Bound:
    """A rule for the value of a field."""

    words: str
    """What it has to be."""
    holds: Callable[[Any], bool]


@cache
def bounds_of(kind: type) -> tuple[tuple[str, Bound], ...]:
    """The fields of a dataclass with their bounds, of which one may have several."""
    hints = get_type_hints(kind, include_extras=True)
    return tuple(
        (name, each)
        for name, hint in hints.items()
        for each in getattr(hint, "__metadata__", ())
        if isinstance(each, Bound)
    )


def within(low: float | int, high: float | int) -> Bound:
    """For numbers with `low` <= number < `high`."""
    return Bound(
        f"at least {low:g} and below {high:g}",
        lambda value: all(low <= number < high for number in as_tuple(value)),
    )


def all_positive(words: str) -> Bound:
    """For at least one number, all above 0."""
    return Bound(words, lambda values: len(values) > 0 and min(values) > 0)


def as_tuple(value: Any) -> tuple:
    """One value as a tuple of one; a tuple as it is."""
    return value if isinstance(value, tuple) else (value,)


POSITIVE = Bound("above 0", lambda value: value > 0)
NOT_NEGATIVE = Bound("at least 0", lambda value: min(as_tuple(value)) >= 0)
HALF_TURN = within(0, 180.0001)
ODD = Bound("odd and above 0", lambda value: value > 0 and value % 2 == 1)

PositiveInt = Annotated[int, POSITIVE]
PositiveFloat = Annotated[float, POSITIVE]
NonNegativeInt = Annotated[int, NOT_NEGATIVE]
NonNegativeFloat = Annotated[float, NOT_NEGATIVE]
OddInt = Annotated[int, ODD]
BelowOne = Annotated[float, within(0, 1)]
"""From 0 on."""
Fraction = Annotated[
    float, Bound("between 0 and 1", lambda fraction: 0 <= fraction <= 1)
]
Chance = Fraction
Fractions = Annotated[
    tuple[float, ...],
    Bound("shares from 0 to 1", lambda shares: all(0 <= each <= 1 for each in shares)),
]
Threshold = Annotated[float, Bound("between 0 and 1", lambda value: 0 < value < 1)]
Prior = Annotated[
    float | None,
    Bound("between 0 and 1, or None", lambda prior: prior is None or 0 < prior < 1),
]
Seed = Annotated[int, within(0, 2**31)]
Range = Annotated[
    tuple[float, float],
    Bound("a lowest and a highest value", lambda pair: pair[0] <= pair[1]),
]
Degrees = Annotated[float, HALF_TURN]
"""At most half a turn."""
DegreesXYZ = Annotated[tuple[float, float, float], HALF_TURN]
NonNegativeXYZ = Annotated[tuple[float, float, float], NOT_NEGATIVE]
Decays = Annotated[tuple[float, float], within(0, 1)]
Chances = Annotated[tuple[float, ...], within(0, 1)]
ClipNorm = Annotated[
    float | None, Bound("above 0, or None", lambda norm: norm is None or norm > 0)
]
GridShape = Annotated[tuple[int, int, int], all_positive("three sizes above 0")]
Box = Annotated[
    tuple[int, int, int] | None,
    Bound("three sizes above 0, or None", lambda box: not box or min(box) > 0),
]
GridSpacing = Annotated[
    tuple[float, float, float], all_positive("three sizes in mm above 0")
]
Window = Annotated[
    tuple[float, float],
    Bound("a lower and a higher HU", lambda window: window[0] < window[1]),
]
Labels = Annotated[tuple[int, ...], all_positive("label values above 0")]
Widths = Annotated[
    tuple[int, ...],
    all_positive("feature maps of at least one level or layer, all above 0"),
]
Windows = Annotated[tuple[int, int], all_positive("numbers of windows above 0")]
KernelSides = Annotated[
    tuple[int, ...], Bound("1 or 3", lambda sides: set(sides) <= {1, 3})
]
PathwaySteps = Annotated[
    tuple[int, ...],
    Bound(  # then pathways share their middle
        "odd numbers, the first 1, none of them twice",
        lambda steps: (
            steps[:1] == (1,)
            and all(map(ODD.holds, steps))
            and len(set(steps)) == len(steps)
        ),
    ),
]
