"""Drawn heads are a pure function of key and number, and their truth is true."""

from dataclasses import replace
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adn_jax.config import PrepareSettings, StreamSettings, SystemSettings
from adn_jax.geometry.rigid import Pose
from adn_jax.pipeline.align import unlikeness
from adn_jax.synthesis.atlas import load_head_atlas
from adn_jax.synthesis.draw import draw_heads

PREPARE = PrepareSettings(shape=(8, 32, 28), spacing_mm=(16.0, 7.0, 7.0))
PLAIN = StreamSettings(
    sharpness=(0.0, 0.0),
    motion=0.0,
    slice_mm=(1.0, 1.0),
    cut=0.0,
    haemorrhage=0.0,
    infarcts=(0.0, 0.0, 0.0, 1.0),
)
"""A scanner whose picture is what is there, and three infarcts."""
WIDE = StreamSettings()
MOVED = replace(WIDE, motion=1.0)
KEY = jax.random.key(3)

run = jax.jit(partial(draw_heads, prepare=PREPARE))


@lru_cache
def draw(settings=WIDE, first=0):
    """Six heads on a coarse grid."""
    numbers = jnp.arange(first, first + 6, dtype=jnp.int32)
    return run(KEY, numbers, load_head_atlas(PREPARE.spacing_mm), settings)


def test_a_head_is_what_training_takes():
    heads = draw()
    volume, lesion, truth = heads.volume, heads.lesion, heads.truth
    brain = volume > 0
    assert volume.shape == lesion.shape == (6, *PREPARE.shape, 1)
    assert float(volume.min()) == 0.0
    assert float(volume.max()) <= 1.0
    voxel_ml = np.prod(PREPARE.spacing_mm) / 1000
    litres = brain.sum((1, 2, 3, 4)) * voxel_ml / 1000
    assert ((litres > 0.6) & (litres < 2.2)).all()
    assert not (lesion > 0)[~brain].any()
    assert ((lesion >= 0) & (lesion <= 1 + 1e-6)).all()
    np.testing.assert_array_equal(heads.tissue > 0, brain[..., 0])
    np.testing.assert_allclose(truth.tissue.sum(-1), brain[..., 0], atol=1e-5)
    np.testing.assert_array_equal(heads.case, np.arange(6))


def test_a_head_depends_on_its_key_and_number_alone():
    here, there = draw(), draw(first=4)
    for one, other in zip(jax.tree.leaves(here), jax.tree.leaves(there), strict=True):
        np.testing.assert_array_equal(one[4:], other[:2])
    assert len({bytes(np.asarray(head)) for head in here.volume}) == 6
    mixed = draw(first=-2)
    assert not mixed.volume[:2].any()
    np.testing.assert_array_equal(mixed.volume[2:], here.volume[:4])


@pytest.mark.parametrize(
    "settings", [PLAIN, WIDE, MOVED], ids=["plain", "wide", "moved"]
)
def test_the_darkening_is_what_infarcts_take(settings):
    infarcted = draw(settings)
    healthy = draw(replace(settings, infarct_loss_hu=(0.0, 0.0)))
    np.testing.assert_array_equal(healthy.truth.pathological, 0)
    np.testing.assert_array_equal(infarcted.lesion, healthy.lesion)
    within = (infarcted.volume > 0.01) & (healthy.volume < 0.99)
    taken = jnp.where(within, healthy.volume - infarcted.volume, 0.0)
    truth = jnp.where(within, infarcted.truth.pathological, 0.0)
    np.testing.assert_allclose(taken, truth, atol=1e-4)
    assert float(truth.max()) > 0.05
    # labelled is what is darker by half of the core's loss or more
    assert not ((infarcted.lesion > 0.9) & (infarcted.truth.pathological == 0)).any()


def test_no_infarct_no_label():
    heads = draw(replace(PLAIN, infarcts=(1.0, 0.0, 0.0, 0.0)))
    assert not heads.lesion.any()
    assert not heads.truth.pathological.any()


