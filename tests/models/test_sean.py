"""SEAN: sizes, the attention against loops, what sees what, running statistics."""

from dataclasses import replace
from functools import cache, partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adn_jax.config import SymmetryNetSettings
from adn_jax.errors import UserError
from adn_jax.models.patches import Patch
from adn_jax.models.sean import (
    SymmetryAttention,
    UpSlices,
    apply_sean,
    check_slices,
    init_sean,
    sean_patch,
    window_count,
)

KEY = jax.random.key(0)
SMALL = SymmetryNetSettings(widths=(2, 4), windows=(2, 2))


@pytest.fixture(scope="module")
def variables():
    return init_sean(KEY, SMALL, 2)


@pytest.fixture(scope="module")
def windows():
    return jax.random.uniform(jax.random.key(1), (2, 3, 4, 8, 2))


def expected_parameters(widths, inputs):
    def double(taps, before, features):
        norms = 2 * 2 * features
        return taps * before * features + taps * features**2 + norms

    encoder = sum(
        double(27, before, features)
        for before, features in zip((inputs, *widths[:-1]), widths, strict=True)
    )
    deepest = widths[-1]
    attention = 4 * deepest * (deepest // 2) + deepest**2
    decoder = sum(
        4 * below * features + features + double(9, 2 * features, features)
        for features, below in pairwise(widths)
    )
    return encoder + attention + decoder + widths[0] + 1


@pytest.mark.parametrize(
    ("settings", "inputs", "number"),
    [
        (SymmetryNetSettings(), 1, 71_858_369),
        (SymmetryNetSettings(widths=(2, 4, 8)), 2, 4_437),
    ],
)
def test_number_of_parameters_is_that_of_the_layers(settings, inputs, number):
    shapes = jax.eval_shape(lambda: init_sean(KEY, settings, inputs))
    weights = sum(leaf.size for leaf in jax.tree.leaves(shapes["weights"]))
    assert weights == expected_parameters(settings.widths, inputs) == number


def test_logits_are_of_one_slice_and_float32_also_from_bfloat16_maps(
    variables, windows
):
    exact, _ = apply_sean(variables, windows, SMALL, KEY)
    logits, statistics = apply_sean(variables, windows, SMALL, KEY, "bfloat16")
    assert exact.shape == logits.shape == (2, 1, 4, 8, 1)
    types = {leaf.dtype for leaf in jax.tree.leaves((exact, logits, statistics))}
    assert types == {jnp.dtype("float32")}
    error = np.abs(logits - exact).max()
    assert 0 < error < 0.1 * np.abs(exact).max()


def test_gradient_reaches_every_parameter(variables, windows):
    @jax.jit
    @jax.grad
    def gradient_of_loss(weights):
        given = {**variables, "weights": weights}
        logits, _ = apply_sean(given, windows, SMALL, KEY)
        return jnp.sum(logits**2)

    gradients = gradient_of_loss(variables["weights"])
    for path, gradient in jax.tree.leaves_with_path(gradients):
        assert np.abs(gradient).max() > 1e-7, jax.tree_util.keystr(path)


@pytest.mark.parametrize("key", [None, KEY], ids=["inference", "training"])
def test_all_slices_are_seen_and_other_windows_in_training_alone(
    variables, windows, key
):
    logits, _ = apply_sean(variables, windows, SMALL, key)
    for number in range(3):
        changed = np.array(windows)
        changed[0, number, 1, 2] += 1
        other, _ = apply_sean(variables, jnp.array(changed), SMALL, key)
        moved = np.abs(other - logits).max(axis=(1, 2, 3, 4)) > 1e-5
        np.testing.assert_array_equal(moved, [True, key is not None])


def test_sean_is_the_same_without_jit(variables, windows):
    jitted = apply_sean(variables, windows, SMALL, KEY)
    with jax.disable_jit():
        eager = apply_sean(variables, windows, SMALL, KEY)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), eager, jitted)


