import json
from dataclasses import replace

import numpy as np
import pytest

from adn_jax.data.cases import PreparedCase
from adn_jax.evaluation.case import (
    OF_LABEL,
    CaseResult,
    CaseUncertainty,
    NativeLesion,
    score_case,
    score_masks,
)
from adn_jax.evaluation.summary import calibrated
from adn_jax.inference.maps import LesionUncertainty
from adn_jax.io.files import none_for_nan
from adn_jax.metrics.calibration import reliability

SPACING = (5.0, 1.0, 2.0)
EMPTY = np.zeros((4, 8, 8), bool)
BOX = EMPTY.copy()
BOX[1:3, 2:6, 2:6] = True
SHIFTED = np.roll(BOX, 1, axis=2)


def test_scores_of_a_shifted_box():
    scores = score_masks(SHIFTED, BOX, SPACING)
    assert scores.dice == 0.75
    assert scores.hd95_mm == scores.hd95_pooled_mm == 2.0
    assert scores.lesion_f1 == scores.lesion_precision == scores.lesion_recall == 1.0
    assert scores.label_ml == scores.predicted_ml == pytest.approx(32 * 10 / 1000)
    assert scores.volume_error_ml == 0.0
    assert scores.empty == "none"


def test_volume_error_has_a_sign():
    smaller = BOX.copy()
    smaller[1] = False
    scores = score_masks(smaller, BOX, SPACING)
    assert scores.volume_error_ml == pytest.approx(-0.16)
    assert scores.absolute_volume_error_ml == pytest.approx(0.16)


@pytest.mark.parametrize(
    ("prediction", "lesion", "empty", "dice", "distance"),
    [
        (EMPTY, EMPTY, "both", 1.0, 0.0),
        (BOX, EMPTY, "label", 0.0, np.sqrt(20**2 + 8**2 + 16**2)),
        (EMPTY, BOX, "prediction", 0.0, np.sqrt(20**2 + 8**2 + 16**2)),
    ],
)
def test_empty_masks_are_penalised(prediction, lesion, empty, dice, distance):
    scores = score_masks(prediction, lesion, SPACING)
    assert scores.empty == empty
    assert scores.dice == scores.lesion_f1 == dice
    assert scores.hd95_mm == scores.hd95_pooled_mm == pytest.approx(distance)


def test_empty_masks_are_left_out():
    both = score_masks(EMPTY, EMPTY, SPACING, "leave_out")
    assert np.isnan([both.dice, both.lesion_f1, both.hd95_mm]).all()
    one = score_masks(BOX, EMPTY, SPACING, "leave_out")
    assert one.dice == one.lesion_f1 == 0.0
    assert np.isnan([one.hd95_mm, one.hd95_pooled_mm]).all()


@pytest.mark.parametrize("prediction", [EMPTY, BOX])
def test_an_infarct_that_the_prepared_grid_loses_has_no_score_there(prediction):
    case = PreparedCase(
        "small", np.ones(BOX.shape, np.float32), np.ones(BOX.shape, np.uint8),
        np.eye(4), {}, lesion=0.2 * BOX.astype(np.float32))  # fmt: skip
    probability = prediction.astype(np.float32)
    native = NativeLesion(probability, SHIFTED, SPACING)
    result = score_case(case, probability, native, 0.5, "penalise")
    prepared, kept = result.grids["prepared"], result.grids["native"]
    assert (prepared.empty, prepared.label_ml) == ("lost", 0.0)
    assert prepared.predicted_ml == pytest.approx(prediction.sum() / 1000)
    assert np.isnan([getattr(prepared, name) for name in OF_LABEL]).all()
    assert kept.dice == (0.75 if prediction.any() else 0.0)
    assert result.flags[-1].startswith("The prepared grid is too coarse")
    assert result.calibration == {}
    assert calibrated([result]) == []
    healthy = score_case(
        case, probability, native._replace(lesion=EMPTY), 0.5, "penalise"
    )
    expected = "label" if prediction.any() else "both"
    assert healthy.grids["prepared"].empty == expected
    assert calibrated([result, healthy]) == [healthy]
    mask = replace(healthy, calibration={})
    assert calibrated([result, healthy, mask]) == []


@pytest.mark.parametrize(
    ("label", "left_out", "flag"),
    [
        (BOX, 0, "Nothing was predicted."),
        (BOX, 1, "Nothing was predicted but for 1 lesion too small or doubtful to "
                 "count."),
        (EMPTY, 2, "Label and prediction are empty but for 2 lesions too small or "
                   "doubtful to count."),
    ],
)  # fmt: skip
def test_lesions_that_were_left_out_are_told_where_nothing_else_was_predicted(
    label, left_out, flag
):
    case = PreparedCase(
        "case", np.ones(BOX.shape, np.float32), np.ones(BOX.shape, np.uint8),
        np.eye(4), {}, lesion=label.astype(np.float32))  # fmt: skip
    probability = EMPTY.astype(np.float32)
    native = NativeLesion(probability, label, SPACING)
    result = score_case(case, probability, native, 0.5, "penalise", left_out=left_out)
    assert result.flags == (flag,)


def test_results_survive_json_with_none_for_nan():
    result = CaseResult(
        name="head",
        grids={"prepared": score_masks(BOX, EMPTY, SPACING, "leave_out")},
        alignment={"final": {"angle_deg": 1.0, "offset_mm": 0.5}},
        disentanglement={"auroc": float("nan"), "mass_share": 0.25},
        disentanglement_truth="lesion label",
        pose={"rotation_deg": 3.0, "offset_mm": -1.0},
        flags=("Odd.",),
        calibration={"brain": reliability(0.9 * BOX, SHIFTED, 3)},
        uncertainty=CaseUncertainty(
            0.2, float("nan"), 0.7, (LesionUncertainty(1.0, 0.9, 0.3, 0.0, True),)
        ),
    )
    content = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert content["disentanglement"] == {"auroc": None, "mass_share": 0.25}
    assert content["grids"]["prepared"]["hd95_mm"] is None
    again = CaseResult.from_json(content)
    assert again.to_json() == content
    assert again.calibration["brain"].count.sum() == BOX.size
    assert np.isnan(again.uncertainty.entropy_wrong)
    assert again.uncertainty.lesions == result.uncertainty.lesions
    assert np.isnan(again.disentanglement["auroc"])


def test_none_for_nan_at_any_depth():
    value = {"a": [float("nan"), 1.0], "b": ({"c": float("nan")}, "text")}
    assert none_for_nan(value) == {"a": [None, 1.0], "b": [{"c": None}, "text"]}
