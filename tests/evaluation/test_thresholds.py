"""Thresholds from made-up probabilities whose best one is known."""

import numpy as np
import pytest

from adn_jax.evaluation.thresholds import (
    CANDIDATES,
    CaseCurves,
    best_candidate,
    choice_in_words,
    choose_from,
    choose_thresholds,
    dice_curve,
    volume_curve,
)
from adn_jax.inference.maps import Thresholds
from adn_jax.metrics.overlap import dice, volume_ml

SPACING = (5.0, 2.0, 2.0)


def made_up(cut, voxels):
    """A case whose label is exactly what is above `cut`: inside 0.02 above it, in a rim
    0.02 below it."""
    probability = np.full((4, 40, 40), 0.01, np.float32)
    lesion = np.zeros(probability.shape, bool)
    flat, label = probability.reshape(-1), lesion.reshape(-1)
    flat[: 2 * voxels] = cut - 0.02
    flat[:voxels] = cut + 0.02
    label[:voxels] = True
    return probability, lesion


def curves(cut, voxels):
    probability, lesion = made_up(cut, voxels)
    return CaseCurves(
        dice_curve(probability, lesion), volume_curve(probability, SPACING)
    )


def test_curves_are_dice_and_volume_at_every_candidate():
    rng = np.random.default_rng(0)
    probability = rng.random((3, 10, 10), np.float32)
    probability.reshape(-1)[: len(CANDIDATES)] = CANDIDATES
    lesion = rng.random(probability.shape) < probability
    for place, cut in enumerate(CANDIDATES):
        mask = probability >= cut
        assert dice_curve(probability, lesion)[place] == pytest.approx(
            dice(mask, lesion)
        )
        assert volume_curve(probability, SPACING)[place] == pytest.approx(
            volume_ml(mask, SPACING)
        )


def test_a_curve_is_undefined_where_nothing_is_predicted_and_nothing_there():
    probability = np.full((2, 3, 3), 0.3, np.float32)
    curve = dice_curve(probability, np.zeros(probability.shape, bool))
    np.testing.assert_array_equal(np.isnan(curve), np.array(CANDIDATES) > 0.3)
    assert not curve[0]


def test_large_and_small_cases_get_their_own_threshold():
    # 2000 voxels of 20 mm3 are 40 mL, 100 are 2 mL.
    cases = [curves(0.65, 2000)] * 12 + [curves(0.25, 100)] * 3
    choice = choose_thresholds(cases, fixed=0.5)
    assert choice.thresholds == Thresholds(0.65, 0.25, 10.0)
    assert (choice.cases, choice.small_cases) == (15, 3)
    assert choice.dice[CANDIDATES.index(0.65)] == pytest.approx(12 / 15)
    assert choice.small_dice[CANDIDATES.index(0.25)] == 1.0
    assert choice_in_words(choice, "native") == (
        "0.65, below 10 mL 0.25 (chosen on 15 validation cases, native grid, 3 of "
        "them small)"
    )


def test_without_small_cases_one_threshold_serves_all():
    choice = choose_thresholds([curves(0.35, 2000)] * 2, fixed=0.5)
    assert choice.thresholds == Thresholds(0.35, 0.35)
    assert np.isnan(choice.small_dice).all()
    assert "a weak choice: fewer than 8 cases" in choice_in_words(choice, "native")


def test_equally_good_thresholds_change_as_little_as_they_can():
    scores = np.array([0.5] * 5 + [0.8] * 3 + [0.5] * 11)
    assert CANDIDATES[best_candidate(scores, 0.5)] == 0.4
    assert CANDIDATES[best_candidate(scores, 0.2)] == 0.3
    assert CANDIDATES[best_candidate(scores, 0.35)] == 0.35
    assert CANDIDATES[best_candidate(np.full(19, np.nan), 0.5)] == 0.5


def test_empty_masks_count_by_the_rule():
    """Of a head without infarct, a threshold above its 0.3 is right."""
    nothing = np.full((4, 40, 40), 0.3, np.float32)
    healthy = CaseCurves(
        dice_curve(nothing, np.zeros(nothing.shape, bool)),
        volume_curve(nothing, SPACING),
    )
    faint = curves(0.25, 2000)
    both = choose_thresholds([healthy, faint], 0.5)
    best = both.dice.max()
    assert best == 0.5 * (1.0 + 0.0)
    left_out = choose_thresholds([healthy, faint, faint], 0.5, "leave_out")
    assert left_out.dice[CANDIDATES.index(0.25)] == pytest.approx(2 / 3)
    assert left_out.dice[CANDIDATES.index(0.5)] == 0.0
    assert left_out.thresholds.general == 0.25


def record(name, dice):
    curve = volume_curve(made_up(0.25, 100)[0], SPACING)
    return {"case": name, "dice": dice, "predicted_ml": curve}


def test_a_label_that_the_prepared_grid_loses_does_not_count_there():
    kept, of_nothing = curves(0.25, 100).dice, np.zeros(len(CANDIDATES))
    lost = record("lost", {"native": of_nothing})
    whole = record("whole", {"native": kept, "prepared": kept})
    only_prepared = record("only_prepared", {"prepared": kept})
    on_native = choose_from([lost, whole], 0.5, "penalise")
    assert (on_native.grid, on_native.names) == ("native", ("lost", "whole"))
    chosen = choose_from([lost, whole, only_prepared], 0.5, "penalise")
    assert (chosen.grid, chosen.names) == ("prepared", ("whole", "only_prepared"))
    assert chosen.choice.dice.max() == 1.0


def test_the_threshold_of_a_case_follows_its_volume():
    both = Thresholds(0.65, 0.25)
    large, small = made_up(0.65, 2000)[0], made_up(0.65, 100)[0]
    assert both.of(large, SPACING) == 0.65
    assert both.of(small, SPACING) == 0.25
    assert both.of(np.zeros_like(small), SPACING) == 0.25
