import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from adn_jax.models import convolution
from adn_jax.models import convolution_cpu as slices
from adn_jax.models.convolution import (
    convolve,
    convolve_relu,
    convolve_strided,
    convolve_upsampled,
)


def reference(volume, kernel, padding, stride=1):
    each = (padding,) * 3 if isinstance(padding, int) else padding
    return lax.conv_general_dilated(
        volume,
        kernel,
        (stride,) * 3,
        [(zeros, zeros) for zeros in each],
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    )


def upsampled_reference(volume, kernel, axes=(1, 2, 3)):
    for axis in axes:
        volume = jnp.repeat(volume, 2, axis=axis)
    return reference(volume, kernel, 1)


def draw(volume_shape, taps, features):
    random = np.random.default_rng(5)
    sides = (taps,) * 3 if isinstance(taps, int) else taps
    kernel_shape = (*sides, volume_shape[-1], features)
    return tuple(
        jnp.asarray(random.standard_normal(shape), jnp.float32)
        for shape in (volume_shape, kernel_shape)
    )


def assert_same_with_gradients(function, expected, volume, kernel):
    with jax.default_matmul_precision("highest"):
        out, pull_back = jax.vjp(jax.jit(function), volume, kernel)
        expected_out, expected_pull_back = jax.vjp(expected, volume, kernel)
        cotangent = jnp.sin(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape)
        results = (out, *pull_back(cotangent))
        references = (expected_out, *expected_pull_back(cotangent))
    for result, wanted in zip(results, references, strict=True):
        scale = np.abs(wanted).max()
        np.testing.assert_allclose(result, wanted, rtol=0, atol=1e-5 * scale)


@pytest.fixture(params=["joined taps", "pairs of slices"])
def either_form(request, set_constant):
    """Both forms of a convolution of three taps on a CPU, whatever the maps."""
    many_maps = 1 if request.param == "pairs of slices" else 10**6
    set_constant("MANY_MAPS", many_maps)


@pytest.mark.usefixtures("either_form")
@pytest.mark.parametrize(
    ("taps", "padding"),
    [(3, 1), (2, 1), (2, 0), (1, 0), ((3, 2, 1), (1, 0, 0)), ((1, 2, 3), (0, 1, 2))],
)
@pytest.mark.parametrize("shape", [(2, 3, 5, 4, 3), (1, 2, 2, 3, 1)])
def test_convolution_equals_lax(taps, padding, shape):
    assert_same_with_gradients(
        lambda v, k: convolve(v, k, padding),
        lambda v, k: reference(v, k, padding),
        *draw(shape, taps, 4),
    )


@pytest.mark.parametrize("shape", [(2, 3, 4, 5, 3), (1, 1, 1, 2, 2)])
def test_collapsed_upsampling_equals_repeat_and_convolve(shape):
    assert_same_with_gradients(
        convolve_upsampled, upsampled_reference, *draw(shape, 3, 2)
    )


@pytest.mark.usefixtures("either_form")
@pytest.mark.parametrize("strip_bytes", [1, 2**26])
@pytest.mark.parametrize("shape", [(2, 3, 17, 5, 3), (1, 1, 1, 2, 2)])
def test_collapsed_upsampling_of_y_and_x_alone(shape, strip_bytes, set_constant):
    set_constant("STRIP_BYTES", strip_bytes)
    assert_same_with_gradients(
        lambda v, k: convolve_upsampled(v, k, flat=True),
        lambda v, k: upsampled_reference(v, k, axes=(2, 3)),
        *draw(shape, 3, 2),
    )


@pytest.mark.parametrize("shape", [(2, 4, 6, 8, 3), (1, 5, 7, 4, 1), (1, 2, 3, 2, 2)])
def test_strided_convolution_equals_lax(shape):
    assert_same_with_gradients(
        convolve_strided,
        lambda v, k: reference(v, k, 1, stride=2),
        *draw(shape, 4, 2),
    )


