import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import mutual_info_score, roc_auc_score

from adn_jax.evaluation.case import score_uncertainty
from adn_jax.evaluation.report import reliability_figure
from adn_jax.inference.figures import uncertainty_figure
from adn_jax.inference.maps import Uncertainty, binary_entropy
from adn_jax.metrics.calibration import reliability

GENERATOR = np.random.default_rng(2)

MEMBERS = GENERATOR.random((5, 3, 4, 6)).astype(np.float32)


def test_entropy_is_scipys_in_bits():
    values = np.array([0.0, 0.1, 0.5, 0.9, 1.0])
    expected = [stats.entropy([p, 1 - p], base=2) for p in values]
    np.testing.assert_allclose(binary_entropy(values), expected)
    assert binary_entropy(values).max() == 1.0


def test_uncertainty_is_that_of_the_mean():
    uncertainty = Uncertainty.of(iter(MEMBERS))
    mean = MEMBERS.astype(float).mean(axis=0)
    np.testing.assert_array_equal(uncertainty.probability, mean.astype(np.float32))
    np.testing.assert_allclose(
        uncertainty.entropy, stats.entropy([mean, 1 - mean], base=2), atol=1e-6
    )


def test_mutual_information_is_that_of_member_and_answer():
    uncertainty = Uncertainty.of(MEMBERS)
    p = MEMBERS[:, 1, 2, 3].astype(float)
    table = np.rint(1e6 * np.stack([p, 1 - p], axis=1)).astype(int)
    expected = mutual_info_score(None, None, contingency=table) / np.log(2)
    assert uncertainty.mutual_information[1, 2, 3] == pytest.approx(expected, abs=1e-5)


def test_one_prediction_is_its_own_mean_and_disagrees_with_nobody():
    single = Uncertainty.of(MEMBERS[:1])
    np.testing.assert_array_equal(single.probability, MEMBERS[0])
    twice = Uncertainty.of([MEMBERS[0], MEMBERS[0]])
    for one, two in zip(single, twice, strict=True):
        np.testing.assert_array_equal(one, two)
    assert single.mutual_information.max() == 0.0


def test_lesions_have_means_and_hits():
    predicted = np.zeros((3, 4, 6), bool)
    predicted[0, 0, 0] = predicted[1, 1, 1] = predicted[1:, 3, 4:] = True
    lesion = np.zeros_like(predicted)
    lesion[2, 3, 5] = True
    uncertainty = Uncertainty.of(MEMBERS)
    large, small = uncertainty.lesions(predicted, (5.0, 2.0, 10.0), lesion)
    assert (large.volume_ml, small.volume_ml) == (
        pytest.approx(0.4),
        pytest.approx(0.2),
    )
    assert (large.hit, small.hit) == (True, False)
    assert large.entropy == pytest.approx(uncertainty.entropy[1:, 3, 4:].mean())
    corner = [uncertainty.probability[0, 0, 0], uncertainty.probability[1, 1, 1]]
    assert small.probability == pytest.approx(np.mean(corner))
    assert uncertainty.lesions(predicted, (5.0, 2.0, 10.0))[0].hit is None
    assert uncertainty.lesions(~predicted & predicted, (5.0, 2.0, 10.0)) == ()


def test_scores_ask_the_brain_near_lesions(make_maps):
    maps = make_maps()
    brain = maps.volume > 0
    noise = GENERATOR.random(brain.shape).astype(np.float32)
    uncertainty = Uncertainty(maps.prediction, noise, noise)
    scores = score_uncertainty(maps, uncertainty, maps.lesion, brain)
    near = brain & ((maps.prediction > 0.01) | maps.lesion)
    wrong = maps.predicted != maps.lesion
    expected = roc_auc_score(wrong[near], noise[near])
    assert scores.error_auroc == pytest.approx(expected)
    assert scores.entropy_wrong == pytest.approx(noise[near & wrong].mean())
    assert scores.entropy_right == pytest.approx(noise[near & ~wrong].mean())
    assert [lesion.hit for lesion in scores.lesions] == [True]
    nothing = score_uncertainty(maps, uncertainty, maps.lesion, np.zeros_like(brain))
    assert np.isnan([nothing.error_auroc, nothing.entropy_right]).all()


def test_figures_are_drawn(make_maps):
    cases = [make_maps(), make_maps(lesion=False, found=False)]
    entropies = [binary_entropy(maps.prediction) for maps in cases]
    figure = uncertainty_figure(cases, entropies, ["a", "b"])
    assert len(figure.axes) == 6
    z = np.argmax(cases[0].lesion.sum(axis=(1, 2)))
    inside = np.where(cases[0].volume[z] > 0, entropies[0][z], 0)
    np.testing.assert_array_equal(figure.axes[4].images[0].get_array(), inside)
    sums = reliability(MEMBERS, MEMBERS < 0.4)
    diagram, histogram = reliability_figure(sums, sums).axes
    assert histogram.get_yscale() == "log"
    np.testing.assert_allclose(
        diagram.lines[1].get_ydata(), sums.label / sums.count, atol=1e-12
    )
    nothing = reliability(MEMBERS[:0], MEMBERS[:0] > 1)
    reliability_figure(nothing, nothing).canvas.draw()
