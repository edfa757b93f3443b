"""Two whole updates of the peer equal ours: values and the parameters after them."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import pytest

from adn_jax.benchmarks.job import draw_cases
from adn_jax.config import (
    AlignLossSettings,
    AsymmetrySettings,
    AugmentSettings,
    JointLossSettings,
    OptimizerSettings,
    StageSettings,
)
from adn_jax.data.batches import make_batch
from adn_jax.geometry.rigid import Pose
from adn_jax.models import init_unet
from adn_jax.pipeline.adn import init_adn
from adn_jax.training.stages import make_stage
from adn_jax.training.steps import (
    ABSENT,
    initial_state,
    make_optimizer,
    make_train_step,
)
from tests.benchmarks.torch_reference.ours import (
    RECIPE,
    SHAPE,
    draw_params,
)

torch = pytest.importorskip("torch")
from benchmarks.torch_reference import training  # noqa: E402
from benchmarks.torch_reference.cases import made_up_cases  # noqa: E402
from benchmarks.torch_reference.chain import Adn  # noqa: E402
from benchmarks.torch_reference.networks import make_unet  # noqa: E402
from benchmarks.torch_reference.parameters import state_of  # noqa: E402

STILL = AugmentSettings(gamma=0.0, mirror=False, rotation_deg=0.0)

OPTIMIZER = OptimizerSettings(learning_rate=1e-2, weight_decay=0.1)

STAGE = StageSettings(steps=3, augment=STILL, optimizer=OPTIMIZER)

PAPER = replace(RECIPE, joint=STAGE, joint_loss=JointLossSettings(warm_start_steps=1))

AUTHORS = RECIPE.with_fields(
    tissue_source="network",
    joint_loss=JointLossSettings(
        grid="aligned",
        tissue=0.0,
        tissue_one_way=1.0,
        size=0.0,
        size_in_asymmetry=1.0,
        symmetric=0.0,
        symmetric_voxels=1.0,
        intrinsic=0.0,
        intrinsic_positive=1.0,
        warm_start_steps=0,
    ),
    joint=replace(STAGE, optimizer=replace(OPTIMIZER, clip_norm=0.01)),
    asymmetry=AsymmetrySettings("positive_part", "clipped"),
)

ALIGN = replace(
    RECIPE,
    align=STAGE,
    align_loss=AlignLossSettings(
        mirror_in_view=1.0, reconstruction=1.0, pose_regression=0.1
    ),
)


def our_steps(recipe, what, params, frozen):
    """Values of two updates and the parameters after them."""
    stage = make_stage(what, recipe)
    optimizer = make_optimizer(stage.settings.optimizer, stage.settings.steps)
    step = jax.jit(make_train_step(stage.loss, optimizer, jax.random.key(0)))
    state = initial_state(params, optimizer)
    batch, values = make_batch(draw_cases(SHAPE, 2), jnp.asarray), []
    with jax.default_matmul_precision("highest"):
        for _ in range(2):
            state, of_step = step(state, frozen, batch)
            assert of_step.pop(ABSENT) == 0
            values.append(of_step)
    return values, state.params


def check_values(found, expected):
    for found_of_step, expected_of_step in zip(found, expected, strict=True):
        assert found_of_step.keys() == expected_of_step.keys()
        for name, value in found_of_step.items():
            expected_value = pytest.approx(float(expected_of_step[name]), rel=2e-4)
            assert value.item() == expected_value, name


def check_parameters(network, params, start):
    """Equal beside how far they went."""
    wanted, before = state_of(params), state_of(start)
    for name, parameter in network.named_parameters():
        way = (wanted[name] - before[name]).abs().max()
        torch.testing.assert_close(
            parameter.detach(), wanted[name], rtol=0, atol=0.02 * float(way), msg=name
        )


@pytest.mark.parametrize("recipe", [PAPER, AUTHORS], ids=["paper", "authors"])
def test_joint_step_equals_ours(recipe):
    params = draw_params(partial(init_adn, system=recipe.system))
    tissue = draw_params(partial(init_unet, settings=recipe.tissue_net))
    start = {"disentangle": params.disentangle, "segment": params.segment}
    frozen = {"align": params.align, "tissue": tissue}
    values, after = our_steps(recipe, "joint", start, frozen)

    adn, tissue_net = Adn(recipe.system).train(), make_unet(recipe.tissue_net).eval()
    adn.align.load_state_dict(state_of(params.align))
    tissue_net.load_state_dict(state_of(tissue))
    for name, network in start.items():
        getattr(adn, name).load_state_dict(state_of(network))
    trained = [*adn.disentangle.parameters(), *adn.segment.parameters()]
    trainer = training.Trainer(trained, recipe.joint)
    cases = made_up_cases(recipe, 2, "cpu", ("lesion", "tissue"))
    found = [
        training.joint_step(adn, tissue_net, trainer, cases, recipe) for _ in range(2)
    ]
    check_values(found, values)
    for name in start:
        check_parameters(getattr(adn, name), after[name], start[name])
    assert all(parameter.grad is None for parameter in adn.align.parameters())


def test_align_step_equals_ours():
    params = draw_params(partial(init_adn, system=ALIGN.system)).align
    frozen = {"search": Pose.identity(2)}
    values, after = our_steps(ALIGN, "align", params, frozen)
    adn = Adn(ALIGN.system)
    adn.align.load_state_dict(state_of(params))
    trainer = training.Trainer(adn.align.parameters(), ALIGN.align)
    cases = made_up_cases(ALIGN, 2, "cpu", ())
    found = [training.align_step(adn.align, trainer, cases, ALIGN) for _ in range(2)]
    check_values(found, values)
    check_parameters(adn.align, after, params)
