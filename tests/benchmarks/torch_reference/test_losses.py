"""Every term of the peer's losses equals ours, in value and gradient."""

from dataclasses import fields, replace
from pathlib import Path

import jax
import numpy as np
import pytest

from adn_jax.config import AlignLossSettings, JointLossSettings
from adn_jax.config.recipe_file import load_recipe
from adn_jax.errors import UserError
from adn_jax.geometry.rigid import Pose
from adn_jax.losses import recipes
from tests.benchmarks.torch_reference.ours import by_name, channels_first
from tests.losses.arrays import random_alignment, random_chain

torch = pytest.importorskip("torch")
from benchmarks.torch_reference import chain, losses  # noqa: E402

CONFIGS = Path(__file__).parents[3] / "configs"

PAPER, AUTHORS, OURS = (
    replace(load_recipe(CONFIGS / f"{name}.py").joint_loss, warm_start_steps=2)
    for name in ("adn_paper", "adn_reference", "adn")
)

ALIGN = AlignLossSettings(
    mirror=2.0, mirror_in_view=0.5, reconstruction=3.0, pose_regression=0.25
)


def theirs(kind, ours):
    """The peer's record of our arrays, every one of them a leaf with a gradient."""

    def leaf(value):
        if isinstance(value, Pose):
            return chain.Pose(leaf(value.rotation), leaf(value.translation))
        return torch.tensor(channels_first(value), requires_grad=True)

    values = by_name(ours)
    return kind(**{field.name: leaf(values[field.name]) for field in fields(kind)})


def same_values(found, expected):
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert value.item() == pytest.approx(float(expected[name]), rel=2e-5), name


def same_gradients(found, expected):
    ours = by_name(expected)
    for name in (field.name for field in fields(found)):
        pairs = [(getattr(found, name), ours[name])]
        if isinstance(ours[name], Pose):
            parts = ("rotation", "translation")
            pairs = [tuple(getattr(one, part) for one in pairs[0]) for part in parts]
        for leaf, gradient in pairs:
            gradient = channels_first(gradient)
            own = np.zeros_like(gradient) if leaf.grad is None else leaf.grad
            np.testing.assert_allclose(own, gradient, rtol=1e-4, atol=1e-7)


def test_all_terms_are_there():
    for table in ("ALIGNMENT", "SEGMENTATION", "DISENTANGLEMENT"):
        ours = getattr(recipes, table).keys() - set(losses.ONLY_OURS)
        assert getattr(losses, table).keys() == ours


@pytest.mark.parametrize("step", [0, 2])
@pytest.mark.parametrize("settings", [PAPER, AUTHORS, OURS])
def test_joint_loss_equals_ours(settings, step):
    outputs, targets = random_chain()

    def ours(outputs):
        return recipes.joint_loss(outputs, targets, settings, step)

    (total, values), gradient = jax.jit(jax.value_and_grad(ours, has_aux=True))(outputs)
    their_outputs = theirs(chain.Outputs, outputs)
    their_targets = theirs(losses.Targets, targets)
    found, found_values = losses.joint_loss(
        their_outputs, their_targets, settings, step
    )
    found.backward()
    same_values({"loss": found, **found_values}, {"loss": total, **values})
    same_gradients(their_outputs, gradient)


@pytest.mark.parametrize("warm_start_steps", [0, 1])
def test_align_loss_equals_ours(warm_start_steps):
    settings = replace(ALIGN, warm_start_steps=warm_start_steps)

    def ours(outputs):
        arrays = {f.name: getattr(outputs, f.name) for f in fields(outputs)}
        return recipes.align_loss(**arrays, settings=settings, step=0)

    outputs = random_alignment()
    (total, values), gradient = jax.jit(jax.value_and_grad(ours, has_aux=True))(outputs)
    their_outputs = theirs(losses.AlignOutputs, outputs)
    found, found_values = losses.align_loss(their_outputs, settings, 0)
    found.backward()
    same_values({"loss": found, **found_values}, {"loss": total, **values})
    same_gradients(their_outputs, gradient)


def test_extra_terms_are_refused():
    with pytest.raises(UserError, match=r"mine:term.*leave them out"):
        losses.refuse_extra(JointLossSettings(extra=("mine:term",)))
