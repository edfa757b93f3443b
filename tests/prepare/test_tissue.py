import numpy as np
import pytest

from adn_jax.metrics.overlap import dice
from adn_jax.prepare import tissue as module
from adn_jax.prepare.tissue import (
    LARGEST_CSF_HU,
    SPREAD_HU,
    USUAL_HU,
    Atlas,
    atlas_tissue,
    blur_slices,
    densities,
    icbm_atlas,
    mixture,
    moments,
    neighbours,
    strongest_tissue,
)

SHAPE = (6, 24, 24)
SPACING_MM = (5.0, 1.2, 1.2)
AFFINE = np.diag([1.2, 1.2, 5.0, 1.0])
TRUTH = np.broadcast_to(np.arange(24) // 8, SHAPE).astype(np.uint8)
"""Three slabs, one of each tissue."""


def noisy(means, spread_hu=4.0):
    rng = np.random.default_rng(0)
    noise = rng.normal(0, spread_hu, SHAPE)
    return (np.array(means)[TRUTH] + noise).astype(np.float32)


def vague_priors(lead=0.2):
    priors = np.full((3, *SHAPE), 1 / 3, np.float32)
    for label in range(3):
        priors[label][label == TRUTH] += lead
    return priors


def test_strongest_tissue_counts_the_background_in():
    maps = np.zeros((3, 1, 1, 5), np.float32)
    maps[:, 0, 0] = np.array(
        [[0.6, 0.3, 0.0], [0.1, 0.8, 0.1], [0, 0, 1], [0.1, 0.1, 0.1], [0.9, 0.1, 0]]
    ).T
    brain = np.array([[[True, True, True, True, False]]])
    assert strongest_tissue(maps, brain).ravel().tolist() == [1, 2, 3, 0, 0]


def test_moments_are_those_of_the_weighted_values():
    rng = np.random.default_rng(1)
    hu = rng.normal(30, 5, 4000).astype(np.float32)
    shares = rng.random((3, 4000), np.float32)
    mean, spread = moments(hu, shares)
    for tissue in range(3):
        expected = np.average(hu, weights=shares[tissue])
        expected = min(expected, LARGEST_CSF_HU) if tissue == 2 else expected
        variance = np.average((hu - expected) ** 2, weights=shares[tissue])
        assert mean[tissue] == pytest.approx(expected, rel=1e-4)
        limited = np.clip(np.sqrt(variance), *SPREAD_HU)
        assert spread[tissue] == pytest.approx(limited, rel=1e-3)


def test_neighbours_leave_the_voxel_itself_out():
    shares = np.zeros((3, 5, 9, 9), np.float32)
    shares[0, 2, 4, 4] = 1
    found = neighbours(shares, SPACING_MM)
    assert found[0, 2, 4, 4] == pytest.approx(0, abs=1e-6)
    assert found[0, 2, 4, 5] > found[0, 2, 4, 6] > 0
    assert found[0, 2, 4, 5] > 10 * found[0, 3, 4, 4] > 0
    assert found.sum() == pytest.approx(1, rel=0.02)


def test_mixture_finds_means_that_are_off():
    brain = np.ones(SHAPE, bool)
    hu = noisy((32.0, 24.0, 5.0), spread_hu=2.0)
    shares = mixture(hu, brain, brain, vague_priors(), SPACING_MM)
    np.testing.assert_allclose(shares.sum(axis=0), 1, rtol=1e-5)
    assert np.mean(shares.argmax(axis=0) == TRUTH) > 0.98


def test_mixture_smooths_what_noise_breaks():
    brain = np.ones(SHAPE, bool)
    hu = noisy(USUAL_HU, spread_hu=5.0)
    alone = np.abs(hu - np.array(USUAL_HU)[:, None, None, None]).argmin(axis=0)
    shares = mixture(hu, brain, brain, vague_priors(0.05), SPACING_MM)
    right = np.mean(shares.argmax(axis=0) == TRUTH)
    assert right > 0.92 > 0.87 > np.mean(alone == TRUTH)


def test_a_mixed_voxel_belongs_to_its_larger_part():
    mean, spread = np.array(USUAL_HU, np.float32), np.full(3, 2.0, np.float32)
    hu = np.array([12.0, 20.0, 25.0, 33.0], np.float32).reshape(1, 1, 4)
    grey, white, csf = densities(hu, mean, spread)[1][:, 0, 0]
    assert (white == 0).all()
    assert (csf > grey).tolist() == [True, True, False, False]
    wide = np.linspace(-60, 110, 3401, dtype=np.float32).reshape(1, 1, -1)
    pure, total = (
        one.sum(axis=(1, 2, 3)) * 0.05 for one in densities(wide, mean, spread)
    )
    np.testing.assert_allclose(total + pure, 1, rtol=1e-3)


def test_maps_are_blurred_to_thick_slices_alone():
    maps = np.zeros((3, 9, 2, 2), np.float32)
    maps[0, 4] = 1
    assert blur_slices(maps, 4.0, 5.0) is maps
    thick = blur_slices(maps, 10.0, 5.0)
    assert thick[0, :, 0, 0].sum() == pytest.approx(1, rel=1e-3)
    profile = thick[0, :, 0, 0]
    width = np.sqrt((profile * (np.arange(9) - 4) ** 2).sum()) * 2.3548
    assert width == pytest.approx(np.sqrt(4 - 1), rel=0.05)


def test_outside_the_brain_is_no_tissue():
    brain = TRUTH < 2
    shares = mixture(noisy(USUAL_HU), brain, brain, vague_priors(), SPACING_MM)
    assert not shares[:, ~brain].any()


def test_the_infarct_takes_its_tissue_from_the_atlas():
    brain = np.ones(SHAPE, bool)
    lesion = np.zeros(SHAPE, bool)
    lesion[1:5, 8:16, 1:7] = True  # in grey matter
    hu = np.where(lesion, np.float32(8.0), noisy(USUAL_HU))
    priors = vague_priors()
    blind = mixture(hu, brain, ~lesion, priors, SPACING_MM).argmax(axis=0)
    seeing = mixture(hu, brain, brain, priors, SPACING_MM).argmax(axis=0)
    assert np.mean(blind[lesion] == 0) > 0.99
    assert np.mean(seeing[lesion] == 2) > 0.5


def test_labels_of_a_scan(monkeypatch):
    priors = vague_priors()
    asked = []

    def load(folder):
        asked.append(folder)
        return Atlas(priors, AFFINE)

    monkeypatch.setattr(module, "load_atlas", load)
    monkeypatch.setattr(Atlas, "lay_over", lambda *_: (priors, 0.93))
    brain = np.zeros(SHAPE, bool)
    brain[1:5, 2:22, 2:22] = True
    labels, overlap = atlas_tissue(noisy(USUAL_HU), brain, AFFINE, 5.0, atlas="mine")
    assert asked == ["mine"]
    assert overlap == 0.93
    assert labels.dtype == np.uint8
    assert not labels[~brain].any()
    assert np.mean(labels[brain] == 1 + TRUTH[brain]) > 0.95


@pytest.mark.slow
def test_the_atlas_follows_a_turned_and_squeezed_head():
    pytest.importorskip("ants")
    atlas = icbm_atlas()
    maps = atlas.maps[:, ::2, ::2, ::2]  # 4 mm, for time
    hu = np.tensordot(np.array(USUAL_HU, np.float32), maps, axes=1)
    hu += np.random.default_rng(0).normal(0, 4, hu.shape).astype(np.float32)
    truth = strongest_tissue(maps, maps.sum(axis=0) > 0.5)
    angle = np.deg2rad(10)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    turn @= np.diag([0.95, 1.0, 0.92, 1.0])
    turn[:3, 3] = [8, -5, 4]
    affine = turn @ atlas.affine @ np.diag([2.0, 2.0, 2.0, 1.0])
    found, overlap = atlas_tissue(hu, truth > 0, affine, 1.8)
    assert overlap > 0.95
    for label, least in ((1, 0.85), (2, 0.85), (3, 0.75)):
        assert dice(found == label, truth == label) > least
