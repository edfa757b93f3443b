"""Systems without D: what F sees, and heads that stay as they lie."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adn_jax.config import (
    AlignmentNetSettings,
    AlignmentSettings,
    JointLossSettings,
    UNetSettings,
)
from adn_jax.models import apply_unet
from adn_jax.pipeline.adn import (
    apply_adn,
    init_adn,
    segment_input,
    zscored,
)
from adn_jax.pipeline.align import aligns
from tests.pipeline.heads import small_recipe, turned_heads

UNALIGNED = AlignmentSettings(network=False)
NET = UNetSettings(widths=(4,), groups=2, dropout=0.0)
TINY = small_recipe().with_fields(
    alignment_net=AlignmentNetSettings(widths=(2,), identity_start=True),
    disentangle_net=NET,
    segment_net=NET,
)
PLAIN = TINY.with_fields(
    tissue_source="none",
    joint_loss=JointLossSettings(regularisation=0.0),
    segment_input="aligned",
)
HEADS = turned_heads([8.0, -3.0], [0.1, 0.0], PLAIN)


def run(recipe, key=None):
    params = init_adn(jax.random.key(0), recipe.system)
    return params, jax.jit(apply_adn, static_argnums=2)(
        params, HEADS, recipe.system, key=key
    )


@pytest.mark.parametrize("channels", ["aligned", "mirror_pair"])
def test_f_alone_sees_the_aligned_head(channels):
    recipe = PLAIN.with_fields(segment_input=channels)
    params, outputs = run(recipe)
    assert params.disentangle is None
    assert outputs.pathological is outputs.anatomical is None
    assert outputs.salient is outputs.compensated is None
    seen = outputs.aligned
    if channels == "mirror_pair":
        seen = np.concatenate([seen, seen[:, :, :, ::-1]], axis=-1)
    logits = apply_unet(params.segment, jnp.asarray(seen), recipe.system.segment_net)
    np.testing.assert_allclose(
        outputs.aligned_prediction, jax.nn.sigmoid(logits), atol=1e-6
    )


def test_without_alignment_everything_stays_in_place():
    recipe = PLAIN.with_fields(alignment=UNALIGNED)
    assert not aligns(recipe.system)
    params, outputs = run(recipe)
    assert params.align is None
    np.testing.assert_array_equal(outputs.aligned, HEADS)
    np.testing.assert_array_equal(outputs.prediction, outputs.aligned_prediction)
    np.testing.assert_allclose(
        outputs.alignment.matrix, np.broadcast_to(np.eye(4), (2, 4, 4)), atol=1e-6
    )
    assert outputs.alignment.warp_labels(HEADS) is HEADS


@pytest.mark.parametrize(
    ("step", "value"),
    [
        ("network", True),
        ("centre", True),
        ("search_limit_deg", 3.0),
        ("refine_steps", 2),
    ],
)
def test_any_step_of_the_alignment_aligns(step, value):
    alignment = replace(UNALIGNED, **{step: value})
    assert aligns(replace(PLAIN.system, alignment=alignment))


def test_standardised_brain_has_mean_0_and_deviation_1():
    volume = np.random.default_rng(0).uniform(0.1, 0.9, (2, 3, 4, 5, 2))
    volume[:, 0] = 0
    scaled = np.asarray(zscored(jnp.asarray(volume, jnp.float32)))
    brain = scaled[:, 1:]
    np.testing.assert_allclose(brain.mean((1, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(brain.std((1, 2, 3)), 1, rtol=1e-5)
    assert not scaled[:, 0].any()
    empty = jnp.zeros((1, 2, 2, 2, 1))
    np.testing.assert_array_equal(zscored(empty), empty)
    recipe = PLAIN.with_fields(zscore_in_brain=True)
    aligned = jnp.asarray(volume[..., :1], jnp.float32)
    seen = segment_input(aligned, aligned, None, recipe.system)
    np.testing.assert_allclose(seen, scaled[..., :1], atol=1e-6)


def test_gradient_of_a_plain_system_reaches_f_alone():
    recipe = PLAIN.with_fields(segment_input="mirror_pair")
    params = init_adn(jax.random.key(0), recipe.system)

    def loss(params):
        return apply_adn(params, HEADS, recipe.system).prediction.sum()

    gradient = jax.jit(jax.grad(loss))(params)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient.segment))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient.align))


def test_d_and_f_can_see_both_sides_too():
    recipe = TINY.with_fields(
        disentangle_input="mirror_pair",
        segment_input="salient_triple",
        segment_net=replace(NET, groups=4),
    )
    params, outputs = run(recipe)
    pair = jnp.concatenate([outputs.aligned, outputs.mirrored], axis=-1)
    logits = apply_unet(params.disentangle, pair, recipe.system.disentangle_net)
    np.testing.assert_allclose(outputs.pathological, jax.nn.sigmoid(logits), atol=1e-6)
    triple = jnp.concatenate([outputs.salient, pair], axis=-1)
    logits = apply_unet(params.segment, triple, recipe.system.segment_net)
    np.testing.assert_allclose(
        outputs.aligned_prediction, jax.nn.sigmoid(logits), atol=1e-6
    )