def test_prior_is_the_first_output():
    settings = replace(SMALL, prior=0.018)
    weights = init_sean(KEY, settings)["weights"]
    np.testing.assert_allclose(jax.nn.sigmoid(weights["head"]["bias"]), 0.018, 1e-5)


def test_running_statistics_move_a_tenth_towards_the_batch(variables, windows):
    _, still = apply_sean(variables, windows, SMALL)
    jax.tree.map(np.testing.assert_array_equal, still, variables["statistics"])
    _, moved = apply_sean(variables, windows, SMALL, KEY)

    kernel = variables["weights"]["encoder_0"]["conv_1"]["kernel"]
    padded = np.pad(windows, ((0, 0), (1, 1), (1, 1), (1, 1), (0, 0)))
    taps = np.lib.stride_tricks.sliding_window_view(padded, (3, 3, 3), (1, 2, 3))
    out = np.einsum("nzyxcdhw,dhwco->nzyxo", taps, kernel)
    mean, variance = out.mean((0, 1, 2, 3)), out.var((0, 1, 2, 3))
    first = moved["encoder_0"]["conv_1"]["norm"]
    np.testing.assert_allclose(first["mean"], 0.1 * mean, rtol=1e-4)
    np.testing.assert_allclose(first["var"], 0.9 + 0.1 * variance, rtol=1e-4)


def test_inference_with_the_statistics_of_the_batch_is_training(variables, windows):
    trained, moved = apply_sean(variables, windows, SMALL, KEY)
    of_batch = jax.tree.map(
        lambda start, end: (
            (np.asarray(end) - 0.9 * np.asarray(start)) / np.float32(0.1)
        ),
        variables["statistics"],
        moved,
    )
    settled, _ = apply_sean({**variables, "statistics": of_batch}, windows, SMALL)
    np.testing.assert_allclose(settled, trained, atol=1e-4)