@pytest.mark.usefixtures("either_form")
@pytest.mark.parametrize("z", [1, 2, 5])
@pytest.mark.parametrize(("taps", "padding"), [(3, 1), (2, 1), (1, 0)])
def test_strips_equal_the_whole(taps, padding, z, set_constant):
    set_constant("STRIP_BYTES", 1)
    assert_same_with_gradients(
        lambda v, k: convolve(v, k, padding),
        lambda v, k: reference(v, k, padding),
        *draw((2, z, 21, 4, 3), taps, 4),
    )


@pytest.mark.usefixtures("either_form")
@pytest.mark.parametrize("strip_bytes", [1, 2**26])
@pytest.mark.parametrize("with_shortcut", [True, False])
def test_relu_and_shortcut_inside_equal_those_behind(
    with_shortcut, strip_bytes, set_constant
):
    set_constant("STRIP_BYTES", strip_bytes)
    volume, kernel = draw((2, 3, 10, 4, 3), 3, 4)
    shortcut = jnp.asarray(
        np.random.default_rng(6).standard_normal((2, 3, 10, 4, 4)), jnp.float32
    )

    def ours(volume, kernel, shortcut):
        return convolve_relu(volume, kernel, shortcut if with_shortcut else None)

    def plain(volume, kernel, shortcut):
        out = reference(volume, kernel, 1)
        return jax.nn.relu(out + shortcut if with_shortcut else out)

    with jax.default_matmul_precision("highest"):
        out, pull_back = jax.vjp(jax.jit(ours), volume, kernel, shortcut)
        expected, expected_pull_back = jax.vjp(plain, volume, kernel, shortcut)
        cotangent = jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape)
        results = (out, *pull_back(cotangent))
        references = (expected, *expected_pull_back(cotangent))
    for result, wanted in zip(results, references, strict=True):
        scale = max(np.abs(wanted).max(), 1.0)
        np.testing.assert_allclose(result, wanted, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize(("many_maps", "products"), [(41, 3), (40, 2)])
def test_many_maps_take_fewer_products(set_constant, many_maps, products):
    set_constant("MANY_MAPS", many_maps)
    maps = 40
    volume, kernel = draw((1, 4, 16, 16, maps), 3, maps)
    compiled = jax.jit(lambda v, k: convolve(v, k, 1)).lower(volume, kernel).compile()
    least = 2 * volume.size * 9 * maps  # of one 2D convolution a slice
    flops = compiled.cost_analysis()["flops"]
    assert 0.8 * products < flops / least < 1.1 * products


def test_strips_wait_for_each_other_in_memory(set_constant):
    volume, kernel = jnp.ones((1, 4, 512, 32, 8)), jnp.ones((3, 3, 3, 8, 8))

    def temporary_bytes():
        convolved = jax.jit(lambda v, k: convolve(convolve(v, k, 1), k, 1))
        return convolved.lower(volume, kernel).compile().memory_analysis()

    whole = temporary_bytes().temp_size_in_bytes
    set_constant("STRIP_BYTES", volume.nbytes // 8)
    in_strips = temporary_bytes().temp_size_in_bytes
    assert whole > 2.9 * volume.nbytes  # three taps of the whole map
    assert in_strips < 1.7 * volume.nbytes  # the map between, and a strip


def test_the_gradient_keeps_inputs_and_result_alone():
    volume, kernel = draw((1, 4, 8, 8, 8), 3, 8)
    half = volume.astype(jnp.bfloat16)
    _, pull_back = jax.vjp(lambda v: convolve_relu(v, kernel.astype(v.dtype), v), half)
    maps = [leaf for leaf in jax.tree.leaves(pull_back) if leaf.size == volume.size]
    assert len(maps) == 2
    assert all(leaf.dtype == jnp.bfloat16 for leaf in maps)


def test_jit_equals_eager_and_half_precision_is_kept():
    volume, kernel = draw((1, 3, 4, 5, 2), 3, 3)
    np.testing.assert_allclose(
        convolve(volume, kernel, 1), reference(volume, kernel, 1), atol=2e-5
    )
    half = convolve(volume.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16), 1)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        half.astype(jnp.float32), reference(volume, kernel, 1), atol=0.3
    )


