"""U-Nets whose first levels keep z, and whose lower levels give logits, too."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from adn_jax.config import UNetSettings
from adn_jax.distributed.mesh import device_mesh
from adn_jax.errors import UserError
from adn_jax.models import (
    apply_unet,
    apply_unet_levels,
    init_unet,
    network,
)

KEY = jax.random.key(0)
KINDS = ["residual_unet", "unet"]
SHAPE = (2, 4, 8, 8)
NET = UNetSettings(
    widths=(2, 4, 4), groups=2, dropout=0.0, in_plane_levels=1, deep_supervision=1
)


def draw(settings):
    """A volume of two channels and parameters, none of them 0."""
    params = init_unet(KEY, settings, 2)
    params = jax.tree.map(lambda leaf: leaf + 0.1 * jnp.sin(leaf + 1), params)
    return params, jax.random.uniform(jax.random.key(1), (*SHAPE, 2))


def convolve(volume, kernel):
    return lax.conv_general_dilated(
        volume, kernel, (1, 1, 1), "SAME", dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
    )


def norm_convolution(layer, volume, shortcut=0.0):
    channels = volume.shape[-1]
    groups = 2 if channels % 2 == 0 else 1
    grouped = volume.reshape(*volume.shape[:4], groups, -1)
    centred = grouped - grouped.mean((1, 2, 3, 5), keepdims=True)
    variance = (centred**2).mean((1, 2, 3, 5), keepdims=True)
    normalised = (centred / jnp.sqrt(variance + 1e-5)).reshape(volume.shape)
    normalised = normalised * layer["norm"]["scale"] + layer["norm"]["bias"]
    out = convolve(normalised, layer["convolution"]["kernel"])
    return jnp.maximum(out + shortcut, 0)


def block(parts, volume):
    first = norm_convolution(parts["conv_1"], volume)
    second = norm_convolution(parts["conv_2"], first)
    if "conv_3" not in parts:
        return second
    return norm_convolution(parts["conv_3"], second, first)


def blocks_of(volume, pool):
    """Each block of voxels as two axes beside its place."""
    b, z, y, x, c = volume.shape
    pz, py, px = pool
    return volume.reshape(b, z // pz, pz, y // py, py, x // px, px, c)


def repeat(volume, pool):
    for axis, times in enumerate(pool, 1):
        volume = jnp.repeat(volume, times, axis=axis)
    return volume


def reference(params, volume, pools, kind):
    """Logits of every decoder level, the finest first, layer by layer in plain jnp."""
    maps = [block(params["encoder_0"], volume)]
    for level, pool in enumerate(pools, 1):
        pooled = blocks_of(maps[-1], pool).max((2, 4, 6))
        maps.append(block(params[f"encoder_{level}"], pooled))
    out, decoded = maps[-1], []
    for level, (skip, pool) in enumerate(zip(maps[-2::-1], pools[::-1], strict=True)):
        grown = repeat(out, pool)
        if kind == "unet":
            joined = jnp.concatenate([skip, grown], axis=-1)
        else:
            up = params[f"up_{level}"]
            joined = convolve(grown, up["kernel"]) + up["bias"] + skip
        out = block(params[f"decoder_{level}"], joined)
        decoded.append(out)
    heads = ["head", "side_head_1"]
    return tuple(
        jnp.einsum("bzyxc,co->bzyxo", maps, params[name]["kernel"][0, 0, 0])
        + params[name]["bias"]
        for name, maps in zip(heads, decoded[::-1], strict=True)
    )


def assert_close(found, expected):
    for ours, wanted in zip(
        jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
    ):
        scale = max(np.abs(wanted).max(), 1e-3)
        np.testing.assert_allclose(ours, wanted, rtol=0, atol=1e-3 * scale)


def with_gradient(function, params, volume):
    """Logits of all levels, and the gradient of a sum that all of them are part of."""

    def total(params, volume):
        levels = function(params, volume)
        return sum(jnp.sin(3 * each).mean() for each in levels), levels

    part = jax.value_and_grad(total, (0, 1), has_aux=True)
    with jax.default_matmul_precision("highest"):
        (_, levels), gradient = jax.jit(part)(params, volume)
    return levels, gradient


@pytest.mark.parametrize("kind", KINDS)
def test_every_level_equals_plain_layers_also_where_two_devices_share_rows(kind):
    settings = replace(NET, kind=kind)
    params, volume = draw(settings)
    plain = partial(reference, pools=[(1, 2, 2), (2, 2, 2)], kind=kind)
    expected = with_gradient(plain, params, volume)
    ours = partial(apply_unet_levels, settings=settings)
    levels, gradient = with_gradient(ours, params, volume)
    assert_close((levels, gradient), expected)
    with jax.set_mesh(device_mesh(2, spatial_shards=2)):
        assert_close(with_gradient(ours, params, volume), expected)
    assert [logits.shape[1:4] for logits in levels] == [(4, 8, 8), (4, 4, 4)]
    for path, leaf in jax.tree.leaves_with_path(gradient[0]):
        # with one channel a group, the bias before a norm would rightly have none
        if leaf.shape[-1] > 2:
            assert np.abs(leaf).max() > 1e-7, jax.tree_util.keystr(path)
    for name in ("head", "side_head_1"):
        assert np.abs(gradient[0][name]["kernel"]).max() > 1e-7


def test_the_finest_level_is_what_the_network_gives():
    settings = replace(NET, widths=(2, 2, 2), dropout=0.2)
    params, volume = draw(settings)
    volume = volume[:1, :2, :4, :4]
    levels = apply_unet_levels(params, volume, settings, key=KEY)
    logits = apply_unet(params, volume, settings, key=KEY)
    np.testing.assert_allclose(levels[0], logits, rtol=0, atol=1e-5)
    with jax.disable_jit():
        eager = apply_unet_levels(params, volume, settings, key=KEY)
    for ours, expected in zip(levels, eager, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_defaults_have_no_further_parameters(kind):
    def tree(**changes):
        settings = replace(NET, kind=kind, **changes)
        return jax.eval_shape(partial(init_unet, settings=settings), KEY)

    plain = tree(in_plane_levels=0, deep_supervision=0)
    assert tree(deep_supervision=0) == plain
    assert tree().keys() - plain.keys() == {"side_head_1"}
    assert tree()["side_head_1"]["kernel"].shape == (1, 1, 1, 4, 1)


def test_z_halves_less_often():
    thick = UNetSettings(in_plane_levels=2)
    network(thick).check_shape((10, 64, 64))
    assert network(thick).deepest_rows((10, 64, 64)) == 8
    message = (
        r"of 11 x 60 x 64 voxels .* 4 levels, which needs sizes that are multiples of "
        r"8 along y and x, and of 2 along z; the nearest that fits is 12 x 64 x 64:"
    )
    with pytest.raises(UserError, match=message):
        network(thick).check_shape((11, 60, 64))
    with pytest.raises(UserError, match=r"multiples of 8; the nearest .* 8 x 64 x 64"):
        network(UNetSettings()).check_shape((10, 64, 64))
