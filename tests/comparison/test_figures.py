from dataclasses import replace

import numpy as np
import pytest

from adn_jax.comparison.compare import Estimate
from adn_jax.comparison.qualitative import (
    PicturedScan,
    largest_slice,
    qualitative_figure,
)
from adn_jax.comparison.sweep import Curve, axis_places, sweep_figure
from adn_jax.comparison.table import box_figure
from adn_jax.evaluation.report import spread_cases
from adn_jax.report.panels import LABEL, PREDICTION
from tests.training.tiny import head

NAN = float("nan")


def test_boxes_show_quartiles_and_every_defined_case():
    values = [np.array([0.1, 0.2, 0.3, 0.4, NAN]), np.array([NAN] * 5)]
    axes = box_figure(values, ["one", "none"], "Dice", 0, (0.0, 1.0)).axes[0]
    points = [len(each.get_offsets()) for each in axes.collections]
    assert points == [4, 0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["one", "none"]
    assert axes.get_xlim() == (0.0, 1.0)
    assert axes.get_ylim()[0] > axes.get_ylim()[1]
    medians = [line.get_xdata()[0] for line in axes.lines]
    assert pytest.approx(0.25) in medians


def test_cases_are_spread_from_best_to_worst():
    dice = np.array([0.2, NAN, 0.9, 0.5, 0.7])
    assert spread_cases(dice, 3) == [2, 3, 1]
    assert spread_cases(dice, 9) == [2, 4, 3, 0, 1]


def outlines(axes):
    return [tuple(each.get_edgecolor()[0][:3]) for each in axes.collections]


def rgb(colour):
    return tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))


def test_scans_show_label_and_predictions_with_their_dice():
    case = head("scan", 1)
    label = np.asarray(case.lesion) >= 0.5
    scan = PicturedScan(
        case, (np.roll(label, 1, axis=1), np.zeros_like(label)), (0.625, NAN)
    )
    figure = qualitative_figure([scan], ["adn", "mine"], (0.0, 80.0))
    first, found, missed = figure.axes
    assert outlines(first) == [rgb(LABEL)]
    assert outlines(found) == [rgb(LABEL), rgb(PREDICTION)]
    assert outlines(missed) == [rgb(LABEL)]
    assert [axes.get_title() for axes in figure.axes] == ["CT, label", "ADN", "mine"]
    assert [text.get_text() for text in found.texts] == ["R", "L", "Dice 0.62"]
    assert [text.get_text() for text in missed.texts] == ["R", "L", "Dice –"]
    assert {"R", "L", "scan"} <= {text.get_text() for text in first.texts}
    assert figure.axes[0].get_xlim()[0] > figure.axes[0].get_xlim()[1]


def test_slice_with_most_of_label_or_prediction():
    case = head("scan", 1)
    label = np.asarray(case.lesion) >= 0.5
    scan = PicturedScan(case, (label,), (1.0,))
    assert label[largest_slice(scan)].sum() == label.sum(axis=(1, 2)).max()
    empty = np.zeros_like(label)
    mask = empty.copy()
    mask[3, 5] = True
    without = replace(case, lesion=None)
    assert largest_slice(PicturedScan(without, (empty, mask), (0.0, 0.0))) == 3
    assert largest_slice(PicturedScan(without, (empty,), (0.0,))) == len(empty) // 2


@pytest.mark.parametrize(
    ("values", "places"),
    [
        (["0", "1", "10", "100"], [-1, 0, 1, 2]),
        (["0.001", "0.1"], [-3, -1]),
        (["0", "0.1", "0.4"], [0, 0.75, 3]),
        (["5"], [0]),
        (["-1", "0", "100"], [0, 3 / 101, 3]),
        (["scan", "aligned"], [0, 1]),
    ],
)
def test_places_on_the_axis(values, places):
    found, shown = axis_places(values)
    assert found == pytest.approx(np.array(places, float))
    assert shown == values


def test_curves_with_intervals_and_gaps():
    known = Estimate(0.5, (0.4, 0.6), None, 12)
    single = Estimate(0.7, None, None, 1)
    nothing = Estimate(None, None, None, 0)
    panels = [
        ("Dice", [Curve("b = 0", (known, None)), Curve("b = 1", (known, single))]),
        ("AUROC of P", [Curve("b = 0", (nothing, known)), Curve("b = 1", (None,) * 2)]),
    ]
    figure = sweep_figure("a", ["0", "1"], panels)
    dice, auroc = figure.axes
    assert [len(line.get_xdata()) for line in dice.lines] == [1, 2]
    assert [len(line.get_xdata()) for line in auroc.lines] == [1, 0]
    assert len(dice.collections) == 2
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["b = 0", "b = 1"]
    plain = sweep_figure("a", ["0"], [("Dice", [Curve("", (known,))])])
    assert plain.legends == []
