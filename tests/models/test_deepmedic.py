from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adn_jax.config import DeepMedicSettings
from adn_jax.models.blocks import EPSILON
from adn_jax.models.deepmedic import (
    NEWEST_SHARE,
    apply_deepmedic,
    deepmedic_patch,
    init_deepmedic,
)
from adn_jax.models.patches import over_patches

KEY = jax.random.key(0)
SHIPPED = DeepMedicSettings()
PAPER = DeepMedicSettings(
    steps=(1, 3), residual=(), joined_widths=(150, 150), joined_kernels=(1, 1),
    joined_residual=(), side=9,
)  # fmt: skip
SMALL = DeepMedicSettings(
    widths=(2, 3, 4), steps=(1, 3), residual=(3,), joined_widths=(4, 6)
)
POINTWISE = replace(SMALL, joined_kernels=(1, 1))
"""What the joined layers see of the pathways is one voxel."""
TINY = DeepMedicSettings(
    widths=(2, 3), steps=(3,), residual=(2,), joined_widths=(4,), joined_kernels=(3,),
    joined_residual=(), dropout=(0.0, 0.3),
)  # fmt: skip


def random_windows(settings, side, cases=2, channels=1):
    window = deepmedic_patch(settings, side)
    values = np.random.default_rng(0).standard_normal((cases, *window.outer, channels))
    return jnp.asarray(values, jnp.float32)


def shaken(settings, inputs=1, seed=0):
    """Variables with every scale, bias, slope and statistic off its first value."""
    random = np.random.default_rng(seed)
    variables = init_deepmedic(KEY, settings, inputs)

    def shift(leaf):
        return leaf + random.uniform(0.1, 0.6, leaf.shape).astype(np.float32)

    return {
        "weights": jax.tree.map_with_path(
            lambda path, leaf: leaf if path[-1].key == "kernel" else shift(leaf),
            variables["weights"],
        ),
        "statistics": jax.tree.map(shift, variables["statistics"]),
    }


# one channel in, of each pathway: 27 (1 x 30 + 30 x 30 + 30 x 40 + 3 x 40 x 40
# + 40 x 50 + 50 x 50) = 308 610 taps, and 270 maps that are normalised
@pytest.mark.parametrize(
    ("settings", "taps", "maps"),
    [
        (PAPER, 2 * 308_610 + 100 * 150 + 150 * 150 + 150, 2 * 270 + 100 + 300),
        (SHIPPED, 3 * 308_610 + 27 * 150 * 250 + 250 * 250 + 250, 3 * 270 + 150 + 500),
    ],
)
def test_parameters_are_those_of_the_layers(settings, taps, maps):
    shapes = jax.eval_shape(lambda: init_deepmedic(KEY, settings))
    leaves = jax.tree.leaves_with_path(shapes["weights"])
    kernels = sum(leaf.size for path, leaf in leaves if path[-1].key == "kernel")
    assert taps in {654_870, 2_001_080}
    assert kernels == taps
    # a scale, a bias and a slope for each map, and the bias of the logit
    assert sum(leaf.size for _, leaf in leaves) == taps + 3 * maps + 1
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["statistics"])) == 2 * maps


def test_kernels_are_drawn_by_he_and_slopes_and_statistics_are_the_usual():
    settings = replace(SMALL, widths=(8, 16, 16), prior=0.1)
    variables = init_deepmedic(KEY, settings, 2)
    weights = variables["weights"]
    for name, fan_in in {"layer_2": 8 * 27, "layer_3": 16 * 27}.items():
        kernel = weights["every_3"][name]["kernel"]
        assert np.std(kernel) == pytest.approx(np.sqrt(2 / fan_in), rel=0.05)
    activation = weights["every_1"]["activation_2"]
    np.testing.assert_array_equal(activation["scale"], np.ones(8))
    np.testing.assert_array_equal(activation["bias"], np.zeros(8))
    np.testing.assert_array_equal(activation["slope"], np.full(8, np.float32(0.01)))
    assert jax.nn.sigmoid(weights["head"]["bias"]) == pytest.approx(0.1)
    for path, leaf in jax.tree.leaves_with_path(variables["statistics"]):
        np.testing.assert_array_equal(leaf, float(path[-1].key == "variance"))


