"""Figures of scores: their spread over the cases, and the calibration."""

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from adn_jax.inference.figures import BAR, MEDIAN
from adn_jax.metrics.calibration import (
    Reliability,
    bin_means,
    expected_calibration_error,
)


def reliability_figure(sums: Reliability) -> Figure:
    """Share of infarct among the voxels of each probability, their number beneath."""
    figure = Figure(
        figsize=(4.6, 5.2), facecolor="white", dpi=160, layout="constrained"
    )
    diagram, histogram = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    edges = np.linspace(0.0, 1.0, sums.count.size + 1)
    mean, share = (bin_means(total, sums) for total in (sums.probability, sums.label))
    diagram.plot([0, 1], [0, 1], color="0.55", linewidth=1.0, linestyle=(0, (4, 3)))
    diagram.vlines(mean, mean, share, color=MEDIAN, alpha=0.5, linewidth=2.0)
    diagram.plot(mean, share, color=BAR, marker="o", markersize=5, linewidth=1.4)
    diagram.set(ylabel="share of infarct", ylim=(-0.03, 1.03), xlim=(-0.03, 1.03))
    error = expected_calibration_error(sums)
    diagram.text(0.02, 0.93, f"expected calibration error {error:.4f}", fontsize=8)
    diagram.text(
        0.02,
        0.86,
        "below the diagonal: probabilities too high",
        fontsize=8,
        color="0.4",
    )
    histogram.stairs(sums.count, edges, fill=True, color=BAR, alpha=0.85)
    histogram.set_ylim(0.8, max(10.0, 2.0 * float(sums.count.max())))
    histogram.set_yscale("log")
    histogram.set(xlabel="probability of infarct", ylabel="voxels")
    for axes in (diagram, histogram):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.set_axisbelow(True)
    return figure


def score_figure(
    dice: Float[np.ndarray, " n"], label_ml: Float[np.ndarray, " n"]
) -> Figure:
    """Dice against lesion volume, and how Dice is spread over the cases."""
    figure = Figure(
        figsize=(8.4, 3.0), facecolor="white", dpi=160, layout="constrained"
    )
    scatter, histogram = figure.subplots(1, 2, sharey=True, width_ratios=[2.2, 1])
    scatter.scatter(label_ml, dice, s=26, color=BAR, edgecolor="white", linewidth=0.6)
    scatter.set_xscale("symlog", linthresh=1.0)
    scatter.set_xlim(left=0)
    scatter.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    scatter.set(xlabel="lesion volume (mL)", ylabel="Dice", ylim=(-0.03, 1.03))
    bins = np.linspace(0, 1, 21)
    histogram.hist(dice, bins=bins, orientation="horizontal", color=BAR, rwidth=0.88)
    histogram.set_xlabel("cases")
    histogram.xaxis.get_major_locator().set_params(integer=True)
    for axes in (scatter, histogram):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.set_axisbelow(True)
        if dice.size:
            axes.axhline(np.median(dice), color=MEDIAN, linewidth=1.2)
    if dice.size:
        note = f"median {np.median(dice):.2f}"
        scatter.annotate(
            note,
            (0.01, np.median(dice)),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            color=MEDIAN,
            fontsize=8,
        )
    return figure
