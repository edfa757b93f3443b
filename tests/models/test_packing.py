"""The form for TPUs, computed here, against the plain one."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adn_jax.config import UNetSettings
from adn_jax.models import apply_unet, apply_unet_levels, init_unet, packing
from adn_jax.models.blocks import group_norm, max_pool
from adn_jax.models.convolution import (
    convolve,
    convolve_upsampled,
    convolve_upsampled_packed,
)
from adn_jax.models.packing import (
    level_packs,
    packed_head,
    packed_kernel,
    repack,
)


@pytest.fixture
def for_tpu(monkeypatch):
    """Programs are traced as for a TPU; none of them stays in jax's caches."""
    jax.clear_caches()
    monkeypatch.setattr(packing, "platform_in_use", lambda: "tpu")
    yield
    jax.clear_caches()


def draw(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def test_nothing_is_packed_here():
    assert level_packs((32, 64, 128), 64) == (1, 1, 1)


@pytest.mark.parametrize(
    ("widths", "columns", "packs"),
    [
        ((32, 64, 128, 256), 256, (4, 2, 1, 1)),
        ((8, 16), 64, (4, 4)),
        ((32, 64), 6, (2, 1)),
        ((48, 96), 64, (2, 1)),
    ],
)
@pytest.mark.usefixtures("for_tpu")
def test_lanes_are_filled_as_far_as_rows_divide(widths, columns, packs):
    assert level_packs(widths, columns) == packs


def test_packed_maps_are_the_same_numbers_in_the_same_order():
    volume = draw(0, 2, 3, 4, 8, 5)
    packed = repack(volume, 1, 4)
    assert packed.shape == (2, 3, 4, 2, 20)
    np.testing.assert_array_equal(packed.ravel(), volume.ravel())
    np.testing.assert_array_equal(repack(repack(packed, 4, 2), 2, 1), volume)


@pytest.mark.parametrize("pack", [2, 4])
def test_a_packed_convolution_is_the_plain_one(pack):
    volume, kernel = draw(0, 2, 3, 4, 8, 5), draw(1, 3, 3, 3, 5, 6)

    def packed(volume, kernel):
        maps = convolve(repack(volume, 1, pack), packed_kernel(kernel, pack), 1)
        return repack(maps, pack, 1)

    same_with_gradients(partial(convolve, padding=1), packed, volume, kernel)


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("pack", [2, 4])
def test_packed_upsampling_is_the_plain_one(pack, flat):
    volume, kernel = draw(0, 2, 3, 4, 4, 5), draw(1, 3, 3, 3, 5, 6)

    def packed(volume, kernel):
        small = repack(volume, 1, pack // 2)
        maps = convolve_upsampled_packed(small, kernel, flat=flat, pack=pack)
        return repack(maps, pack, 1)

    plain = partial(convolve_upsampled, flat=flat)
    same_with_gradients(plain, packed, volume, kernel)


@pytest.mark.parametrize("flat", [False, True])
def test_packed_pooling_and_its_choice_among_equals(flat):
    volume = jnp.round(draw(0, 2, 4, 4, 8, 3))  # many are equal

    def packed(volume):
        pooled = max_pool(repack(volume, 1, 4), flat=flat, pack=4)
        return repack(pooled, 2, 1)

    same_with_gradients(partial(max_pool, flat=flat), packed, volume)


def test_the_packed_norm_is_the_plain_one():
    volume, scale, bias = draw(0, 2, 3, 4, 8, 6), draw(1, 6), draw(2, 6)

    def packed(volume, scale, bias):
        return repack(group_norm(repack(volume, 1, 4), scale, bias, 3, 4), 4, 1)

    def plain(volume, scale, bias):
        return group_norm(volume, scale, bias, 3)

    same_with_gradients(plain, packed, volume, scale, bias)


def test_the_packed_head_is_the_plain_one():
    volume, kernel = draw(0, 2, 3, 4, 8, 6), draw(1, 6, 2)

    def packed(volume, kernel):
        return repack(repack(volume, 1, 4) @ packed_head(kernel, 4), 4, 1)

    same_with_gradients(jnp.matmul, packed, volume, kernel)


def same_with_gradients(plain, packed, *arguments):
    wanted, pull_back = jax.vjp(plain, *arguments)
    found, pull_back_packed = jax.vjp(jax.jit(packed), *arguments)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-5)
    cotangent = draw(9, *wanted.shape)
    gradients = pull_back(cotangent), pull_back_packed(cotangent)
    for expected, gradient in zip(*gradients, strict=True):
        scale = float(jnp.abs(expected).max())
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=3e-6 * scale)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        UNetSettings(widths=(32, 64), dropout=0.2),
        UNetSettings(widths=(8, 40), in_plane_levels=1, deep_supervision=1),
        UNetSettings(widths=(16, 32), kind="unet", dropout=0.2),
    ],
    ids=["residual", "levels", "plain"],
)
def test_a_packed_network_is_the_plain_one(monkeypatch, settings):
    """With dropout, whose choice is the same; logits and every gradient."""
    params = init_unet(jax.random.key(0), settings)
    volume, key = draw(1, 2, 2, 4, 8, 1), jax.random.key(2)

    def loss(params, volume):
        if settings.deep_supervision:
            levels = apply_unet_levels(params, volume, settings, key=key)
        else:
            levels = [apply_unet(params, volume, settings, key=key)]
        weights = [draw(7, *logits.shape) for logits in levels]
        return sum(
            (logits * weight).sum()
            for logits, weight in zip(levels, weights, strict=True)
        )

    found = []
    for platform in ("cpu", "tpu"):
        jax.clear_caches()
        monkeypatch.setattr(packing, "platform_in_use", lambda named=platform: named)
        found.append(jax.jit(jax.value_and_grad(loss, (0, 1)))(params, volume))
    jax.clear_caches()
    plain, packed = (jax.tree.leaves(each) for each in found)
    largest = max(float(jnp.abs(leaf).max()) for leaf in plain[1:])
    np.testing.assert_allclose(packed[0], plain[0], rtol=1e-4)
    for expected, gradient in zip(plain[1:], packed[1:], strict=True):
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-5 * largest)