@pytest.mark.parametrize(("platform", "axes"), [("cpu", 4), ("cuda", 5)])
def test_only_the_form_of_the_platform_is_compiled(platform, axes):
    def loss(volume, kernel):
        return jnp.sum(convolve(volume, kernel, 1) ** 2)

    traced = jax.jit(jax.grad(loss, argnums=(0, 1))).trace(*draw((1, 3, 4, 5, 2), 3, 3))
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    layouts = re.findall(r"stablehlo\.convolution.*dim_numbers = \[(.*?)\]", text)
    assert len(layouts) >= 3
    assert {len(layout.split(",")) for layout in layouts} == {axes}


@pytest.mark.parametrize("flat", [False, True])
def test_the_transposed_form_of_upsampling_is_the_folded_one(flat):
    """What a GPU computes, computed here: values and both gradients."""
    keys = jax.random.split(jax.random.key(5), 3)
    volume = jax.random.normal(keys[0], (2, 3, 4, 5, 6))
    kernel = jax.random.normal(keys[1], (3, 3, 3, 6, 7))
    with jax.default_matmul_precision("highest"):
        wanted, pull_back = jax.vjp(
            partial(convolution._upsampled_folded, flat=flat), volume, kernel
        )
        cotangent = jax.random.normal(keys[2], wanted.shape)
        form = jax.jit(partial(convolution._upsampled_transposed, flat=flat))
        np.testing.assert_allclose(form(volume, kernel), wanted, rtol=0, atol=3e-5)
        gradients = jax.jit(
            partial(convolution._upsampled_transposed_gradients, flat=flat)
        )(volume, kernel, cotangent)
    for found, expected in zip(gradients, pull_back(cotangent), strict=True):
        scale = float(jnp.abs(expected).max())
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * scale)


@pytest.mark.parametrize(
    ("taps", "padding"),
    [((3, 3, 3), (1, 1, 1)), ((2, 2, 2), (0, 0, 0)), ((3, 2, 3), (1, 1, 1))],
)
def test_the_form_for_tpus_is_the_plain_one(taps, padding):
    """Slices as cases, computed here: values and the kernel's gradient."""
    keys = jax.random.split(jax.random.key(6), 3)
    volume = jax.random.normal(keys[0], (2, 4, 5, 6, 3))
    kernel = jax.random.normal(keys[1], (*taps, 3, 7))
    planes = jax.jit(partial(convolution._convolve_planes, padding=padding))
    with jax.default_matmul_precision("highest"):
        wanted, pull_back = jax.vjp(partial(reference, volume, padding=padding), kernel)
        cotangent = jax.random.normal(keys[2], wanted.shape)
        np.testing.assert_allclose(planes(volume, kernel), wanted, rtol=0, atol=2e-5)
        gradient = convolution._kernel_gradient_planes(
            volume, cotangent, kernel=kernel, padding=padding
        )
    np.testing.assert_allclose(gradient, pull_back(cotangent)[0], rtol=0, atol=1e-4)


@pytest.mark.skipif(not slices.SLOW_UNPADDED, reason="this XLA needs no row of zeros")
@pytest.mark.parametrize(("maps", "rows"), [(4, 0), (32, 1)])
def test_many_maps_without_padding_get_a_row_of_zeros(maps, rows):
    volume, kernel = draw((1, 3, 6, 6, maps), 2, 4)
    program = jax.jit(lambda v, k: convolve(v, k, 0)).lower(volume, kernel).as_text()
    assert program.count("pad = [[0, 1], [0, 0]]") == rows
    np.testing.assert_allclose(
        convolve(volume, kernel, 0), reference(volume, kernel, 0), rtol=1e-4, atol=1e-4
    )
