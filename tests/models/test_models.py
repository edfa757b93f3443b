"""What `adn_jax.models` hands out, whatever is inside."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from adn_jax.config import (
    AlignmentNetSettings,
    DeepMedicSettings,
    SymmetryNetSettings,
    UNetSettings,
)
from adn_jax.errors import UserError
from adn_jax.models import (
    apply_alignment_net,
    apply_unet,
    init_alignment_net,
    init_unet,
    network,
)
from adn_jax.runtime.platform import compiler_options
from tests import golden

KEY = jax.random.key(0)
SMALL = UNetSettings(widths=(8, 16))
SMALL_UNET = replace(SMALL, kind="unet")
SMALL_ALIGNMENT = AlignmentNetSettings(widths=(4, 8))


def number_of(shapes) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize(
    ("settings", "inputs", "expected"),
    [
        (UNetSettings(), 1, 8_769_251),
        (UNetSettings(), 2, 8_769_251 + 866),
        (UNetSettings(kind="unet"), 1, 4_081_267),
        (UNetSettings(kind="unet", widths=(64, 128, 256, 512)), 1, 16_318_691),
    ],
)
def test_unets_have_the_published_number_of_parameters(settings, inputs, expected):
    shapes = jax.eval_shape(lambda: init_unet(KEY, settings, inputs))
    assert number_of(shapes) == expected


def test_alignment_net_has_the_published_number_of_parameters():
    shapes = jax.eval_shape(
        lambda: init_alignment_net(KEY, AlignmentNetSettings(), (40, 256, 256))
    )
    assert number_of(shapes) == 7_459_142


@pytest.mark.parametrize("settings", [SMALL, SMALL_UNET], ids=lambda s: s.kind)
def test_gradient_of_unet_reaches_every_parameter_and_voxel(settings):
    # with one channel a group, the bias before a norm would rightly have none
    settings = replace(settings, outputs=3, groups=4)
    params = init_unet(KEY, settings, 2)
    volume = jax.random.uniform(jax.random.key(1), (2, 2, 6, 4, 2))

    def loss(params, volume):
        logits = apply_unet(params, volume, settings, key=KEY)
        assert logits.shape == (2, 2, 6, 4, 3)
        return jnp.mean(jnp.sin(3 * logits))

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, volume)
    for path, gradient in jax.tree.leaves_with_path(gradients):
        assert np.abs(gradient).max() > 1e-7, jax.tree_util.keystr(path)


@pytest.mark.parametrize("kind", ["residual_unet", "unet"])
@pytest.mark.parametrize("key", [None, KEY], ids=["still", "dropout"])
def test_unet_is_the_same_without_jit(kind, key):
    settings = UNetSettings(kind, widths=(2, 4), groups=2, dropout=0.3)
    params = init_unet(KEY, settings)
    volume = jax.random.uniform(jax.random.key(1), (1, 4, 4, 4, 1))
    jitted = apply_unet(params, volume, settings, key=key)
    with jax.disable_jit():
        eager = apply_unet(params, volume, settings, key=key)
    np.testing.assert_allclose(eager, jitted, atol=1e-5)


def test_dropout_acts_only_with_a_key():
    params = init_unet(KEY, SMALL)
    volume = jax.random.uniform(jax.random.key(1), (1, 2, 4, 4, 1))
    still = apply_unet(params, volume, SMALL)
    first, again, other = (
        apply_unet(params, volume, SMALL, key=jax.random.key(seed))
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - still).max() > 1e-3
    assert np.abs(first - other).max() > 1e-3


def test_prior_is_the_first_output():
    settings = replace(SMALL, prior=0.018)
    params = init_unet(KEY, settings)
    params["head"]["kernel"] = jnp.zeros_like(params["head"]["kernel"])
    logits = apply_unet(params, jnp.ones((1, 2, 2, 2, 1)), settings)
    np.testing.assert_allclose(jax.nn.sigmoid(logits), 0.018, rtol=1e-5)
    assert init_unet(KEY, SMALL)["head"]["bias"] == 0


def test_pose_stays_within_its_limits_and_every_parameter_counts():
    settings = AlignmentNetSettings(
        (4, 8),
        rotation_limit_deg=(10.0, 20.0, 30.0),
        translation_limit=(0.1, 0.2, 0.3),
    )
    params = init_alignment_net(KEY, settings, (4, 6, 8))
    volume = jax.random.uniform(jax.random.key(1), (2, 4, 6, 8, 1))

    def loss(params):
        pose = apply_alignment_net(params, volume, settings)
        return jnp.sum(pose.rotation) + jnp.sum(pose.translation)

    gradients = jax.jit(jax.grad(loss))(params)
    for path, gradient in jax.tree.leaves_with_path(gradients):
        assert np.abs(gradient).max() > 1e-7, jax.tree_util.keystr(path)

    params["head"]["bias"] = jnp.array([100.0, -100, 100, -100, 100, -100])
    pose = apply_alignment_net(params, volume, settings)
    limits = [*np.deg2rad([10, -20, 30]), -0.1, 0.2, -0.3]
    np.testing.assert_allclose(golden.six_of(pose), [limits] * 2, rtol=1e-6)


def test_identity_start_begins_near_the_identity():
    volume = jax.random.uniform(jax.random.key(1), (2, 4, 4, 4, 1))
    poses = {
        start: golden.six_of(
            apply_alignment_net(
                init_alignment_net(KEY, settings, (4, 4, 4)), volume, settings
            )
        )
        for start in (False, True)
        for settings in [replace(SMALL_ALIGNMENT, identity_start=start)]
    }
    assert 0 < np.abs(poses[True]).max() < 0.02 < np.abs(poses[False]).max()


@pytest.mark.parametrize(
    ("width", "groups"), [(2, 1), (4, 1), (6, 1), (14, 2), (28, 7), (32, 8)]
)
def test_alignment_net_takes_any_number_of_maps(width, groups):
    settings = AlignmentNetSettings(widths=(width,))
    assert settings.groups(width) == groups
    jax.eval_shape(lambda: init_alignment_net(KEY, settings, (4, 4, 4)))


@pytest.mark.parametrize("shape", [(4, 4, 4), (5, 7, 9), (4, 11, 6)])
def test_alignment_net_takes_odd_and_small_sizes(shape):
    params = init_alignment_net(KEY, SMALL_ALIGNMENT, shape)
    pose = apply_alignment_net(params, jnp.ones((1, *shape, 1)), SMALL_ALIGNMENT)
    assert pose.rotation.shape == pose.translation.shape == (1, 3)
    assert np.isfinite(golden.six_of(pose)).all()


@pytest.mark.parametrize(
    ("shape", "nearest"),
    [((41, 250, 256), "40 x 248 x 256"), ((3, 64, 65), "8 x 64 x 64")],
)
def test_unet_names_the_nearest_sizes_that_work(shape, nearest):
    with pytest.raises(UserError, match=f"multiples of 8; .* {nearest}: set --prepare"):
        network(UNetSettings()).check_shape(shape)
    network(UNetSettings()).check_shape((40, 248, 256))


def test_apply_refuses_sizes_that_do_not_fit():
    params = init_unet(KEY, SMALL)
    with pytest.raises(UserError, match=r"3 x 4 x 4 voxels .* 4 x 4 x 4"):
        apply_unet(params, jnp.ones((1, 3, 4, 4, 1)), SMALL)
    with pytest.raises(UserError, match=r"least 4 voxels .* nearest .* 4 x 4 x 6"):
        init_alignment_net(KEY, SMALL_ALIGNMENT, (3, 4, 6))


@pytest.mark.parametrize("kind", ["residual_unet", "unet"])
def test_bfloat16_maps_give_float32_logits_and_gradients_near_float32(kind):
    settings = UNetSettings(kind, widths=(8, 16), dropout=0.0)
    params = init_unet(KEY, settings)
    volume = jax.random.uniform(jax.random.key(1), (2, 4, 16, 16, 1))

    def mean_and_gradient(precision):
        def mean(params):
            logits = apply_unet(params, volume, settings, precision=precision)
            assert logits.dtype == jnp.float32
            error = jax.nn.sigmoid(logits) - jnp.round(volume)
            return jnp.mean(error**2), logits

        gradient, logits = jax.jit(jax.grad(mean, has_aux=True))(params)
        return logits, gradient

    logits, gradient = mean_and_gradient("float32")
    half_logits, half_gradient = mean_and_gradient("bfloat16")
    assert 0 < np.abs(half_logits - logits).max() < 0.05 * np.abs(logits).max()
    assert {leaf.dtype for leaf in jax.tree.leaves(half_gradient)} == {
        jnp.dtype("float32")
    }
    difference = jax.tree.map(jnp.subtract, half_gradient, gradient)
    assert optax.tree.norm(difference) < 0.3 * optax.tree.norm(gradient)


def test_the_pose_is_float32_and_near_in_bfloat16():
    settings = replace(SMALL_ALIGNMENT, rotation_limit_deg=(0.0, 0.0, 60.0))
    params = init_alignment_net(KEY, settings, (8, 16, 16))
    params["head"]["kernel"] += 1.0
    volume = jax.random.uniform(jax.random.key(1), (2, 8, 16, 16, 1))
    pose = apply_alignment_net(params, volume, settings)
    half = apply_alignment_net(params, volume, settings, precision="bfloat16")
    assert half.rotation.dtype == half.translation.dtype == jnp.float32
    assert np.abs(golden.six_of(pose)).max() > 0.1
    np.testing.assert_allclose(golden.six_of(half), golden.six_of(pose), atol=0.03)


def test_training_in_bfloat16_keeps_no_float32_maps():
    settings = UNetSettings(widths=(8, 16))
    params = init_unet(KEY, settings)
    volume = jax.random.uniform(jax.random.key(1), (1, 8, 16, 16, 1))

    def logits(params):
        return apply_unet(params, volume, settings, key=KEY, precision="bfloat16")

    kept = jax.tree.leaves(jax.vjp(logits, params)[1])
    maps = [leaf for leaf in kept if leaf.ndim == 5 and leaf.shape[:2] == (1, 8)]
    assert len(maps) > 10
    assert {str(leaf.dtype) for leaf in maps} <= {"bfloat16", "bool"}


@pytest.mark.parametrize("kind", ["residual_unet", "unet"])
@pytest.mark.parametrize(("remat", "share"), [("norms", 0.75), ("blocks", 0.5)])
def test_recomputing_gives_the_same_gradient_from_fewer_maps(kind, remat, share):
    settings = UNetSettings(kind=kind, widths=(8, 16))
    params = init_unet(KEY, settings)
    volume = jax.random.uniform(jax.random.key(1), (1, 8, 16, 16, 1))

    def pull_back(remat):
        logits = jax.jit(
            lambda params: apply_unet(params, volume, settings, key=KEY, remat=remat)
        )
        out, pull = jax.vjp(logits, params)
        maps = [leaf.nbytes for leaf in jax.tree.leaves(pull) if leaf.ndim == 5]
        return sum(maps), pull(out)

    everything, expected = pull_back("nothing")
    kept, gradient = pull_back(remat)
    assert 0 < kept < share * everything
    difference = jax.tree.map(jnp.subtract, gradient, expected)
    assert optax.tree.norm(difference) < 1e-4 * optax.tree.norm(expected)


def planned_on_a_cpu(remat="nothing", *, told):
    """Bytes of temporaries of a small network's gradient, XLA being told or not."""
    settings = UNetSettings(widths=(8, 16))
    params = init_unet(KEY, settings)
    volume = jnp.zeros((1, 8, 32, 32, 1))

    def loss(params):
        return apply_unet(params, volume, settings, key=KEY, remat=remat).sum()

    program = (
        jax.jit(jax.grad(loss))
        .lower(params)
        .compile(compiler_options() if told else None)
    )
    return program.memory_analysis().temp_size_in_bytes


def test_a_cpu_told_to_save_memory_keeps_fewer_maps():
    assert planned_on_a_cpu(told=True) < 0.75 * planned_on_a_cpu(told=False)


@pytest.mark.parametrize("told", [True, False])
def test_blocks_computed_again_save_memory_on_a_cpu(told):
    blocks, nothing = (
        planned_on_a_cpu(remat, told=told) for remat in ("blocks", "nothing")
    )
    assert blocks < 0.75 * nothing


def test_tiles_of_a_network_of_windows():
    settings = DeepMedicSettings()
    assert network(settings).patches((40, 256, 45)).inference.inner == (41, 45, 45)
    assert network(settings).patches((16, 64, 7)).inference.inner == (17, 45, 7)
    sean = SymmetryNetSettings()
    assert network(sean).patches((40, 64, 64)).inference == ((1, 64, 64), (1, 0, 0))
