import numpy as np
import pytest

from adn_jax.metrics.disentanglement import auroc, disentanglement, mass_share


def scene():
    """A with 10 pathological and 30 anatomical asymmetric voxels, 60 symmetric ones."""
    asymmetry = np.zeros((1, 10, 10), np.float32)
    asymmetry[0, :4] = 0.1
    truth = np.zeros(asymmetry.shape, bool)
    truth[0, 0] = True
    return asymmetry, truth


def test_a_perfect_map_separates_and_a_constant_one_does_not():
    asymmetry, truth = scene()
    perfect = disentanglement(asymmetry, 0.1 * truth.astype(np.float32), truth)
    assert perfect.auroc == 1.0
    assert perfect.mass_share == 1.0
    assert perfect.auroc_asymmetry == 0.5
    assert perfect.mass_share_asymmetry == pytest.approx(0.25)
    constant = disentanglement(asymmetry, np.full_like(asymmetry, 0.3), truth)
    assert constant.auroc == 0.5
    assert constant.mass_share == pytest.approx(0.25)


def test_symmetric_voxels_do_not_count():
    asymmetry, truth = scene()
    pathological = 0.1 * truth.astype(np.float32)
    pathological[0, 5:] = 1.0
    truth[0, 9] = True
    assert disentanglement(asymmetry, pathological, truth).auroc == 1.0
    assert disentanglement(asymmetry, pathological, truth).mass_share == 1.0


def test_undefined_scores_are_nan():
    asymmetry, truth = scene()
    scores = disentanglement(asymmetry, np.zeros_like(asymmetry), ~truth & truth)
    assert np.isnan(scores.auroc)
    assert np.isnan(scores.mass_share)
    assert scores.mass_share_asymmetry == 0.0


def test_auroc_counts_pairs_and_ties():
    generator = np.random.default_rng(0)
    score = generator.integers(0, 5, 40).astype(np.float32)
    truth = generator.random(40) > 0.6
    pairs = score[truth][:, None] - score[~truth][None]
    expected = np.mean((pairs > 0) + 0.5 * (pairs == 0))
    assert auroc(score, truth) == pytest.approx(expected)


def test_mass_share_of_an_empty_map_is_nan():
    assert np.isnan(mass_share(np.zeros((1, 2, 2)), np.ones((1, 2, 2), bool)))
