import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from adn_jax.metrics.calibration import (
    BINS,
    brier_score,
    expected_calibration_error,
    gaps,
    maximum_calibration_error,
    near_lesion,
    reliability,
)

GENERATOR = np.random.default_rng(5)
PROBABILITY = GENERATOR.beta(0.3, 0.9, (9, 20, 30)).astype(np.float32)
LABEL = GENERATOR.random(PROBABILITY.shape) < PROBABILITY**1.6


@pytest.mark.parametrize("bins", [BINS, 10, 4])
def test_bins_are_those_of_sklearn(bins):
    sums = reliability(PROBABILITY, LABEL, bins)
    shares, means = calibration_curve(LABEL.ravel(), PROBABILITY.ravel(), n_bins=bins)
    filled = sums.count > 0
    np.testing.assert_allclose((sums.label / sums.count)[filled], shares)
    np.testing.assert_allclose((sums.probability / sums.count)[filled], means)
    np.testing.assert_allclose(gaps(sums)[filled], np.abs(shares - means), atol=1e-12)
    assert maximum_calibration_error(sums) == pytest.approx(abs(shares - means).max())
    weights = sums.count[filled] / LABEL.size
    assert expected_calibration_error(sums) == pytest.approx(
        (weights * np.abs(shares - means)).sum()
    )


def test_edges_belong_to_the_bin_below():
    values = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
    label = np.array([False, False, True, True, True])
    sums = reliability(values, label, 4)
    assert sums.count.tolist() == [2, 1, 1, 1]
    shares, means = calibration_curve(label, values, n_bins=4)
    np.testing.assert_allclose(sums.label / sums.count, shares)
    np.testing.assert_allclose(sums.probability / sums.count, means)


def test_brier_score_is_that_of_sklearn():
    expected = brier_score_loss(LABEL.ravel(), PROBABILITY.ravel())
    assert brier_score(reliability(PROBABILITY, LABEL)) == pytest.approx(expected)


def test_sums_of_parts_add_up():
    whole = reliability(PROBABILITY, LABEL)
    parts = [reliability(PROBABILITY[i], LABEL[i]) for i in range(len(LABEL))]
    total = sum(parts[1:], parts[0])
    np.testing.assert_array_equal(total.count, whole.count)
    for name in ("probability", "label", "squared_error"):
        np.testing.assert_allclose(getattr(total, name), getattr(whole, name))


def test_only_chosen_voxels_count():
    inside = GENERATOR.random(LABEL.shape) < 0.4
    chosen = reliability(PROBABILITY, LABEL, inside=inside)
    alone = reliability(PROBABILITY[inside], LABEL[inside])
    np.testing.assert_array_equal(chosen.count, alone.count)
    np.testing.assert_array_equal(chosen.label, alone.label)


def test_near_a_lesion_is_where_probability_or_label_says_so():
    probability = np.array([0.0, 0.01, 0.02, 0.0])
    label = np.array([False, False, False, True])
    assert near_lesion(probability, label).tolist() == [False, False, True, True]


def test_a_perfect_map_has_no_error_and_no_voxels_have_none():
    sums = reliability(LABEL.astype(float), LABEL)
    assert expected_calibration_error(sums) == maximum_calibration_error(sums) == 0.0
    assert brier_score(sums) == 0.0
    empty = reliability(PROBABILITY, LABEL, inside=np.zeros(LABEL.shape, bool))
    errors = (expected_calibration_error, maximum_calibration_error, brier_score)
    assert np.isnan([error(empty) for error in errors]).all()
