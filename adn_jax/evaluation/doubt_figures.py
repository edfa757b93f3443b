"""Figures of how far probabilities can be trusted: calibration and doubt."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from adn_jax.evaluation.figures import (
    BAR,
    CONVENTION,
    MAP_COLOURS,
    MEDIAN,
    draw_ct,
    outline,
    outlines_of,
)
from adn_jax.evaluation.maps import CaseMaps, Map
from adn_jax.metrics.calibration import (
    Reliability,
    bin_means,
    expected_calibration_error,
)
from adn_jax.report.panels import (
    FAINT,
    LABEL,
    PREDICTION,
    caption,
    common_extent,
    dark_sheet,
    draw_slice,
    footer,
    head_box,
    show_head,
    side_label,
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


def doubt_figure(
    cases: Sequence[CaseMaps], entropies: Sequence[Map], captions: Sequence[str]
) -> Figure:
    """Largest lesion slice of each scan I: plain, outlined, and its doubt."""
    boxes = [head_box(maps.volume, maps.spacing_mm[1:]) for maps in cases]
    extent = common_extent(boxes)
    sheet = dark_sheet(3, len(cases), extent, [], captions=True)
    for column, (maps, entropy) in enumerate(zip(cases, entropies, strict=True)):
        z = most_filled(maps, entropy)
        plain, outlined, doubtful = panels = [row[column] for row in sheet.panels]
        for axes in (plain, outlined):
            draw_ct(axes, maps, maps.volume, z)
        outline(outlined, maps, maps.lesion, z, LABEL)
        outline(outlined, maps, maps.predicted, z, PREDICTION)
        draw_doubt(doubtful, maps, entropy, z)
        for axes in panels:
            show_head(axes, boxes[column], extent, marks=column == 0)
        caption(doubtful, captions[column])
    names = ["scan I", "label, prediction", "doubt, to 1 bit"]
    for row, name in zip(sheet.panels, names, strict=True):
        side_label(row[0], name)
    footer(sheet, CONVENTION, outlines_of(cases))
    return sheet.figure


def draw_doubt(axes: Axes, maps: CaseMaps, entropy: Map, z: int) -> None:
    """Doubt inside the brain, which is outlined as the label is.

    It is drawn to 1 bit in all cases: the most that a yes or no can have.
    """
    brain = maps.volume > 0
    inside = np.where(brain[z], entropy[z], np.float32(0))
    draw_slice(axes, inside, maps.spacing_mm[1:], (0.0, 1.0), MAP_COLOURS)
    outline(axes, maps, brain, z, FAINT)
    outline(axes, maps, maps.lesion, z, LABEL)


def most_filled(maps: CaseMaps, entropy: Map) -> int:
    """Slice of I with the largest label, else prediction, else the most doubt."""
    weights = [maps.lesion, maps.predicted, entropy]
    chosen = next(
        (weight for weight in weights if weight is not None and weight.any()), entropy
    )
    return int(np.argmax(chosen.sum(axis=(1, 2))))
