from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from adn_jax.config import AugmentSettings
from adn_jax.data.augment import augment, augmented_pose, draw_all
from adn_jax.geometry.rigid import Pose, half_extents_mm
from adn_jax.geometry.sampler import mirror, sample
from adn_jax.synthesis.draw import DARKEST
from adn_jax.types import Batch
from tests import golden
from tests.training.tiny import SHAPE, head

NOTHING = AugmentSettings(gamma=0.0, mirror=False, rotation_deg=0.0, translation=0.0)
EVERYTHING = AugmentSettings(
    gamma=0.3, rotation_deg=30.0, translation=0.1, zoom=0.1, brightness=0.1, noise=0.05
)
SPACING = (8.0, 10.0, 12.0)
KEY = jax.random.key(5)
ONE_BY_ONE = [
    replace(NOTHING, gamma=0.3),
    replace(NOTHING, mirror=True),
    replace(NOTHING, rotation_deg=30.0),
    replace(NOTHING, translation=0.2),
    replace(NOTHING, zoom=0.2),
    replace(NOTHING, brightness=0.1),
    replace(NOTHING, noise=0.1),
]


def batch_of(*seeds):
    heads = [head("any", seed) for seed in seeds]
    return Batch(
        volume=jnp.stack([h.volume for h in heads])[..., None],
        lesion=jnp.stack([h.lesion for h in heads])[..., None].astype(jnp.float32),
        tissue=jnp.stack([h.tissue for h in heads]),
        case=jnp.array(seeds, jnp.int32),
    )


drawn = jax.jit(draw_all, static_argnums=2)
augmented = jax.jit(augment, static_argnums=(2, 3))


@partial(jax.jit, static_argnums=2)
def seen(volume, pose, extents):
    """X of a volume and a pose."""
    matrix, _ = pose.matrices(extents)
    return sample(volume, matrix, in_plane=True)


def assert_equal(one, other, atol=0.0):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=atol)


def test_nothing_asked_nothing_done():
    assert_equal(augmented(KEY, batch_of(0, 1), NOTHING, SPACING), batch_of(0, 1))


def test_jit_equals_eager():
    jitted = augmented(KEY, batch_of(0, 1), EVERYTHING, SPACING)
    assert_equal(jitted, augment(KEY, batch_of(0, 1), EVERYTHING, SPACING), atol=2e-5)


@pytest.mark.parametrize("settings", [EVERYTHING, *ONE_BY_ONE])
def test_something_happens_and_ranges_hold(settings):
    before = batch_of(*range(6))
    after = augmented(KEY, before, settings, SPACING)
    assert jnp.abs(after.volume - before.volume).max() > 0.05
    assert after.volume.min() >= 0
    assert after.volume.max() <= 1
    assert set(np.unique(after.lesion)) <= {0.0, 1.0}
    assert set(np.unique(after.tissue)) <= {0, 1, 2, 3}
    assert after.tissue.dtype == before.tissue.dtype


def test_draw_of_a_case_is_the_same_in_any_batch():
    together = augmented(KEY, batch_of(3, 4), EVERYTHING, SPACING)
    apart = augmented(KEY, batch_of(4), EVERYTHING, SPACING)
    second = [leaf[1:] for leaf in jax.tree.leaves(together)]
    assert_equal(second, apart, atol=1e-6)


def test_key_changes_the_draw():
    one = augmented(KEY, batch_of(0), EVERYTHING, SPACING)
    other = augmented(jax.random.key(6), batch_of(0), EVERYTHING, SPACING)
    assert jnp.abs(one.volume - other.volume).max() > 0.05


def test_gamma_is_a_power_and_spares_the_outside():
    settings = replace(NOTHING, gamma=0.25)
    before = batch_of(0, 1, 2)
    after = augmented(KEY, before, settings, SPACING)
    gamma = drawn(KEY, before.case, settings).gamma
    assert (gamma >= 0.75).all()
    assert (gamma <= 1.25).all()
    expected = np.asarray(before.volume) ** np.asarray(gamma)[:, None, None, None, None]
    np.testing.assert_allclose(after.volume, expected, rtol=1e-6)
    assert not after.volume[before.volume == 0].any()


def test_mirror_flips_whole_cases():
    before = batch_of(*range(8))
    after = augmented(KEY, before, replace(NOTHING, mirror=True), SPACING)
    flips = drawn(KEY, before.case, NOTHING).flip
    assert 0 < flips.sum() < 8
    for row, flip in enumerate(flips.tolist()):
        turn = (lambda a: np.flip(a, axis=2)) if flip else np.asarray
        np.testing.assert_array_equal(after.volume[row], turn(before.volume[row]))
        np.testing.assert_array_equal(after.lesion[row], turn(before.lesion[row]))
        np.testing.assert_array_equal(after.tissue[row], turn(before.tissue[row]))


