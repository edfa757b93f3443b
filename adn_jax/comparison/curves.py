"""Scores of a sweep against the value of its first field."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from adn_jax.comparison.compare import Estimate

COLOURS = ("#3b6ea5", "#c2410c", "#2e7d5b", "#7c4d9e", "#8a6d1a", "#4b5563")
MARKERS = "osD^vP"
DECADES = 100.0
"""Largest over smallest value from which the axis is logarithmic."""
SIDESTEP = 0.06
"""Curves lie beside each other by so many units of the axis, or their bars would hide
one another."""


@dataclass(frozen=True)
class Curve:
    """A score for every value of the first field; None where a run is missing."""

    label: str
    """The values of the other fields; empty where there are none."""
    estimates: tuple[Estimate | None, ...]


def sweep_figure(
    field: str, values: Sequence[str], panels: Sequence[tuple[str, Sequence[Curve]]]
) -> Figure:
    """A panel a score with means and 95 % intervals, a curve for each other setting."""
    figure = Figure(figsize=(4.4 * len(panels), 3.5), dpi=160, layout="constrained")
    places, shown = axis_places(values)
    for axes, (name, curves) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
    ):
        for number, curve in enumerate(curves):
            shift = SIDESTEP * (number - (len(curves) - 1) / 2)
            draw_curve(axes, places + shift, curve, number)
        axes.set_xticks(places, shown)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set(xlabel=field, ylabel=f"{name}, mean and 95 % interval")
        axes.margins(x=0.08, y=0.12)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.set_axisbelow(True)
    if any(curve.label for curve in panels[0][1]):
        lines = figure.axes[0].get_lines()
        figure.legend(handles=lines, loc="outside upper center", ncols=3, frameon=False)
    return figure


def draw_curve(axes: Axes, places: np.ndarray, curve: Curve, number: int) -> None:
    """Means joined by a line, intervals as bars."""
    known = [
        (place, each)
        for place, each in zip(places, curve.estimates, strict=True)
        if each is not None and each.mean is not None
    ]
    colour = COLOURS[number % len(COLOURS)]
    for place, each in known:
        if each.ci95 is not None:
            axes.vlines(place, *each.ci95, color=colour, alpha=0.55, linewidth=1.4)
    axes.plot(
        [place for place, _ in known],
        [each.mean for _, each in known],
        color=colour,
        marker=MARKERS[number % len(MARKERS)],
        markersize=5,
        linewidth=1.6,
        label=curve.label or None,
    )


def axis_places(values: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Where values stand on the axis, in their order on it, and what is written there.

    Numbers over two decades or more stand by their logarithm, 0 a decade below the
    smallest; other numbers from 0 to 3 by their size; anything else one after another.
    """
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        return np.arange(len(values), dtype=float), list(values)
    positive = [number for number in numbers if number > 0]
    wide = positive and max(positive) >= DECADES * min(positive)
    if wide and min(numbers) >= 0:
        below = math.log10(min(positive)) - 1
        places = [math.log10(each) if each > 0 else below for each in numbers]
        return np.array(places), list(values)
    low, high = min(numbers), max(numbers)
    width = (high - low) or 1.0
    return np.array([3 * (each - low) / width for each in numbers]), list(values)
