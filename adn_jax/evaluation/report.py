"""Figures of an evaluation, and one page about it: no file beside it, no network."""

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

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
from adn_jax.evaluation.summary import (
    FEWEST_CASES,
    by_rule,
    calibrated,
    label_lost,
    no_midline,
    over_fewer,
    pooled,
)
from adn_jax.inference.chain import as_map, on_scan_grid
from adn_jax.inference.figures import (
    BAR,
    MEDIAN,
    alignment_figure,
    as_webp,
    maps_figure,
    overview_figure,
    save_figure,
    scan_figure,
    segmentation_figure,
    uncertainty_figure,
)
from adn_jax.inference.maps import CaseMaps
from adn_jax.inference.shown import ShownScan
from adn_jax.inference.system import System
from adn_jax.inference.viewer import write_viewer
from adn_jax.io.paths import Place
from adn_jax.metrics.calibration import (
    Reliability,
    bin_means,
    expected_calibration_error,
)
from adn_jax.report.pages import format_ml, format_number, page_environment

DISENTANGLED = ("asymmetry", "pathological", "anatomical")
PICTURED = 6
"""Cases in the figures, spread from the best to the worst."""


def reliability_figure(brain: Reliability, near: Reliability) -> Figure:
    """Share of infarct among the voxels of each probability, in the whole brain and
    near lesions, and the number of these voxels."""
    figure = Figure(
        figsize=(8.4, 3.4), facecolor="white", dpi=160, layout="constrained"
    )
    diagram, histogram = figure.subplots(1, 2, width_ratios=[1.5, 1])
    edges = np.linspace(0.0, 1.0, brain.count.size + 1)
    diagram.plot([0, 1], [0, 1], color="0.55", linewidth=1.0, linestyle=(0, (4, 3)))
    curves = {"whole brain": (brain, BAR, "o-"), "near lesions": (near, MEDIAN, "s--")}
    for name, (sums, colour, style) in curves.items():
        mean, share = (
            bin_means(total, sums) for total in (sums.probability, sums.label)
        )
        error = expected_calibration_error(sums)
        label = f"{name}: expected calibration error {error:.4f}"
        diagram.plot(mean, share, style, color=colour, markersize=4, label=label)
        histogram.stairs(sums.count, edges, color=colour, linewidth=1.4, label=name)
    diagram.set(xlabel="probability of infarct", ylabel="share of infarct")
    diagram.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.18))
    diagram.legend(fontsize=7.5, frameon=False, loc="upper left")
    histogram.set(xlabel="probability of infarct", ylabel="voxels")
    histogram.set_ylim(0.8, max(10.0, 2.0 * float(brain.count.max())))
    histogram.set_yscale("log")  # after the limits: there may be no voxel at all
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
    known = dice[~np.isnan(dice)]
    histogram.hist(known, bins=bins, orientation="horizontal", color=BAR, rwidth=0.88)
    histogram.set_xlabel("cases")
    histogram.xaxis.get_major_locator().set_params(integer=True)
    for axes in (scatter, histogram):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.set_axisbelow(True)
        if known.size:
            axes.axhline(np.median(known), color=MEDIAN, linewidth=1.2)
    if known.size:
        note = f"median {np.median(known):.2f}"
        scatter.annotate(
            note,
            (0.01, np.median(known)),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            color=MEDIAN,
            fontsize=8,
        )
    return figure


FIGURE_NAMES = (
    *("overview", "maps", "segmentation", "alignment"),
    *("scores", "calibration", "uncertainty"),
)
"""Names of the figures that an evaluation can have."""


class Pictures(NamedTuple):
    """What was drawn of an evaluation."""

    figures: Mapping[str, Place]
    """Figures by name."""
    pages: Mapping[str, str]
    """The page of each pictured case, from the report's folder."""