@pytest.mark.parametrize(
    ("settings", "side", "outer", "inner"),
    [
        (SHIPPED, 21, (107, 107, 107), (21, 21, 21)),
        (SHIPPED, (15, 45, 45), (101, 131, 131), (15, 45, 45)),
        (PAPER, 9, (59, 59, 59), (9, 9, 9)),
    ],
)
def test_windows_have_room_for_the_widest_pathway(settings, side, outer, inner):
    assert deepmedic_patch(settings, side).outer == outer
    windows = jax.ShapeDtypeStruct((3, *outer, 2), jnp.float32)
    for precision in ("float32", "bfloat16"):
        apply = partial(
            apply_deepmedic, settings=settings, key=KEY, precision=precision
        )
        variables = jax.eval_shape(lambda: init_deepmedic(KEY, settings, 2))
        logits, statistics = jax.eval_shape(apply, variables, windows)
        assert (logits.shape, logits.dtype) == ((3, *inner, 1), jnp.float32)
        assert statistics == variables["statistics"]


@pytest.mark.parametrize(("step", "layers"), [(1, 8), (3, 2)])
def test_a_voxel_sees_its_field_and_no_more(step, layers):
    settings = replace(
        POINTWISE, widths=(2,) * layers, steps=(1, step)[: 1 + (step > 1)], residual=()
    )
    side = 3 * step
    window = deepmedic_patch(settings, side)
    windows = random_windows(settings, side, cases=1)
    variables = shaken(settings)

    @jax.jit
    @jax.grad
    def gradient(windows):
        middle = side // 2
        return apply_deepmedic(variables, windows, settings)[0][
            0, middle, middle, middle, 0
        ]

    seen = np.asarray(gradient(windows))[0, ..., 0] != 0
    field = step * (2 * layers + 1)
    if layers == 8:
        assert field == 17
    lattice = np.zeros(window.outer[0], bool)
    middle, reach = window.outer[0] // 2, step * layers
    lattice[middle - reach : middle + reach + 1 : step] = True
    near = np.zeros(window.outer[0], bool)
    near[middle - layers : middle + layers + 1] = True
    expected = [line[:, None, None] & line[:, None] & line for line in (lattice, near)]
    np.testing.assert_array_equal(seen, expected[0] | expected[1])


