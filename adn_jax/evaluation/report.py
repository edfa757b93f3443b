"""Figures of an evaluation, and one page about it: no file beside it, no network."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter
from rich.progress import track

from adn_jax.config import PrepareSettings
from adn_jax.data.cases import read_case
from adn_jax.data.manifest import Manifest
from adn_jax.evaluation.case import CaseResult
from adn_jax.evaluation.peers import Peer
from adn_jax.evaluation.summary import pooled
from adn_jax.inference.figures import (
    BAR,
    MEDIAN,
    alignment_figure,
    maps_figure,
    overview_figure,
    save_figure,
    segmentation_figure,
    uncertainty_figure,
)
from adn_jax.inference.maps import CaseMaps
from adn_jax.inference.system import System
from adn_jax.io.paths import Place
from adn_jax.metrics.calibration import (
    Reliability,
    bin_means,
    expected_calibration_error,
)
from adn_jax.report.pages import format_number, page_environment

PICTURED = 6
"""Cases in the figures, spread from the best to the worst."""


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


def write_figures(
    system: System,
    manifest: Manifest,
    results: Sequence[CaseResult],
    grid: str,
    folder: Place,
) -> dict[str, Place]:
    """Draw the figures that the system has something for; returns them by name."""
    chosen = pictured(results, grid)
    inferred = [
        system.infer(read_case(manifest.case_folder(result.name)))
        for result in track(chosen, description="figures")
    ]
    maps = [one.maps for one in inferred]
    best_to_worst = sorted({0, len(chosen) // 2, len(chosen) - 1})
    drawn = {
        "overview": overview_figure(maps[len(chosen) // 2]),
        "maps": maps_figure(
            [maps[i] for i in best_to_worst], [chosen[i].name for i in best_to_worst]
        ),
        **_figures_of_any_tool(results, maps, grid),
    }
    if found := [i for i, one in enumerate(maps) if one.plane]:
        turns = [
            f"{chosen[i].name}\nturned {chosen[i].pose['rotation_deg']:+.1f}°"
            for i in found
        ]
        drawn["alignment"] = alignment_figure([maps[i] for i in found], turns)
    if system.uncertainty_source:
        entropies = [
            one.uncertainty.entropy for one in inferred if one.uncertainty is not None
        ]
        captions = _captions(chosen, grid)
        drawn["uncertainty"] = uncertainty_figure(maps, entropies, captions)
    return _save_figures(drawn, folder)


def write_peer_figures(
    peer: Peer,
    manifest: Manifest,
    results: Sequence[CaseResult],
    grid: str,
    folder: Place,
) -> dict[str, Place]:
    """Draw what there is of another tool's predictions; returns figures by name."""
    sources = [manifest.case_folder(one.name) for one in pictured(results, grid)]
    maps = [peer.maps(read_case(files), files) for files in sources]
    return _save_figures(_figures_of_any_tool(results, maps, grid), folder)


def _figures_of_any_tool(
    results: Sequence[CaseResult], maps: Sequence[CaseMaps], grid: str
) -> dict[str, Figure]:
    """The pictured cases outlined, the scores, and the calibration if it is known."""
    scores = [result.grids[grid] for result in results]
    captions = _captions(pictured(results, grid), grid)
    drawn = {
        "segmentation": segmentation_figure(maps, captions),
        "scores": score_figure(
            np.array([score.dice for score in scores], float),
            np.array([score.label_ml for score in scores], float),
        ),
    }
    if all(result.calibration for result in results):
        drawn["calibration"] = reliability_figure(pooled(results, "brain"))
    return drawn


def _captions(chosen: Sequence[CaseResult], grid: str) -> list[str]:
    """Name, Dice and volume of each pictured case."""
    return [
        f"{result.name}\nDice {result.grids[grid].dice:.2f} · "
        f"{result.grids[grid].label_ml:.0f} mL"
        for result in chosen
    ]


def _save_figures(drawn: Mapping[str, Figure], folder: Place) -> dict[str, Place]:
    """Write figures as PNG files; returns these by name."""
    paths = {name: folder / f"{name}.png" for name in drawn}
    for name, figure in drawn.items():
        save_figure(figure, paths[name])
    return paths


def pictured(results: Sequence[CaseResult], grid: str) -> list[CaseResult]:
    """Cases spread evenly from the best Dice to the worst."""
    ranked = sorted(
        results, key=lambda result: np.nan_to_num(-result.grids[grid].dice, nan=1.0)
    )
    count = min(PICTURED, len(ranked))
    places = np.linspace(0, len(ranked) - 1, count).round().astype(int)
    return [ranked[place] for place in places]


def render_report(
    summary: Mapping[str, Any],
    results: Sequence[CaseResult],
    figures: Mapping[str, Place],
    prepare: PrepareSettings,
) -> str:
    """The page as HTML, pictures embedded; flagged cases come first in its table."""
    environment = page_environment("adn_jax.evaluation")
    environment.filters["interval"] = format_interval
    return environment.get_template("report.html").render(
        summary=summary,
        rows=sorted(results, key=lambda result: (not result.flags, result.name)),
        figures={name: data_uri(path) for name, path in figures.items()},
        prepare=prepare,
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