def write_figures(
    system: System,
    manifest: Manifest,
    results: Sequence[CaseResult],
    grid: str,
    folder: Place,
) -> Pictures:
    """Draw the figures that the system has something for, in `folder/figures`, and a
    page for each pictured case, in `folder/scans`."""
    chosen, inferred, pages = pictured(results, grid), [], {}
    for result in track(chosen, description="figures"):
        case = read_case(manifest.case_folder(result.name))
        found = system.infer(case)
        moved = {} if found.maps.plane is None else on_scan_grid(found.outputs)
        volumes = {name: as_map(moved[name]) for name in DISENTANGLED if name in moved}
        shown = ShownScan.of_case(case, found.maps, volumes, found.uncertainty)
        pages[result.name] = _write_page(shown, folder)
        inferred.append(found)
    maps = [one.maps for one in inferred]
    drawn = {
        "overview": overview_figure(maps[len(chosen) // 2]),
        **_figures_of_any_tool(results, maps, grid),
    }
    # without a mid-line there is no mirror voxel, and so no asymmetry
    if found := [i for i, one in enumerate(maps) if one.plane]:
        few = [found[i] for i in sorted({0, len(found) // 2, len(found) - 1})]
        names = [chosen[i].name for i in few]
        drawn["maps"] = maps_figure([maps[i] for i in few], names)
        turns = [
            f"{chosen[i].name}\n"
            f"turned {format_number(chosen[i].pose['rotation_deg'], 1, sign=True)}°"
            for i in found
        ]
        drawn["alignment"] = alignment_figure([maps[i] for i in found], turns)
    if system.uncertainty_source:
        entropies = [
            one.uncertainty.entropy for one in inferred if one.uncertainty is not None
        ]
        captions = _captions(chosen, grid)
        drawn["uncertainty"] = uncertainty_figure(maps, entropies, captions)
    return Pictures(_save_figures(drawn, folder / "figures"), pages)


def write_peer_figures(
    peer: Peer,
    manifest: Manifest,
    results: Sequence[CaseResult],
    grid: str,
    folder: Place,
) -> Pictures:
    """Draw what there is of another tool's predictions, as `write_figures` does."""
    maps, pages = [], {}
    for result in pictured(results, grid):
        files = manifest.case_folder(result.name)
        case = read_case(files)
        maps.append(peer.maps(case, files))
        shown = ShownScan.of_case(case, maps[-1], {})
        shown = shown.of_masks() if peer.is_mask(result.name) else shown
        pages[result.name] = _write_page(shown, folder)
    drawn = _figures_of_any_tool(results, maps, grid)
    return Pictures(_save_figures(drawn, folder / "figures"), pages)


def _write_page(shown: ShownScan, folder: Place) -> str:
    """Write the page of a case; returns its address in the folder."""
    path = folder / "scans" / f"{shown.name}.html"
    write_viewer(path, shown, as_webp(scan_figure(shown)))
    return f"scans/{quote(path.name)}"


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
    if known := calibrated(results):
        drawn["calibration"] = reliability_figure(
            pooled(known, "brain"), pooled(known, "near")
        )
    return drawn


def _captions(chosen: Sequence[CaseResult], grid: str) -> list[str]:
    """Name, Dice and volume of each pictured case."""
    return [
        f"{result.name}\nDice {result.grids[grid].dice:.2f} · "
        f"{format_ml(result.grids[grid].label_ml)} mL"
        for result in chosen
    ]


def _save_figures(drawn: Mapping[str, Figure], folder: Place) -> dict[str, Place]:
    """Write figures as PNG files; returns these by name."""
    paths = {name: folder / f"{name}.png" for name in drawn}
    for name, figure in drawn.items():
        save_figure(figure, paths[name])
    return paths


def remove_older(folder: Place, pictures: Pictures) -> None:
    """Remove pages and figures that an earlier evaluation left and this one does not
    draw: they would show other predictions beside the new scores."""
    cases = [path.name.removesuffix(".json") for path in (folder / "cases").iterdir()]
    drawn_now = {
        "scans": {f"{case}.html": case in pictures.pages for case in cases},
        "figures": {f"{name}.png": name in pictures.figures for name in FIGURE_NAMES},
    }
    for parent, is_new in drawn_now.items():
        place = folder / parent
        for path in list(place.iterdir()) if place.is_dir() else ():
            if not is_new.get(path.name, True):
                path.unlink()


def pictured(results: Sequence[CaseResult], grid: str) -> list[CaseResult]:
    """The cases that are shown."""
    dice = [each.grids[grid].dice for each in results]
    return [results[place] for place in spread_cases(dice, PICTURED)]


def spread_cases(dice: Iterable[float], count: int) -> list[int]:
    """Places of cases spread evenly from the best Dice to the worst; undefined ones
    last."""
    ranked = np.argsort(-np.nan_to_num(np.array([*dice]), nan=-1.0), kind="stable")
    count = min(count, len(ranked))
    steps = np.linspace(0, len(ranked) - 1, count).round().astype(int)
    return ranked[steps].tolist()


def render_report(
    summary: Mapping[str, Any],
    results: Sequence[CaseResult],
    pictures: Pictures,
    prepare: PrepareSettings,
    index: str | None = None,
) -> str:
    """The page as HTML, pictures embedded; flagged cases come first in its table.

    `index` is the address of the run's first page, if it has one.
    """
    environment = page_environment("adn_jax.evaluation")
    environment.filters |= {
        "interval": format_interval,
        "over_fewer": over_fewer,
        "by_rule": by_rule,
        "no_midline": no_midline,
        "label_lost": label_lost,
    }
    return environment.get_template("report.html").render(
        summary=summary,
        rows=sorted(results, key=lambda result: (not result.flags, result.name)),
        figures={name: data_uri(path) for name, path in pictures.figures.items()},
        pages=pictures.pages,
        pictured=pictured(results, summary["grid"]),
        prepare=prepare,
        fewest=FEWEST_CASES,
        index=index,
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