def reference(variables, windows, settings, side, training):
    """The network in NumPy and float64; also the batch statistics by their place."""
    seen = {}
    exact = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables)
    weights, statistics = exact["weights"], exact["statistics"]

    def activate(volume, *place):
        own, running = weights, statistics
        for name in place:
            own, running = own[name], running[name]
        mean, variance = running["mean"], running["variance"]
        if training:
            mean, variance = volume.mean((0, 1, 2, 3)), volume.var((0, 1, 2, 3))
            seen[place] = mean, variance
        normal = (volume - mean) / np.sqrt(variance + EPSILON)
        normal = normal * own["scale"] + own["bias"]
        return np.maximum(normal, 0) + own["slope"] * np.minimum(normal, 0)

    def convolve(volume, kernel):
        taps = np.lib.stride_tricks.sliding_window_view(
            volume, kernel.shape[:3], axis=(1, 2, 3)
        )
        return np.einsum("bzyxcdhw,dhwco->bzyxo", taps, kernel)

    def shortcut(volume, earlier):
        trim = (earlier.shape[1] - volume.shape[1]) // 2
        inside = slice(trim, -trim or None)
        out = volume.copy()
        shared = min(volume.shape[-1], earlier.shape[-1])
        out[..., :shared] += earlier[:, inside, inside, inside, :shared]
        return out

    layers, maps = len(settings.widths), []
    covered = side + 2 * sum(kernel // 2 for kernel in settings.joined_kernels)
    offsets = np.arange(covered) - covered // 2
    middle = windows.shape[1] // 2
    for step in settings.steps:
        coarse = (abs(offsets) + step // 2) // step * np.sign(offsets)
        far = coarse.max() + layers
        places = middle + step * np.arange(-far, far + 1)
        volume = windows[:, places][:, :, places][:, :, :, places]
        inputs = [volume]
        for number in range(1, layers + 1):
            if number > 1:
                volume = activate(volume, f"every_{step}", f"activation_{number}")
            kernel = weights[f"every_{step}"][f"layer_{number}"]["kernel"]
            volume = convolve(volume, kernel)
            if number in settings.residual:
                volume = shortcut(volume, inputs[number - 2])
            inputs.append(volume)
        index = coarse + volume.shape[1] // 2
        maps.append(volume[:, index][:, :, index][:, :, :, index])

    volume = np.concatenate(maps, axis=-1)
    inputs = [volume]
    for number in range(1, len(settings.joined_widths) + 1):
        volume = activate(volume, f"activation_{number}")
        volume = convolve(volume, weights[f"joined_{number}"]["kernel"])
        if number in settings.joined_residual:
            volume = shortcut(volume, inputs[number - 2])
        inputs.append(volume)
    volume = convolve(activate(volume, "activation_head"), weights["head"]["kernel"])
    return volume + weights["head"]["bias"], seen


@pytest.mark.parametrize(("side", "training"), [(3, False), (5, True)])
def test_network_equals_a_plain_computation(side, training):
    settings = replace(SMALL, dropout=(0.0, 0.0, 0.0)) if training else SMALL
    variables = shaken(settings, inputs=2)
    windows = random_windows(settings, side, channels=2)
    exact, batch = reference(
        variables, np.asarray(windows, np.float64), settings, side, training
    )
    key = KEY if training else None
    logits, statistics = apply_deepmedic(variables, windows, settings, key=key)
    np.testing.assert_allclose(logits, exact, atol=1e-4)
    if not training:
        jax.tree.map(np.testing.assert_array_equal, statistics, variables["statistics"])
    assert len(batch) == (7 if training else 0)
    for place, (mean, variance) in batch.items():
        before, after = variables["statistics"], statistics
        for name in place:
            before, after = before[name], after[name]
        for name, new in (("mean", mean), ("variance", variance)):
            moved = before[name] + NEWEST_SHARE * (new - before[name])
            np.testing.assert_allclose(after[name], moved, rtol=1e-4, atol=1e-5)


def test_gradient_reaches_every_parameter():
    variables, windows = shaken(TINY), random_windows(TINY, 5)

    def loss(weights):
        changed = {**variables, "weights": weights}
        logits, _ = apply_deepmedic(changed, windows, TINY, key=KEY)
        return jnp.mean(jnp.sin(3 * logits))

    gradients = jax.jit(jax.grad(loss))(variables["weights"])
    for path, gradient in jax.tree.leaves_with_path(gradients):
        assert np.abs(gradient).max() > 1e-6, jax.tree_util.keystr(path)


def test_tiles_equal_one_window_also_at_their_borders_and_in_thin_volumes():
    variables = shaken(SMALL)
    values = np.random.default_rng(1).standard_normal((2, 2, 5, 9, 1))
    volume = jnp.asarray(values, jnp.float32)

    @partial(jax.jit, static_argnums=1)
    def logits(volume, sides):
        def network(seen):
            return apply_deepmedic(variables, seen, SMALL)[0]

        return over_patches(network, volume, deepmedic_patch(SMALL, sides))

    tiled = logits(volume, (3, 3, 3))
    np.testing.assert_allclose(tiled, logits(volume, (3, 9, 9)), atol=1e-5)
    assert tiled.shape == volume.shape
    assert np.std(tiled) > 0.1


def test_statistics_of_inference_become_those_of_the_data():
    settings = replace(TINY, steps=(1,), dropout=(0.0, 0.0))
    start, windows = init_deepmedic(KEY, settings), random_windows(settings, 3)

    def update(variables, _):
        logits, statistics = apply_deepmedic(variables, windows, settings, key=KEY)
        return {**variables, "statistics": statistics}, logits

    scan = jax.jit(lambda variables: jax.lax.scan(update, variables, length=400))
    variables, trained = scan(start)
    inferred, _ = apply_deepmedic(variables, windows, settings)
    first, _ = apply_deepmedic(start, windows, settings)
    np.testing.assert_allclose(inferred, trained[-1], atol=1e-4)
    assert np.max(np.abs(first - trained[-1])) > 0.01


def test_a_moving_average_is_as_old_and_as_steady_as_the_mean_of_60():
    share = NEWEST_SHARE * (1 - NEWEST_SHARE) ** np.arange(5_000)
    assert share.sum() == pytest.approx(1)
    assert share @ np.arange(5_000) == pytest.approx(np.mean(np.arange(60)))
    assert np.sum(share**2) == pytest.approx(1 / 60)


def test_dropout_follows_the_key_and_the_network_is_the_same_without_jit():
    variables, windows = shaken(TINY), random_windows(TINY, 5)
    first, again, other = (
        apply_deepmedic(variables, windows, TINY, key=jax.random.key(seed))[0]
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert np.max(np.abs(first - other)) > 1e-3
    with jax.disable_jit():
        eager, _ = apply_deepmedic(variables, windows, TINY, key=KEY)
    np.testing.assert_allclose(eager, first, atol=1e-4)


def test_half_precision_is_near():
    variables, windows = init_deepmedic(KEY, TINY), random_windows(TINY, 5)
    single, _ = apply_deepmedic(variables, windows, TINY, key=KEY)
    half, _ = apply_deepmedic(variables, windows, TINY, key=KEY, precision="bfloat16")
    assert half.dtype == jnp.float32
    assert 0 < np.std(half - single) < 0.05 * np.std(single)
