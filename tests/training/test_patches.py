"""F that sees patches of a head: its update, its statistics, its whole training."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adn_jax.config import (
    AlignmentSettings,
    DeepMedicSettings,
    JointLossSettings,
    SymmetryNetSettings,
)
from adn_jax.losses.segmentation import cross_entropy
from adn_jax.training.runs import initial_params, load_run
from adn_jax.training.stages import make_stage
from adn_jax.training.steps import (
    initial_state,
    make_optimizer,
    make_train_step,
    replace_leaves,
)
from adn_jax.training.train import train
from adn_jax.types import Batch
from tests.training.tiny import head, tiny_recipe, write_heads

DEEPMEDIC = DeepMedicSettings(
    widths=(2, 4),
    steps=(1, 3),
    residual=(),
    joined_widths=(4, 4),
    dropout=(0.0, 0.0, 0.0),
    samples=2,
    side=5,
    tile=9,
)

SEAN = SymmetryNetSettings(widths=(2, 4), windows=(2, 2), samples=2)

NETS = pytest.mark.parametrize("net", [DEEPMEDIC, SEAN], ids=lambda net: net.kind)


def recipe_of(net, **changes):
    recipe = tiny_recipe(
        segment_net=net,
        segment_input="aligned",
        zscore_in_brain=True,
        tissue_source="none",
        alignment=AlignmentSettings(network=False),
        joint_loss=JointLossSettings(regularisation=0.0, warm_start_steps=0),
    )
    return recipe.with_fields(**changes)


def two_heads():
    heads = [head("any", seed) for seed in (0, 1)]
    return Batch(
        volume=jnp.stack([h.volume for h in heads])[..., None],
        lesion=jnp.stack([h.lesion for h in heads])[..., None],
        tissue=jnp.stack([h.tissue for h in heads]),
        case=jnp.arange(2),
    )


@NETS
def test_updates_lower_the_loss_and_move_the_statistics(net):
    recipe = recipe_of(net)
    stage = make_stage("joint", recipe)
    optimizer = make_optimizer(stage.settings.optimizer, 100)
    params = initial_params(jax.random.key(0), recipe, "joint")
    before = jax.device_get(params["segment"]["statistics"])
    step = make_train_step(stage.loss, optimizer, jax.random.key(1))
    state, losses, batch = initial_state(params, optimizer), [], two_heads()
    for _ in range(25):
        state, values = step(state, {}, batch)
        losses.append(float(values["loss"]))
        assert "statistics" not in values
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
    after = jax.device_get(state.params["segment"]["statistics"])
    moved = jax.tree.map(lambda a, b: not np.allclose(a, b), before, after)
    assert all(jax.tree.leaves(moved))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after))


@NETS
def test_the_loss_is_that_of_the_windows(net, monkeypatch):
    recipe = recipe_of(net, joint_loss=JointLossSettings(
        regularisation=0.0, warm_start_steps=0, generalised_dice=0.0))  # fmt: skip
    seen = {}

    def kept(probability, label):
        seen["label"] = label.shape
        return cross_entropy(probability, label)

    monkeypatch.setattr("adn_jax.losses.recipes.SEGMENTATION", {"cross_entropy": kept})
    params = initial_params(jax.random.key(0), recipe, "joint")
    stage = make_stage("joint", recipe)
    total, values = stage.loss(params, {}, two_heads(), jax.random.key(2), jnp.int32(0))
    assert total == pytest.approx(float(values["cross_entropy"]))
    inner = (5, 5, 5) if net.kind == "deepmedic" else (1, 16, 16)
    assert seen["label"] == (4, *inner, 1)


def test_leaves_are_replaced_where_there_are_new_ones():
    tree = {"a": {"b": 1, "c": 2}, "d": 3}
    assert replace_leaves(tree, {"a": {"c": 5}}) == {"a": {"b": 1, "c": 5}, "d": 3}
    assert replace_leaves(tree, {}) == tree


def test_a_run_is_trained_and_read_again(tmp_path):
    data = write_heads(tmp_path / "data", train=3, validation=2).folder
    recipe = recipe_of(SEAN)
    optimizer = replace(recipe.joint.optimizer, ema_decay=0.9)
    recipe = replace(recipe, joint=replace(recipe.joint, steps=4, optimizer=optimizer))
    assert train(recipe, data, tmp_path / "run") == 0
    model = load_run(tmp_path / "run")
    assert model.params.disentangle is model.params.align is None
    assert set(model.params.segment) == {"weights", "statistics"}
