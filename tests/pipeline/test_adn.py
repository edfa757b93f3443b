"""The whole chain: shapes, properties, who gets gradients, randomness."""

from dataclasses import fields, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adn_jax.config import AlignmentSettings, UNetSettings
from adn_jax.errors import UserError
from adn_jax.pipeline.adn import (
    AdnOutputs,
    AdnParams,
    apply_adn,
    init_adn,
    repeat_to,
)
from tests.pipeline.heads import small_recipe, symmetric_head, turned_heads

RECIPE = small_recipe(network=True, centre=True, refine_steps=2)


@pytest.fixture(scope="module")
def params():
    return init_adn(jax.random.key(0), RECIPE.system)


@pytest.fixture(scope="module")
def heads():
    return turned_heads(np.array([10.0, -5.0]), np.array([0.05, 0.0]), RECIPE)


@pytest.fixture(scope="module")
def outputs(params, heads):
    return jax.jit(apply_adn, static_argnums=2)(params, heads, RECIPE.system)


def test_every_map_has_the_scans_shape(outputs, heads):
    for field in fields(AdnOutputs):
        value = getattr(outputs, field.name)
        if field.name == "alignment":
            assert value.pose.rotation.shape == value.pose.translation.shape == (2, 3)
            assert value.matrix.shape == value.inverse.shape == (2, 4, 4)
        elif field.name == "auxiliary_predictions":
            assert value == ()
        else:
            assert value.shape == heads.shape, field.name


def test_probabilities_and_asymmetry_have_their_range(outputs):
    for name in ("pathological", "aligned_prediction"):
        assert 0 < getattr(outputs, name).min() <= getattr(outputs, name).max() < 1
    assert outputs.asymmetry.min() == 0
    assert 0 <= outputs.prediction.min() <= outputs.prediction.max() < 1


def test_asymmetry_is_never_on_both_sides(outputs):
    both = np.minimum(outputs.asymmetry, outputs.asymmetry[..., ::-1, :])
    assert not both.any()


def test_a_symmetric_head_has_no_asymmetry():
    recipe = small_recipe(network=False)
    head = jnp.asarray(symmetric_head())
    outputs = apply_adn(init_adn(jax.random.key(0), recipe.system), head, recipe.system)
    np.testing.assert_allclose(outputs.asymmetry, 0, atol=1e-6)


def test_a_volume_on_another_grid_is_refused(params):
    wide = jnp.zeros((1, *RECIPE.system.prepare.shape[:2], 64, 1))
    with pytest.raises(
        UserError, match=r"volume has \(.*64\) voxels, .* prepare\.shape"
    ):
        apply_adn(params, wide, RECIPE.system)


def test_t_learns_nothing_from_the_joint_loss(params, heads):
    def total(p: AdnParams):
        return apply_adn(p, heads, RECIPE.system).prediction.sum()

    gradient = jax.jit(jax.grad(total))(params)

    def norm(tree):
        return sum(float(jnp.abs(leaf).sum()) for leaf in jax.tree.leaves(tree))

    assert norm(gradient.align) == 0
    assert norm(gradient.disentangle) > 0
    assert norm(gradient.segment) > 0


def test_dropout_follows_the_key(params, heads):
    run = jax.jit(
        lambda key: apply_adn(params, heads, RECIPE.system, key=key).prediction
    )
    first, again, other = (run(jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(np.asarray(first - other)).max() > 0


def test_side_predictions_are_repeated_voxels_that_teach_f_in_training():
    recipe = small_recipe(network=False)
    net = UNetSettings(
        "unet", (2, 2, 4), groups=2, in_plane_levels=1, deep_supervision=1
    )
    plain = replace(net, deep_supervision=0)
    recipe = recipe.with_fields(disentangle_net=plain, segment_net=net)
    params = init_adn(jax.random.key(0), recipe.system)
    head = jnp.asarray(symmetric_head())
    in_inference = jax.eval_shape(
        lambda: apply_adn(params, head, recipe.system).auxiliary_predictions
    )
    assert in_inference == ()

    def mean_of_side(segment):
        key = jax.random.key(1)
        changed = replace(params, segment=segment)
        outputs = apply_adn(changed, head, recipe.system, key=key)
        (side,) = outputs.auxiliary_predictions
        return side.mean(), side

    part = jax.value_and_grad(mean_of_side, has_aux=True)
    (_, side), gradient = jax.jit(part)(params.segment)
    assert side.shape == head.shape
    corners = side[:, :, ::2, ::2]
    np.testing.assert_array_equal(side, repeat_to(corners, head.shape[1:4]))
    assert np.unique(corners).size > 1000
    assert np.abs(gradient["side_head_1"]["kernel"]).max() > 0
    assert np.abs(gradient["decoder_0"]["conv_2"]["convolution"]["kernel"]).max() > 0
    assert not np.abs(gradient["head"]["kernel"]).any()


def test_voxels_are_repeated_to_a_finer_grid():
    coarse = np.random.default_rng(0).random((2, 2, 3, 1, 2), np.float32)
    fine = coarse[:, :, np.arange(6) // 2][:, :, :, np.arange(4) // 4]
    np.testing.assert_array_equal(repeat_to(jnp.asarray(coarse), (2, 6, 4)), fine)


def test_without_t_it_has_no_parameters():
    recipe = small_recipe(network=False, centre=True, search_limit_deg=10.0)
    assert recipe.system.alignment == AlignmentSettings(False, True, 10.0)
    assert init_adn(jax.random.key(0), recipe.system).align is None


def test_aligned_maps_return_to_the_scan(outputs, heads):
    back = outputs.alignment.unwarp(outputs.aligned)
    inside = (slice(None), slice(None), slice(8, -8), slice(8, -8))
    difference = np.abs(np.asarray(back - heads))[inside]
    assert difference.mean() < 0.01


def test_labels_move_with_the_head_and_stay_labels(outputs, heads):
    labels = (heads > 0.3).astype(jnp.float32)
    moved = outputs.alignment.warp_labels(labels)
    assert set(np.unique(moved)) <= {0.0, 1.0}
    aligned = outputs.alignment.warp(heads)
    agreement = np.mean(np.asarray(moved == (aligned > 0.3)))
    assert agreement > 0.97
