import sys

import numpy as np
import pytest

from adn_jax.errors import UserError
from adn_jax.prepare import tissue
from adn_jax.prepare.tissue import classify, import_ants, strongest_tissue


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
    maps = [image.get_fdata() for image in tissue.atlas_maps()]
    total = sum(maps)
    assert total.max() <= 1 + 1e-5
    assert all(0.0 <= one.min() < one.max() <= 1.0 for one in maps)
    litres = [one.sum() / 1e6 for one in maps]
    assert 1.5 < sum(litres) < 2.1
    assert litres[0] > litres[1] > litres[2] > 0.1
