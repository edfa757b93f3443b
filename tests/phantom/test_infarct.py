"""Infarcts: sizes as stated, inside the tissue of one side."""

from dataclasses import replace

import numpy as np
import pytest

from adn_jax.phantom.head import head_to_world, points_in_head, sample_points
from adn_jax.phantom.infarct import (
    add_infarcts,
    blob_distance,
    draw_sizes_ml,
    draw_total_ml,
)
from adn_jax.phantom.settings import EASY, HARD

POSE = head_to_world(np.array([4.0, 1.0, -15.0]), np.array([5.0, 3.0, 0.0]))


def ellipsoid_brain(difficulty):
    """A brain of nothing but tissue with a hole of CSF, and its head coordinates."""
    grid = sample_points(10.0, difficulty)
    position = points_in_head(grid.z, grid.y, grid.x, POSE)
    centred = (position - np.reshape([0, -15, 8], (3, 1, 1, 1))) / np.reshape(
        [65, 80, 60], (3, 1, 1, 1)
    )
    radius = np.sqrt((centred**2).sum(0))
    return grid, position, ((radius < 1) & (radius > 0.3)).astype(np.float32)


def test_hard_sizes_have_the_quantiles_of_patients():
    rng = np.random.default_rng(0)
    volumes = [draw_total_ml(rng, HARD) for _ in range(4000)]
    low, median, high = np.quantile(volumes, (0.1, 0.5, 0.9))
    assert low == pytest.approx(2.3, rel=0.15)
    assert median == pytest.approx(12.5, rel=0.1)
    assert high == pytest.approx(108, rel=0.15)
    assert min(volumes) >= 0.5
    assert max(volumes) <= 334


def test_easy_sizes_are_never_small():
    rng = np.random.default_rng(0)
    volumes = [draw_total_ml(rng, EASY) for _ in range(2000)]
    assert min(volumes) >= 8
    assert np.median(volumes) == pytest.approx(30, rel=0.1)


def test_several_infarcts_share_the_volume():
    rng = np.random.default_rng(1)
    sizes = [draw_sizes_ml(rng, HARD) for _ in range(500)]
    counts = np.bincount([len(parts) for parts in sizes], minlength=4) / 500
    np.testing.assert_allclose(counts[1:], HARD.infarcts, atol=0.07)
    assert all(parts == tuple(sorted(parts, reverse=True)) for parts in sizes)
    assert all(0.4 < sum(parts) < 335 for parts in sizes)


@pytest.mark.parametrize("seed", range(4))
def test_an_infarct_has_its_volume_in_the_tissue_of_its_side(seed):
    difficulty = replace(EASY, in_plane=64, infarcts=(1.0,))
    grid, position, tissue = ellipsoid_brain(difficulty)
    weight, loss, (infarct,) = add_infarcts(
        np.random.default_rng(seed), tissue, POSE, grid, difficulty
    )
    side = 1 if infarct.side == "right" else -1
    darkened = loss > 0
    assert (side * position[0][darkened] > 0).all()
    assert (tissue[darkened] > 0).all()
    voxel_ml = 165 / len(grid.z) * (240 / 64) ** 2 / 1000
    measured = (weight >= 0.5).sum() * voxel_ml
    assert measured == pytest.approx(infarct.volume_ml, rel=0.05)
    assert 8 <= infarct.loss_hu <= 12
    assert loss.max() == pytest.approx(infarct.loss_hu, rel=1e-3)
    rim = (weight > 0.01) & (weight < 0.99)
    assert rim.sum() > 0.2 * darkened.sum()


def test_further_infarcts_change_sides_as_often_as_asked():
    difficulty = replace(HARD, in_plane=32, infarcts=(0.0, 1.0), other_side=1.0)
    grid, _, tissue = ellipsoid_brain(difficulty)
    _, _, drawn = add_infarcts(np.random.default_rng(0), tissue, POSE, grid, difficulty)
    assert {infarct.side for infarct in drawn} == {"left", "right"}
    difficulty = replace(difficulty, other_side=0.0)
    _, _, drawn = add_infarcts(np.random.default_rng(0), tissue, POSE, grid, difficulty)
    assert len({infarct.side for infarct in drawn}) == 1


def test_an_infarct_larger_than_its_side_leaves_some_tissue():
    difficulty = replace(
        EASY,
        in_plane=32,
        infarct_quantiles_ml=(5000.0, 6000.0, 7000.0),
        infarct_limits_ml=(4000.0, 9000.0),
        infarcts=(1.0,),
    )
    grid, position, tissue = ellipsoid_brain(difficulty)
    weight, _, (infarct,) = add_infarcts(
        np.random.default_rng(0), tissue, POSE, grid, difficulty
    )
    side = 1 if infarct.side == "right" else -1
    own = (side * position[0] > 2) & (tissue > 0.5)
    assert 0.5 < (weight[own] >= 0.5).mean() < 0.65


def test_stretching_a_blob_keeps_its_volume():
    points = np.random.default_rng(0).uniform(-60, 60, (3, 200_000)).astype(np.float32)
    within = blob_distance(np.random.default_rng(1), points, np.zeros(3, np.float32))
    volume = (within < 20).mean() * 120**3
    assert volume == pytest.approx(4 / 3 * np.pi * 20**3, rel=0.05)
