from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adn_jax.benchmarks.budget import (
    BudgetRow,
    Hardware,
    Instruction,
    floors,
    make_budget,
    step_budget,
    work_of,
)
from adn_jax.config import (
    AlignmentNetSettings,
    PrepareSettings,
    Recipe,
    SystemSettings,
    UNetSettings,
)
from adn_jax.models.cost import step_bytes, step_flops, step_networks
from adn_jax.training.runs import initial_params
from adn_jax.training.stages import make_stage
from adn_jax.training.steps import initial_state, make_optimizer, make_train_step
from adn_jax.types import Batch
from tests.benchmarks.undisturbed import undisturbed

SHAPE = (8, 16, 16)
UNET = UNetSettings(kind="unet", widths=(2, 4), dropout=0.0)
RECIPE = Recipe(
    name="tiny",
    system=SystemSettings(
        prepare=PrepareSettings(shape=SHAPE),
        alignment_net=AlignmentNetSettings(widths=(4,)),
        disentangle_net=UNET,
        segment_net=UNET,
    ),
    tissue_source="network",
    tissue_net=replace(UNET, outputs=5),
)
HARDWARE = Hardware(
    networks=step_networks(RECIPE, "joint"),
    batch=2,
    bytes_a_number=4,
    flops=1e12,
    bytes_a_second=1e10,
)
EXPLAINED = 0.6
"""Least share of a step's time that its rows explain."""

FORWARD = "jit(train_step)/jvp(segment)/jit(apply_unet)/ResidualUNet/"
BACKWARD = "jit(train_step)/transpose(jvp(disentangle))/jit(apply_unet)/ResidualUNet/"


def zeros(name):
    """Parameters of a stage: what they are makes no difference to the time."""
    draw = partial(initial_params, recipe=RECIPE, stage=name)
    shapes = jax.eval_shape(draw, jax.random.key(0))
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


@pytest.fixture(scope="module")
def budget():
    """Budget of a joint step, as the training loop runs it."""
    stage = make_stage("joint", RECIPE)
    optimizer = make_optimizer(stage.settings.optimizer, 1)
    step = make_train_step(stage.loss, optimizer, jax.random.key(0))
    state = initial_state(zeros("joint"), optimizer)
    frozen = {name: zeros(name) for name in ("align", "tissue")}
    maps, tissue = jnp.zeros((2, *SHAPE, 1)), jnp.zeros((2, *SHAPE), jnp.int32)
    batch = Batch(volume=maps, lesion=maps, tissue=tissue, case=jnp.arange(2))
    # jax's lowering fills trees with records of its own, which annotations refuse
    leaves, tree = jax.tree.flatten((state, frozen, batch))
    flat_step = jax.jit(lambda *leaves: jax.tree.leaves(step(*tree.unflatten(leaves))))
    compiled = flat_step.lower(*leaves).compile()

    def run():
        return compiled(*leaves)

    jax.block_until_ready(run())
    return undisturbed(lambda: step_budget(run, compiled, HARDWARE), EXPLAINED)


def test_budget_explains_the_step(budget):
    assert EXPLAINED <= budget.coverage <= 1.05
    parts = {row.part for row in budget.rows if row.seconds > 0}
    assert parts >= {
        "augment",
        "align",
        "disentangle",
        "segment",
        "tissue",
        "loss",
        "optimizer",
    }
    named = sum(row.share for row in budget.rows if row.part != "other")
    assert named > 0.8 * budget.coverage
    times = [row.seconds for row in budget.rows]
    assert times == sorted(times, reverse=True)


def test_budget_tells_the_kinds_of_work(budget):
    found = {(row.part, row.kind, row.direction) for row in budget.rows if row.seconds}
    for part in ("disentangle", "segment"):
        assert (part, "convolution", "forward") in found
        assert (part, "normalisation", "forward") in found
        assert (part, "normalisation", "backward") in found
    assert not any(part == "tissue" and way != "forward" for part, _, way in found)


def test_floors_add_up_to_the_step(budget):
    compute, memory = zip(*floors(HARDWARE).values(), strict=True)
    computed = [sum(each.computed_flops.values()) for each in HARDWARE.networks]
    assert sum(compute) == pytest.approx(2 * sum(computed) / 1e12)
    assert sum(compute) * 1e12 == pytest.approx(step_flops(RECIPE, "joint", 2))
    assert sum(memory) == pytest.approx(step_bytes(RECIPE, "joint", 2) / 1e10)
    assert sum(row.compute_floor for row in budget.rows) == pytest.approx(sum(compute))
    assert sum(row.memory_floor for row in budget.rows) == pytest.approx(sum(memory))


@pytest.mark.parametrize(
    ("opcodes", "scope", "work"),
    [
        (
            {"convolution"},
            FORWARD + "encoder_0/conv_1/convolution/conv_general_dilated",
            ("segment", "convolution", "forward"),
        ),
        (
            {"__cudnn$convBackwardFilter"},
            BACKWARD + "up_0/kernel_gradient/cond/branch_1_fun/conv_general_dilated",
            ("disentangle", "convolution", "kernel gradient"),
        ),
        (
            {"dot"},
            BACKWARD + "head/dot_general",
            ("disentangle", "convolution", "backward"),
        ),
        (
            {"dot"},
            FORWARD + "up_0/pdi,qhj,rwk,ijkco->dhwcpqro/dot_general",
            ("segment", "up-sampling", "forward"),
        ),
        (
            {"pad", "concatenate"},
            FORWARD + "encoder_0/conv_1/convolution/cond/branch_0_fun/concatenate",
            ("segment", "layout of convolution", "forward"),
        ),
        (
            {"multiply", "reduce"},
            BACKWARD + "decoder_0/conv_1/norm/reduce_sum",
            ("disentangle", "normalisation", "backward"),
        ),
        (
            {"select", "compare"},
            BACKWARD + "decoder_0/select_n",
            ("disentangle", "activation", "backward"),
        ),
        (
            {"maximum"},
            FORWARD + "max_pool/select_n",
            ("segment", "pooling", "forward"),
        ),
        (
            {"gather", "multiply"},
            "jit(train_step)/jvp(align)/vmap()/gather",
            ("align", "sampler", "forward"),
        ),
        ({"copy"}, "", ("other", "copy", "forward")),
        (
            {"add", "multiply"},
            "jit(train_step)/optimizer/add",
            ("optimizer", "elementwise", "forward"),
        ),
        (
            {"reduce", "log"},
            "jit(train_step)/jvp(loss)/reduce_sum",
            ("loss", "reduction", "forward"),
        ),
    ],
)
def test_work_of_an_instruction(opcodes, scope, work):
    assert work_of(Instruction(frozenset(opcodes), scope)) == work


def test_rows_stand_for_measured_work_and_for_floors():
    conv, norm = (("segment", kind, "forward") for kind in ("convolution", "norm"))
    made = make_budget({norm: 0.1, conv: 0.5}, 2.0, {conv: (0.4, 0.2)})
    assert made.coverage == pytest.approx(0.3)
    assert made.rows == (
        BudgetRow(*conv, 0.5, 0.25, 0.4, 0.2),
        BudgetRow(*norm, 0.1, 0.05, 0.0, 0.0),
    )
    assert make_budget({}, 1.0, {conv: (0.4, 0.2)}).rows == (
        BudgetRow(*conv, 0.0, 0.0, 0.4, 0.2),
    )
