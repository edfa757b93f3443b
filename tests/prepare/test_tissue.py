import sys

import numpy as np
import pytest

from adn_jax.errors import UserError
from adn_jax.prepare.tissue import (
    START_HU,
    atlas_maps,
    atlas_tissue,
    classify,
    import_ants,
    strongest_tissue,
)


def test_strongest_tissue_counts_the_background_in():
    maps = np.zeros((3, 1, 1, 5), np.float32)
    maps[:, 0, 0] = np.array(
        [[0.6, 0.3, 0.0], [0.1, 0.8, 0.1], [0, 0, 1], [0.1, 0.1, 0.1], [0.9, 0.1, 0]]
    ).T
    brain = np.array([[[True, True, True, True, False]]])
    assert strongest_tissue(maps, brain).ravel().tolist() == [1, 2, 3, 0, 0]


def test_classify_finds_means_that_are_off():
    rng = np.random.default_rng(0)
    shape = (6, 24, 24)
    truth = np.broadcast_to(np.arange(24) // 8, shape).astype(np.uint8)
    usual = np.array([33.0, 25.0, 6.0])
    hu = (usual[truth] + rng.normal(0, 2, shape)).astype(np.float32)
    brain = np.ones(shape, bool)
    priors = np.full((3, *shape), 1 / 3, np.float32)
    for label in range(3):
        priors[label][truth == label] += 0.2
    affine = np.diag([1.2, 1.2, 5.0, 1.0])
    found = classify(hu, brain, affine, priors)
    assert np.mean(found == truth) > 0.9


def test_missing_ants_is_told_with_the_way_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "ants", None)
    with pytest.raises(UserError, match=r"pip install adn-jax\[atlas\]"):
        import_ants()


def test_atlas_maps_are_probabilities():
    maps, affine = atlas_maps()
    assert maps.sum(axis=0).max() <= 1 + 1e-5
    assert maps.min() >= 0
    litres = maps.sum(axis=(1, 2, 3)) * np.linalg.det(affine) / 1e6
    assert 1.5 < litres.sum() < 2.1
    assert litres[0] > litres[1] > litres[2] > 0.1


@pytest.mark.slow
def test_atlas_follows_a_turned_head():
    pytest.importorskip("ants")
    maps, affine = atlas_maps()
    hu = np.tensordot(np.array(START_HU, np.float32), maps, axes=1)
    truth = strongest_tissue(maps, maps.sum(axis=0) > 0.5)
    angle = np.deg2rad(10)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    turn[:3, 3] = [8, -5, 4]
    found = atlas_tissue(hu, truth > 0, turn @ affine)
    for label, least in ((1, 0.75), (2, 0.80), (3, 0.60)):
        ours, theirs = found == label, truth == label
        assert 2 * np.sum(ours & theirs) / (ours.sum() + theirs.sum()) > least