def test_the_pose_turns_heads_upright():
    even = StreamSettings(
        rotation_deg=(0.0, 0.0, 30.0),
        shift_mm=(12.0, 12.0, 0.0),
        skew=0.0,
        asymmetry_mm=0.0,
        atrophy_asymmetry=0.0,
        ventricle_asymmetry=0.0,
        regional_hu=0.0,
        sulci=(0.0, 0.0),
        infarcts=(1.0, 0.0, 0.0, 0.0),
        cyst=0.0,
        lacunes=0.0,
        calcified=0.0,
        craniectomy=0.0,
        motion=0.0,
        noise_hu=(0.0, 0.0),
        streak_hu=(0.0, 0.0),
        bone_hu=(0.0, 0.0),
    )
    heads = draw(even)
    system = SystemSettings(prepare=PREPARE)
    pose = heads.truth.pose

    @jax.jit
    def unlike(turn_deg, shift):
        moved = Pose(pose.rotation, pose.translation.at[:, 0].add(shift))
        return unlikeness(heads.volume, moved.turned(jnp.deg2rad(turn_deg)), system)

    at_pose = unlike(0.0, 0.0)
    assert float(jnp.abs(pose.in_plane_angle).max()) > 0.2
    for turn, shift in ((8.0, 0.0), (-8.0, 0.0), (0.0, 0.08), (0.0, -0.08)):
        assert (at_pose < unlike(turn, shift)).all()
    assert float(at_pose.max()) < 0.2


@pytest.mark.parametrize(
    ("change", "darker"),
    [
        ({"csf_hu": (0.0, 0.0)}, True),
        ({"grey_hu": (50.0, 50.0)}, False),
        ({"dark_white_hu": (20.0, 20.0), "dark_white_mm": (20.0, 20.0)}, True),
        ({"offset_hu": (-8.0, -8.0)}, True),
    ],
)
def test_ranges_are_obeyed(change, darker):
    still = draw(replace(PLAIN, noise_hu=(0.0, 0.0)))
    other = draw(replace(PLAIN, noise_hu=(0.0, 0.0), **change))
    difference = (other.volume - still.volume).sum((1, 2, 3, 4))
    assert ((difference < 0) == darker).all()


def test_fresh_infarcts_take_less_of_white_matter():
    alike, grey_first = (
        draw(replace(PLAIN, infarct_white=(share, share))) for share in (1.0, 0.0)
    )
    np.testing.assert_array_equal(alike.lesion, grey_first.lesion)
    taken, left = (np.asarray(each.truth.pathological) for each in (alike, grey_first))
    grey, white, _ = np.moveaxis(np.asarray(alike.truth.tissue), -1, 0)
    core = taken > 0.02
    share = left[core] / taken[core]
    assert (share < 1 + 1e-5).all()
    np.testing.assert_allclose(share[grey[..., None][core] > 0.5], 1.0, atol=1e-5)
    in_white = share[white[..., None][core] > 0.9]
    assert in_white.min() < 0.8  # fresh
    assert in_white.max() == pytest.approx(1.0, abs=1e-5)  # old


def test_mottled_infarcts_keep_their_label_and_their_mean():
    even, mottled = (
        draw(replace(PLAIN, infarct_mottle=(deviation, deviation)))
        for deviation in (0.0, 0.4)
    )
    np.testing.assert_array_equal(even.lesion, mottled.lesion)
    taken, other = (np.asarray(each.truth.pathological) for each in (even, mottled))
    # in the faintest there is no limit at the density of CSF
    core = (taken > 0.01) & (taken < 0.1)
    share = other[core] / taken[core]
    assert share.min() >= 0
    assert share.mean() == pytest.approx(1.0, abs=0.1)
    assert 0.15 < share.std() < 0.45


def test_shading_is_a_slope_across_the_head():
    still = replace(PLAIN, noise_hu=(0.0, 0.0), infarcts=(1.0, 0.0, 0.0, 0.0))
    even, shaded = (
        np.asarray(draw(replace(still, shading_hu=size)).volume[..., 0])
        for size in (0.0, 6.0)
    )
    low, high = PREPARE.window_hu
    for one, other in zip(even, shaded, strict=True):
        within = (np.minimum(one, other) > 0.01) & (np.maximum(one, other) < 0.95)
        added = (high - low) * (other - one)[within]
        places = np.argwhere(within) * PREPARE.spacing_mm
        design = np.column_stack([places, np.ones(len(places))])
        slope, *_ = np.linalg.lstsq(design, added, rcond=None)
        assert np.abs(slope[:3]).max() * 70 > 1
        assert np.std(added - design @ slope) < 0.35 * np.std(added)
