"""Targets: labels on X's grid, tissue from maps, a network, or nowhere."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adn_jax.models import init_unet
from adn_jax.pipeline.adn import apply_adn, init_adn, make_targets, one_hot_tissue
from adn_jax.types import Batch
from tests.pipeline.heads import SHAPE, small_recipe

RECIPE = small_recipe(network=False)


@pytest.fixture(scope="module")
def batch():
    random = np.random.default_rng(0)
    return Batch(
        volume=jnp.asarray(random.random((2, *SHAPE, 1), np.float32)),
        lesion=jnp.asarray((random.random((2, *SHAPE, 1)) > 0.9).astype(np.float32)),
        tissue=jnp.asarray(random.integers(0, 4, (2, *SHAPE)).astype(np.uint8)),
        case=jnp.arange(2),
    )


@pytest.fixture(scope="module")
def outputs(batch):
    return apply_adn(
        init_adn(jax.random.key(0), RECIPE.system), batch.volume, RECIPE.system
    )


def test_maps_become_channels(outputs, batch):
    targets = jax.jit(make_targets, static_argnums=2)(outputs, batch, RECIPE)
    np.testing.assert_array_equal(targets.aligned_lesion, batch.lesion)
    for channel, label in enumerate((1, 2, 3)):
        wanted = np.asarray(batch.tissue) == label
        np.testing.assert_array_equal(targets.tissue[..., channel], wanted)


def test_network_tissue_is_one_class_a_voxel(outputs, batch):
    recipe = replace(RECIPE, tissue_source="network")
    params = init_unet(jax.random.key(1), recipe.tissue_net)
    targets = make_targets(outputs, batch, recipe, params)
    assert set(np.unique(targets.tissue.sum(-1))) <= {0.0, 1.0}
    gradient = jax.grad(lambda p: make_targets(outputs, batch, recipe, p).tissue.sum())(
        params
    )
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradient))


def test_no_source_means_no_tissue(outputs, batch):
    targets = make_targets(outputs, batch, replace(RECIPE, tissue_source="none"))
    assert not targets.tissue.any()


@pytest.mark.parametrize("soft", [False, True])
def test_labels_are_those_that_a_training_learns(soft, outputs, batch):
    partial = replace(batch, lesion=batch.lesion * 0.3)
    recipe = replace(RECIPE, tissue_source="none", soft_labels=soft)
    targets = make_targets(outputs, partial, recipe)
    for label in (targets.lesion, targets.aligned_lesion):
        assert float(label.max()) == pytest.approx(0.3 if soft else 0.0)


def test_labels_outside_the_three_tissues_are_background():
    channels = one_hot_tissue(jnp.array([0, 1, 2, 3, 4], jnp.int32).reshape(1, 1, 1, 5))
    np.testing.assert_array_equal(channels.sum(-1).ravel(), [0, 1, 1, 1, 0])
