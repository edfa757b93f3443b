"""Six joint train steps of D and F against the authors' code: losses and optimizer."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from adn_jax.config import AsymmetrySettings, OptimizerSettings, UNetSettings
from adn_jax.losses.recipes import WARM_START, joint_loss
from adn_jax.models import apply_unet
from adn_jax.models.torch_names import from_torch
from adn_jax.pipeline.adn import (
    Targets,
    anatomical_asymmetry,
    salient_volume,
    total_asymmetry,
)
from adn_jax.training.steps import make_optimizer
from tests import golden
from tests.losses.arrays import make_outputs, one_hot_tissue
from tests.losses.test_recipes import AUTHORS

SHAPE = (2, 1, 16, 32, 32)
NET = UNetSettings(widths=(8, 16, 32, 64), dropout=0.0)
CODE = AsymmetrySettings(anatomical="positive_part", compensated="clipped")


def outputs_of(params, aligned):
    """The chain from X on, without T: the golden steps start from aligned heads."""
    pathological = jax.nn.sigmoid(apply_unet(params["D"], aligned, NET))
    asymmetry = total_asymmetry(aligned, aligned[:, :, :, ::-1])
    anatomical = anatomical_asymmetry(asymmetry, pathological, CODE)
    salient = salient_volume(aligned, anatomical)
    prediction = jax.nn.sigmoid(apply_unet(params["F"], salient, NET))
    outputs = make_outputs(aligned, pathological, prediction, prediction)
    return replace(outputs, anatomical=anatomical, salient=salient)


@pytest.mark.slow
def test_six_steps_have_the_authors_losses():
    aligned = jnp.asarray(golden.volume(1014, SHAPE))
    lesion = jnp.asarray(golden.volume(1015, SHAPE) > 0.95, jnp.float32)
    labels = np.random.default_rng(1016).integers(0, 4, SHAPE)
    tissue = one_hot_tissue(golden.channels_last(labels))
    targets = Targets(lesion=lesion, aligned_lesion=lesion, tissue=tissue)
    optimizer = make_optimizer(OptimizerSettings(learning_rate=1e-3), steps=10)
    params = {
        name: from_torch(golden.parameters("resunet_f8", seed), NET, name)
        for name, seed in (("D", 1012), ("F", 1013))
    }

    @jax.jit
    def train_step(params, state, step):
        def loss(params):
            outputs = outputs_of(params, aligned)
            return joint_loss(outputs, targets, AUTHORS, step)

        (total, values), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        updates, state = optimizer.update(gradient, state, params)
        segmentation = sum(values[name] for name in WARM_START)
        return optax.apply_updates(params, updates), state, total, segmentation

    state, losses = optimizer.init(params), []
    with jax.default_matmul_precision("highest"):
        for step in range(6):
            params, state, total, segmentation = train_step(params, state, step)
            losses.append((total, segmentation, (total - segmentation) / 10))
    np.testing.assert_allclose(losses, golden.value("steps_total_seg_reg"), rtol=1e-3)