def test_rotation_is_a_true_one_in_mm_as_scipy_does_it():
    settings = replace(NOTHING, rotation_deg=30.0, translation=0.1)
    before = batch_of(0, 1)
    after = augmented(KEY, before, settings, SPACING)
    motions = drawn(KEY, before.case, settings).motion
    spacing, half = np.array(SPACING), np.array(SHAPE) / 2
    for row, (_, _, turn, x, y, _) in enumerate(golden.six_of(motions).astype(float)):
        sin, cos = np.sin(turn), np.cos(turn)
        in_mm = np.array([[1, 0, 0], [0, cos, sin], [0, -sin, cos]])
        in_voxels = in_mm * spacing / spacing[:, None]
        centre = half - 0.5
        shift = np.array([0, y, x]) * half
        expected = ndimage.affine_transform(
            np.asarray(before.volume[row, ..., 0]),
            in_voxels,
            centre - in_voxels @ centre + shift,
            order=1,
            mode="grid-constant",
        )
        np.testing.assert_allclose(after.volume[row, ..., 0], expected, atol=1e-4)


def test_labels_move_with_the_volume():
    settings = replace(NOTHING, mirror=True, rotation_deg=20.0, translation=0.1)
    before = batch_of(*range(6))
    after = augmented(KEY, before, settings, SPACING)
    dark = (after.volume[..., 0] > 0.15) & (after.volume[..., 0] < 0.35)
    lesion = after.lesion[..., 0] > 0
    assert lesion.sum() > 50
    assert (dark & lesion).sum() / lesion.sum() > 0.6


@pytest.mark.parametrize("settings", [EVERYTHING, ONE_BY_ONE[1], ONE_BY_ONE[2]])
def test_augmented_pose_leads_to_the_same_upright_head(settings):
    settings = replace(settings, gamma=0.0, zoom=0.0, brightness=0.0, noise=0.0)
    z, y, x = np.meshgrid(*((2 * np.arange(24) + 1) / 24 - 1,) * 3, indexing="ij")
    blob = np.exp(-4 * ((x - 0.1) ** 2 + 2 * (y + 0.05) ** 2 + z**2))
    volume = jnp.asarray(blob, jnp.float32)[None, ..., None].repeat(4, axis=0)
    nothing = jnp.zeros_like(volume)
    batch = Batch(volume, nothing, nothing[..., 0].astype(jnp.uint8), jnp.arange(4))
    pose = Pose.in_plane(*(jnp.full(4, number) for number in (0.2, 0.1, -0.05)))
    extents = half_extents_mm((24, 24, 24), SPACING)
    upright = seen(volume, pose, extents)
    if settings.mirror:
        flips = drawn(KEY, batch.case, settings).flip
        assert 0 < flips.sum() < 4
        chosen = flips[:, None, None, None, None]
        upright = jnp.where(chosen, mirror(upright), upright)

    moved = augmented(KEY, batch, settings, SPACING).volume
    follow = jax.jit(augmented_pose, static_argnums=(3, 4))
    again = seen(moved, follow(KEY, pose, batch.case, settings, extents), extents)
    middle = slice(6, 18)
    np.testing.assert_allclose(
        again[:, :, middle, middle], upright[:, :, middle, middle], atol=0.03
    )


def test_zoom_grows_the_head_about_the_centre():
    before = batch_of(0, 1)
    settings = replace(NOTHING, zoom=0.3)
    zoom = drawn(KEY, before.case, settings).zoom
    after = augmented(KEY, before, settings, SPACING)
    assert np.all(np.abs(zoom - 1) <= 0.3)
    for i, factor in enumerate(np.asarray(zoom)):
        middle = (np.array(SHAPE) - 1) / 2
        matrix = np.diag([1, 1 / factor, 1 / factor])
        expected = ndimage.affine_transform(
            np.asarray(before.volume[i, ..., 0]), matrix, middle - matrix @ middle,
            order=1,
        )  # fmt: skip
        np.testing.assert_allclose(
            after.volume[i, ..., 0], np.clip(expected, 0, 1), atol=1e-4
        )


def test_brightness_and_noise_stay_in_the_brain():
    before = batch_of(0, 1)
    settings = replace(NOTHING, brightness=0.1)
    drawn_here = drawn(KEY, before.case, settings)
    after = augmented(KEY, before, settings, SPACING)
    inside = np.asarray(before.volume) > 0
    added = np.asarray(drawn_here.brightness)[:, None, None, None, None]
    expected = np.where(
        inside, np.clip(before.volume + added, DARKEST, 1), before.volume
    )
    np.testing.assert_allclose(after.volume, expected, atol=1e-6)

    settings = replace(NOTHING, noise=0.05)
    level = np.asarray(drawn(KEY, before.case, settings).noise)
    after = augmented(KEY, before, settings, SPACING)
    for i in range(2):
        difference = np.asarray(after.volume - before.volume)[i]
        assert not difference[~inside[i]].any()
        assert difference[inside[i]].std() == pytest.approx(level[i], rel=0.1)
