"""What every system marks in the same scans (the paper's Fig. 3)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from adn_jax.comparison.compare import Scores, method_name
from adn_jax.comparison.peers import PeerRun
from adn_jax.comparison.work import PlannedRun
from adn_jax.data.cases import PreparedCase, read_case
from adn_jax.data.manifest import Manifest
from adn_jax.errors import UserError
from adn_jax.inference.figures import DISPLAY_HU, DISPLAYED
from adn_jax.metrics.overlap import Mask
from adn_jax.report.pages import format_number
from adn_jax.report.panels import (
    INK,
    LABEL,
    PREDICTION,
    common_extent,
    dark_sheet,
    draw_outline,
    draw_slice,
    footer,
    head_box,
    show_head,
    side_label,
)

PICTURED_BY_DEFAULT = 5
"""Cases in the figure where none are chosen."""


@dataclass(frozen=True)
class PicturedScan:
    """A row of the figure: a scan on its prepared grid, and what systems found."""

    case: PreparedCase
    predictions: tuple[Mask, ...]
    """One for each system."""
    dice: tuple[float, ...]
    """Dice of the whole scan, of the same runs."""


def check_cases(chosen: Sequence[str], names: Sequence[str]) -> None:
    """Raise `UserError` for a chosen case that was not scored."""
    for name in chosen:
        if name not in names:
            raise UserError(
                f"--cases names {name!r}, which was not scored; some that were are: "
                f"{', '.join(names[:8])}."
            )


def predict_chosen(
    runs: Sequence[PlannedRun | PeerRun],
    scores: Scores,
    manifest: Manifest,
    chosen: Sequence[str],
) -> list[PicturedScan]:
    """Run the chosen cases through one run of every system."""
    cases = [read_case(manifest.case_folder(name)) for name in chosen]
    predictions = [run.masks(manifest, chosen) for run in runs]
    places = [scores.cases.index(name) for name in chosen]
    dice = [
        each.tables["dice"][each.seeds.index(run.seed)][places]
        for each, run in zip(scores.systems, runs, strict=True)
    ]
    return [
        PicturedScan(case, tuple(masks), tuple(float(value) for value in values))
        for case, masks, values in zip(
            cases,
            zip(*predictions, strict=True),
            zip(*dice, strict=True),
            strict=True,
        )
    ]


def qualitative_figure(
    scans: Sequence[PicturedScan],
    systems: Sequence[str],
    window_hu: tuple[float, float],
) -> Figure:
    """A row a case, at its largest lesion slice: label alone, then with predictions."""
    spacings = [scan.case.spacing_mm[1:] for scan in scans]
    boxes = [
        head_box(scan.case.volume, spacing)
        for scan, spacing in zip(scans, spacings, strict=True)
    ]
    extent = common_extent(boxes)
    titles = ["CT, label", *(method_name(name) for name in systems)]
    sheet = dark_sheet(len(scans), len(titles), extent, titles, captions=False)
    low, high = window_hu
    shown = tuple((hu - low) / (high - low) for hu in DISPLAY_HU)
    for panels, scan, box in zip(sheet.panels, scans, boxes, strict=True):
        z, spacing = largest_slice(scan), scan.case.spacing_mm[1:]
        label = _label_of(scan.case)
        for axes in panels:
            draw_slice(axes, scan.case.volume[z], spacing, (shown[0], shown[1]))
            draw_outline(axes, label[z], spacing, LABEL)
            show_head(axes, box, extent, marks=True)
        found = zip(panels[1:], scan.predictions, scan.dice, strict=True)
        for axes, mask, dice in found:
            draw_outline(axes, mask[z], spacing, PREDICTION)
            _write_dice(axes, dice)
        side_label(panels[0], scan.case.name)
    note = DISPLAYED if len(titles) > 2 else "Patient's left on the right."
    footer(sheet, note, {"label": LABEL, "prediction": PREDICTION})
    return sheet.figure


def _write_dice(axes: Axes, dice: float) -> None:
    """Dice in the upper corner of a panel."""
    axes.text(
        0.97,
        0.97,
        f"Dice {format_number(dice)}",
        color=INK,
        fontsize=9,
        ha="right",
        va="top",
        transform=axes.transAxes,
    )


def _label_of(case: PreparedCase) -> Mask:
    """The label on the prepared grid; nothing if there is none."""
    if case.lesion is None:
        return np.zeros(case.volume.shape, bool)
    return np.asarray(case.lesion) >= 0.5


def largest_slice(scan: PicturedScan) -> int:
    """Slice with most of the label; of all predictions where the label is empty."""
    weight = _label_of(scan.case).sum(axis=(1, 2))
    if not weight.any():
        weight = np.sum(scan.predictions, axis=(0, 2, 3))
    return int(np.argmax(weight)) if weight.any() else len(weight) // 2
