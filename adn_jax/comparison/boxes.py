"""How a score is spread over the cases, system beside system."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from adn_jax.inference.figures import BAR, MEDIAN

POINTS = "#6b7785"
LINE = "#1b2430"
ROW_INCHES = 0.42
SPREAD = 0.18
"""Points are moved at most so far from the middle of their row, in rows."""
GOLDEN_RATIO = 0.618034
"""Its multiples, less their whole parts, spread evenly, however many there are."""


def box_figure(
    values: Sequence[Float[np.ndarray, " cases"]],
    names: Sequence[str],
    label: str,
    reference: int | None = None,
    limits: tuple[float, float] | None = None,
) -> Figure:
    """A box (quartiles, median; whiskers to 1.5 of its length) and points of cases.

    Args:
      values: a number a case for every system, NaN where it is not defined.
      names: the systems, first on top.
      label: what the numbers are.
      reference: its median is a line over all rows; None: no such line.
      limits: ends of the axis; None: by the data.
    """
    known = [row[~np.isnan(row)] for row in values]
    height = 1.0 + ROW_INCHES * len(names)
    figure = Figure(figsize=(7.2, height), dpi=160, layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(names))
    if reference is not None and known[reference].size:
        axes.axvline(
            np.median(known[reference]), color=MEDIAN, linewidth=1.0, alpha=0.55
        )
    axes.boxplot(
        known,
        positions=places,
        orientation="horizontal",
        widths=0.5,
        showfliers=False,
        patch_artist=True,
        boxprops={"facecolor": BAR, "alpha": 0.28, "edgecolor": BAR},
        medianprops={"color": MEDIAN, "linewidth": 1.8},
        whiskerprops={"color": BAR},
        capprops={"color": BAR},
    )
    for place, row in zip(places, known, strict=True):
        axes.scatter(
            row, place + jitter(row.size), s=9, color=POINTS, alpha=0.75, linewidth=0
        )
        if row.size:
            axes.plot(row.mean(), place, "D", color=LINE, markersize=4.2)
    axes.set_yticks(places, names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(f"{label}: points are cases, the line is the median, ◆ the mean")
    axes.set_xlim(limits or (0, None))
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    return figure


def jitter(count: int) -> Float[np.ndarray, " n"]:
    """Shifts that keep points apart; the same for each case in every row."""
    return SPREAD * (2 * (GOLDEN_RATIO * np.arange(count) % 1) - 1)