def attention_by_loops(params, maps, counts):
    theta, phi, g, h, output = (
        np.asarray(params[name]["kernel"], np.float64)[0, 0, 0]
        for name in ("theta", "phi", "g", "h", "output")
    )
    maps = np.asarray(maps, np.float64)
    n, slices, rows, columns, features = maps.shape
    height, width = rows // counts[0], columns // counts[1]
    out = maps[:, slices // 2].copy()

    def window(case, number, p, q):
        across = slice(q * width, (q + 1) * width)
        part = maps[case, number, p * height : (p + 1) * height, across]
        return part.reshape(-1, features)

    for case, p, q in np.ndindex(n, *counts):
        queries = window(case, slices // 2, p, q) @ theta
        joined = np.zeros((len(queries), 2 * g.shape[1]))
        for number in range(slices):
            parts = []
            for place, values in ((q, g), (counts[1] - 1 - q, h)):
                there = window(case, number, p, place)
                scores = queries @ (there @ phi).T / np.sqrt(theta.shape[1])
                shares = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
                parts.append(shares @ (there @ values))
            joined += np.concatenate(parts, axis=1)
        for place, value in enumerate(joined @ output):
            y, x = p * height + place // width, q * width + place % width
            out[case, y, x] += value
    return out[:, None]


@cache
def attention(counts, features=4):
    random = np.random.default_rng(0)
    half = -(-features // 2)
    shapes = dict.fromkeys(("theta", "phi", "g", "h"), (features, half))
    shapes["output"] = (2 * half, features)
    params = {
        name: {
            "kernel": jnp.array(random.standard_normal((1, 1, 1, *shape)), "float32")
        }
        for name, shape in shapes.items()
    }
    maps = jnp.array(random.standard_normal((2, 3, 4, 12, features)), "float32")
    module = SymmetryAttention(counts)
    return params, maps, jax.jit(lambda maps: module.apply({"params": params}, maps))


COUNTS = pytest.mark.parametrize("counts", [(2, 4), (1, 3)])


@COUNTS
@pytest.mark.parametrize("features", [4, 5])
def test_attention_equals_loops(counts, features):
    params, maps, apply = attention(counts, features)
    expected = attention_by_loops(params, maps, counts)
    np.testing.assert_allclose(apply(maps), expected, atol=1e-4)


@COUNTS
def test_attention_of_mirrored_maps_is_mirrored(counts):
    _, maps, apply = attention(counts)
    mirrored = apply(maps[:, :, :, ::-1])
    np.testing.assert_allclose(mirrored, apply(maps)[:, :, :, ::-1], atol=1e-4)


@COUNTS
def test_a_window_depends_on_itself_and_its_mirror_alone(counts):
    _, maps, apply = attention(counts)
    grid = (counts[0], 4 // counts[0], counts[1], 12 // counts[1])

    @jax.jit
    @jax.grad
    def gradient_of_window(maps, p, q):
        windows = apply(maps)[0, 0].reshape(*grid, -1)
        return jnp.sum(windows[p, :, q] ** 2)

    for p, q in np.ndindex(counts):
        gradient = gradient_of_window(maps, p, q)[0].reshape(3, *grid, -1)
        expected = np.zeros(counts, bool)
        expected[p, [q, counts[1] - 1 - q]] = True
        for seen in np.abs(gradient).max(axis=(2, 4, 5)) > 1e-5:
            np.testing.assert_array_equal(seen, expected)


def test_mirrored_slices_give_mirrored_logits_where_kernels_are_symmetric(
    variables, windows
):
    def symmetric(path, leaf):
        leaf = np.asarray(leaf)
        if "corners" in jax.tree_util.keystr(path):
            corners = leaf.reshape(*leaf.shape[:-1], 2, 2, -1)  # row, column, feature
            return (corners + corners[..., ::-1, :]).reshape(leaf.shape)
        return leaf + leaf[:, :, ::-1] if leaf.ndim == 5 else leaf

    weights = jax.tree.map_with_path(symmetric, variables["weights"])
    variables = {**variables, "weights": weights}
    logits, mirrored = (
        np.asarray(apply_sean(variables, given, SMALL)[0])
        for given in (windows, jnp.flip(windows, 3))
    )
    scale = np.abs(logits).max()
    np.testing.assert_allclose(mirrored, logits[:, :, :, ::-1], atol=1e-4 * scale)
    assert np.abs(logits - logits[:, :, :, ::-1]).max() > 0.01 * scale


def test_up_convolution_is_a_transposed_convolution():
    random = np.random.default_rng(0)
    maps = random.standard_normal((2, 1, 3, 4, 5)).astype("float32")
    kernel = random.standard_normal((5, 2, 2, 3)).astype("float32")
    corners = {"kernel": jnp.array(kernel.reshape(1, 1, 1, 5, 12))}
    params = {"corners": corners, "bias": jnp.arange(3.0)}
    out = jax.jit(UpSlices(3).apply)({"params": params}, maps)
    expected = np.zeros((2, 1, 6, 8, 3)) + np.arange(3)
    for y, x in np.ndindex(2, 2):
        expected[:, :, y::2, x::2] += maps @ kernel[:, y, x]
    np.testing.assert_allclose(out, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "most", "count"), [(16, 4, 4), (15, 4, 3), (31, 4, 1), (2, 4, 2)]
)
def test_windows_are_as_many_as_divide(size, most, count):
    assert window_count(size, most) == count


def test_sizes_that_do_not_halve_are_refused_with_the_nearest_that_do():
    settings = SymmetryNetSettings()
    check_slices((41, 256, 240), settings)
    with pytest.raises(
        UserError, match=r"250 x 9 voxels .* of 16; .* 256 x 16: set --prep"
    ):
        check_slices((41, 250, 9), settings)
    with pytest.raises(UserError, match="multiples of 2"):
        apply_sean({}, jnp.ones((1, 3, 5, 8, 1)), SMALL)


def test_a_window_is_one_slice_and_its_neighbours():
    settings = replace(SMALL, neighbours=2)
    expected = Patch(inner=(1, 8, 12), margin=(2, 0, 0))
    assert sean_patch(settings, (40, 8, 12)) == expected
    with pytest.raises(UserError, match="multiples of 2"):
        sean_patch(settings, (40, 8, 9))
