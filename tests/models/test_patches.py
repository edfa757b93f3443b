from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adn_jax.models.patches import Patch, cut, draw_starts, over_patches

WINDOW = Patch(inner=(2, 3, 4), margin=(1, 0, 2))


def random_volume(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_cut_equals_slices_of_a_padded_volume_wherever_windows_lie():
    volume = random_volume(2, 5, 6, 7, 2)
    starts = np.random.default_rng(1).integers(-12, 12, (2, 40, 3))
    far = 20
    padded = np.pad(volume, ((0, 0), (far, far), (far, far), (far, far), (0, 0)))

    def expected(case, start):
        first = far + start - np.array(WINDOW.margin)
        z, y, x = (slice(i, i + n) for i, n in zip(first, WINDOW.outer, strict=True))
        return padded[case, z, y, x]

    out = cut(jnp.asarray(volume), jnp.asarray(starts, jnp.int32), WINDOW)
    assert WINDOW.outer == (4, 3, 8)
    np.testing.assert_array_equal(
        out, [[expected(case, start) for start in starts[case]] for case in (0, 1)]
    )
    mask = jnp.asarray(volume > 0)
    inside = jax.jit(cut, static_argnums=2)(mask, jnp.asarray(starts), WINDOW)
    np.testing.assert_array_equal(inside, out > 0)


def test_gradient_of_cut_counts_the_windows_that_see_a_voxel():
    starts = jnp.array([[[0, 0, 0], [2, 1, 3], [-9, 0, 0]]])
    volume = jnp.zeros((1, 4, 4, 6, 1))
    gradient = jax.jit(jax.grad(lambda v: cut(v, starts, WINDOW).sum()))(volume)
    expected = np.zeros((4, 4, 6))
    expected[0:3, 0:3, 0:6] += 1
    expected[1:4, 1:4, 1:6] += 1
    np.testing.assert_array_equal(gradient[0, ..., 0], expected)


def neighbours_sum(windows):
    """Of each inner voxel, the sum with its neighbours along z and x, and itself."""
    z, y, x = (slice(m, -m or None) for m in WINDOW.margin)
    inner = windows[:, z, y, x]
    total = windows[:, 2:, y, x] + windows[:, :-2, y, x] + inner
    total += windows[:, z, y, 4:] + windows[:, z, y, :-4]
    return jnp.concatenate([total, inner], axis=-1)


@pytest.mark.parametrize("sizes", [(2, 3, 4), (5, 7, 9), (1, 2, 12)])
def test_windows_side_by_side_equal_the_volume_at_once(sizes):
    volume = random_volume(2, *sizes, 1)
    padded = np.pad(volume, ((0, 0), (1, 1), (0, 0), (2, 2), (0, 0)))
    total = padded[:, 2:, :, 2:-2] + padded[:, :-2, :, 2:-2] + volume
    total += padded[:, 1:-1, :, 4:] + padded[:, 1:-1, :, :-4]
    compute = jax.jit(lambda v: over_patches(neighbours_sum, v, WINDOW))
    out = compute(jnp.asarray(volume))
    np.testing.assert_allclose(out[..., :1], total, atol=1e-5)
    np.testing.assert_array_equal(out[..., 1:], volume)


def test_over_patches_holds_the_maps_of_one_window():
    def wide(windows):
        maps = jnp.sin(windows * jnp.arange(1.0, 65.0))
        return maps.sum(axis=-1, keepdims=True)

    window = Patch((4, 8, 8), (0, 0, 0))
    volume = jnp.zeros((1, 16, 32, 32, 1))
    compute = jax.jit(
        lambda v: over_patches(lambda w: wide(jnp.cumsum(w, 1)), v, window)
    )
    memory = compute.lower(volume).compile().memory_analysis()
    one_window = 4 * 4 * 8 * 8 * 64
    assert memory.temp_size_in_bytes < 3 * volume.nbytes + 3 * one_window


SHAPE = (6, 20, 24)

SQUARE = Patch((3, 5, 5), (4, 4, 4))

VOXEL = Patch((1, 1, 1), (0, 0, 0))

COUNT = 24_000


def two_cases():
    """A lesion of 12 voxels in a brain, and a brain without."""
    lesion, brain = np.zeros((2, *SHAPE, 1), np.float32), np.zeros((2, *SHAPE, 1), bool)
    brain[:, 1:5, 4:16, 5:20] = True
    lesion[0, 2:4, 6:9, 10:12] = 0.5
    lesion[:, 4, 4:8, 6:9] = 0.49
    return jnp.asarray(lesion), jnp.asarray(brain)


@partial(jax.jit, static_argnums=(3, 4, 5))
def draw(keys, lesion, brain, window, count, share):
    return draw_starts(keys, lesion, brain, window, count, share)


def test_windows_are_centred_on_each_voxel_of_their_kind_equally_often():
    lesion, brain = two_cases()
    keys = jax.random.split(jax.random.key(0), 2)
    starts = np.asarray(draw(keys, lesion, brain, VOXEL, COUNT, 0.25))
    ill = np.asarray(lesion >= 0.5)
    masks = {
        (0, True): ill[0],
        (0, False): np.asarray(brain[0]) & ~ill[0],
        (1, True): brain[1],
        (1, False): brain[1],
    }
    for (case, first), mask in masks.items():
        drawn = starts[case, : COUNT // 4] if first else starts[case, COUNT // 4 :]
        times = np.zeros(SHAPE)
        np.add.at(times, tuple(drawn.T), 1)
        mask = np.asarray(mask)[..., 0]
        assert not times[~mask].any()
        mean = len(drawn) / mask.sum()
        chi_square = np.sum((times[mask] - mean) ** 2) / mean
        free = mask.sum() - 1
        assert abs(chi_square - free) < 4 * np.sqrt(2 * free)


def test_windows_lie_in_the_volume_and_keep_their_voxel():
    lesion, brain = two_cases()
    lesion = lesion.at[0].set(0).at[0, 0, 0, 23].set(1.0)
    keys = jax.random.split(jax.random.key(1), 2)
    starts = np.asarray(draw(keys, lesion, brain, SQUARE, 200, 0.5))
    assert np.all(starts >= 0)
    assert np.all(starts + SQUARE.inner <= SHAPE)
    np.testing.assert_array_equal(starts[0, :100], [[0, 0, 19]] * 100)


def test_a_window_that_covers_an_axis_has_the_volume_in_its_middle():
    lesion, brain = two_cases()
    keys = jax.random.split(jax.random.key(2), 2)
    starts = draw(keys, lesion, brain, Patch((9, 20, 5), (0, 0, 0)), 30, 0.5)
    np.testing.assert_array_equal(starts[..., 0], -2)
    np.testing.assert_array_equal(starts[..., 1], 0)
    assert len(np.unique(starts[..., 2])) > 4


def test_all_lesion_and_no_brain_have_windows_too():
    lesion, brain = two_cases()
    lesion, brain = (
        lesion.at[0].set(brain[0].astype(jnp.float32)),
        brain.at[1].set(False),
    )
    keys = jax.random.split(jax.random.key(3), 2)
    voxels = np.asarray(draw(keys, lesion, brain, VOXEL, COUNT, 0.25))
    assert np.all(brain[0, ..., 0][tuple(voxels[0].T)])
    np.testing.assert_array_equal(voxels[1], [[3, 10, 12]] * COUNT)


def test_the_windows_of_a_case_depend_on_its_key_alone():
    lesion, brain = two_cases()
    keys = jax.random.split(jax.random.key(1), 2)
    both = draw(keys, lesion, brain, SQUARE, 200, 0.5)
    swapped = draw(keys[::-1], lesion[::-1], brain[::-1], SQUARE, 200, 0.5)
    np.testing.assert_array_equal(swapped[::-1], both)
    assert np.any(both != draw(keys[::-1], lesion, brain, SQUARE, 200, 0.5))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_all_or_none_of_the_windows_are_around_a_lesion(share):
    shapes = jax.eval_shape(two_cases)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2))
    drawn = jax.eval_shape(lambda *of: draw(*of, SQUARE, 4, share), keys, *shapes)
    assert drawn.shape == (2, 4, 3)
    assert drawn.dtype == jnp.int32
