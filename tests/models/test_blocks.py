from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adn_jax.errors import UserError
from adn_jax.models import blocks
from adn_jax.models.blocks import EPSILON, GroupNorm, dropout, group_count, max_pool


def group_norm(volume, groups, scale, bias):
    params = {"params": {"scale": scale, "bias": bias}}
    return GroupNorm(groups).apply(params, volume)


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_group_norm_equals_torch_also_far_from_zero(offset):
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(0)
    volume = offset + random.standard_normal((2, 3, 4, 5, 6))
    scale, bias = random.standard_normal((2, 6))
    expected = torch.nn.functional.group_norm(
        torch.tensor(np.moveaxis(volume, -1, 1)), 3, *map(torch.tensor, (scale, bias))
    )
    inputs = (jnp.asarray(array, jnp.float32) for array in (volume, scale, bias))
    volume, scale, bias = inputs
    out = group_norm(volume, 3, scale, bias)
    tolerance = 1e-5 + 3e-7 * offset  # rounding of the input itself
    np.testing.assert_allclose(
        out, np.moveaxis(expected.numpy(), 1, -1), atol=tolerance
    )


def test_group_norm_computes_in_float32_and_returns_the_input_type():
    volume = jnp.asarray(np.random.default_rng(1).standard_normal((1, 2, 4, 4, 4)))
    half = volume.astype(jnp.bfloat16)
    ones, zeros = jnp.ones(4), jnp.zeros(4)
    out = group_norm(half, 2, ones, zeros)
    exact = group_norm(half.astype(jnp.float32), 2, ones, zeros)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_array_equal(out, exact.astype(jnp.bfloat16))


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_gradient_of_group_norm_equals_torch(offset):
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(4)
    volume = offset + random.standard_normal((2, 3, 4, 5, 6))
    cotangent = random.standard_normal(volume.shape)
    scale, bias = random.standard_normal((2, 6))
    theirs = [
        torch.tensor(array, requires_grad=True)
        for array in (np.moveaxis(volume, -1, 1), scale, bias)
    ]
    out = torch.nn.functional.group_norm(theirs[0], 3, *theirs[1:], EPSILON)
    out.backward(torch.tensor(np.moveaxis(cotangent, -1, 1)))
    by_volume, *rest = (each.grad.numpy() for each in theirs)

    ours = [jnp.asarray(array, jnp.float32) for array in (volume, scale, bias)]
    _, pull_back = jax.vjp(jax.jit(partial(blocks.group_norm, groups=3)), *ours)
    results = pull_back(jnp.asarray(cotangent, jnp.float32))
    tolerance = 2e-5 + 1e-6 * offset
    expected = (np.moveaxis(by_volume, 1, -1), *rest)
    for result, wanted in zip(results, expected, strict=True):
        np.testing.assert_allclose(
            result, wanted, atol=tolerance * np.abs(wanted).max()
        )


def test_group_norm_keeps_its_input_alone_for_the_gradient():
    volume = jnp.ones((1, 4, 8, 8, 4), jnp.bfloat16)
    ones = jnp.ones(4)
    _, pull_back = jax.vjp(lambda v: blocks.group_norm(v, ones, ones, 2), volume)
    maps = [leaf for leaf in jax.tree.leaves(pull_back) if leaf.size >= volume.size]
    assert [leaf.dtype for leaf in maps] == [jnp.bfloat16]


def test_group_count_is_one_for_few_channels_and_refuses_remainders():
    assert [group_count(channels, 8) for channels in (1, 7, 8, 32)] == [1, 1, 8, 8]
    with pytest.raises(UserError, match=r"12 feature maps .* 8 groups; choose widths"):
        group_count(12, 8)


def test_max_pool_equals_torch_with_ties():
    torch = pytest.importorskip("torch")
    volume = np.random.default_rng(2).integers(0, 3, (2, 4, 4, 6, 3)).astype(np.float32)
    weights = np.random.default_rng(3).standard_normal((2, 2, 2, 3, 3))
    weights = weights.astype(np.float32)
    theirs = torch.tensor(np.moveaxis(volume, -1, 1), requires_grad=True)
    expected = torch.nn.functional.max_pool3d(theirs, 2)
    expected.backward(torch.tensor(np.moveaxis(weights, -1, 1)))

    out, pull_back = jax.vjp(jax.jit(max_pool), jnp.asarray(volume))
    (gradient,) = pull_back(jnp.asarray(weights))
    np.testing.assert_array_equal(out, np.moveaxis(expected.detach().numpy(), 1, -1))
    np.testing.assert_array_equal(gradient, np.moveaxis(theirs.grad.numpy(), 1, -1))
    np.testing.assert_array_equal(out, max_pool(jnp.asarray(volume)))


@pytest.mark.parametrize("sides", [(2, 2, 2), (1, 2, 2)])
def test_max_pool_is_the_first_largest_voxel_of_each_block(sides):
    random = np.random.default_rng(2)
    volume = random.integers(0, 3, (2, 4, 4, 6, 3)).astype(np.float32)
    shape = (2, *np.array((4, 4, 6)) // sides, 3)
    cotangent = random.standard_normal(shape).astype(np.float32)
    expected = np.empty(shape, np.float32)
    expected_gradient = np.zeros_like(volume)
    for b, *place, c in np.ndindex(shape):
        corner = np.multiply(place, sides)
        block = tuple(slice(p, p + side) for p, side in zip(corner, sides, strict=True))
        voxels = volume[b][block][..., c]
        first = np.unravel_index(np.argmax(voxels), sides)
        expected[b, *place, c] = voxels.max()
        expected_gradient[b, *(corner + first), c] = cotangent[b, *place, c]

    pool = partial(max_pool, flat=sides[0] == 1)
    out, pull_back = jax.vjp(jax.jit(pool), jnp.asarray(volume))
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(
        pull_back(jnp.asarray(cotangent))[0], expected_gradient
    )
    np.testing.assert_array_equal(out, pool(jnp.asarray(volume)))


@pytest.mark.parametrize("jit", [False, True])
def test_dropout_drops_elements_at_its_rate_and_keeps_the_mean(jit):
    volume = jnp.ones((1, 20, 20, 20, 8))
    drop = jax.jit(dropout, static_argnums=(1, 3)) if jit else dropout
    out = np.asarray(drop(volume, 0.2, jax.random.key(0), 1))
    spread = 4 * np.sqrt(0.2 * 0.8 / out.size)
    assert np.mean(out == 0) == pytest.approx(0.2, abs=spread)
    assert np.unique(out[out > 0]) == pytest.approx(1.25, rel=1e-4)
    # an element is dropped whatever its neighbours in space and channels do
    together = np.mean((out[..., :-1] == 0) & (out[..., 1:] == 0))
    assert together == pytest.approx(0.04, abs=spread)


def test_dropout_without_key_or_rate_changes_nothing_and_stages_differ():
    volume, key = jnp.ones((1, 4, 4, 4, 2)), jax.random.key(0)
    np.testing.assert_array_equal(dropout(volume, 0.5, None, 0), volume)
    np.testing.assert_array_equal(dropout(volume, 0.0, key, 0), volume)
    first, again, other = (dropout(volume, 0.5, key, stage) for stage in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)
