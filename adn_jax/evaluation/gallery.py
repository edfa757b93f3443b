"""The figures of an evaluation: which cases are drawn, with which captions."""

from collections.abc import Sequence

import numpy as np
from rich.progress import track

from adn_jax.data.cases import read_case
from adn_jax.data.manifest import Manifest
from adn_jax.evaluation.score_figures import reliability_figure, score_figure
from adn_jax.evaluation.scores import CaseResult
from adn_jax.evaluation.summary import pooled
from adn_jax.inference.figures import (
    alignment_figure,
    maps_figure,
    overview_figure,
    save_figure,
    segmentation_figure,
    uncertainty_figure,
)
from adn_jax.inference.system import System
from adn_jax.io.paths import Place

PICTURED = 6
"""Cases in the figures, spread from the best to the worst."""


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
    captions = [
        f"{result.name}\nDice {result.grids[grid].dice:.2f} · "
        f"{result.grids[grid].label_ml:.0f} mL"
        for result in chosen
    ]
    best_to_worst = sorted({0, len(chosen) // 2, len(chosen) - 1})
    scores = [result.grids[grid] for result in results]
    drawn = {
        "overview": overview_figure(maps[len(chosen) // 2]),
        "segmentation": segmentation_figure(maps, captions),
        "maps": maps_figure(
            [maps[i] for i in best_to_worst], [chosen[i].name for i in best_to_worst]
        ),
        "scores": score_figure(
            np.array([score.dice for score in scores], float),
            np.array([score.label_ml for score in scores], float),
        ),
        "calibration": reliability_figure(pooled(results, "brain")),
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
        drawn["uncertainty"] = uncertainty_figure(maps, entropies, captions)
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
