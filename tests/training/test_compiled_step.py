"""What the compiled train step of D and F must and must not hold."""

import logging
import re
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import pytest

from adn_jax.config import AlignmentSettings
from adn_jax.data.batches import open_split, train_batches
from adn_jax.distributed.mesh import device_mesh, place_cases, replicate
from adn_jax.models import convolution_cpu as slices
from adn_jax.training.runs import initial_params
from adn_jax.training.stages import make_stage
from adn_jax.training.steps import initial_state, make_optimizer, make_train_step
from tests.training import tiny

RECIPE = tiny.tiny_recipe(
    tissue_source="network", alignment=AlignmentSettings(), precision="bfloat16"
)
BATCH = 2
DEVICES = 2
WHOLE = slices.STRIP_BYTES


def step_and_inputs(recipe=RECIPE):
    """The jitted joint step, its state, and the weights of the finished stages."""
    stage = make_stage("joint", recipe)
    optimizer = make_optimizer(stage.settings.optimizer, stage.settings.steps)
    keys = jax.random.split(jax.random.key(0), 4)
    state = initial_state(initial_params(keys[0], recipe, "joint"), optimizer)
    frozen = {
        name: initial_params(key, recipe, name)
        for name, key in zip(("align", "tissue"), keys[1:3], strict=True)
    }
    parts = stage.settings.micro_batches
    step = make_train_step(stage.loss, optimizer, keys[3], micro_batches=parts)
    return step, state, frozen


COLLECTIVES = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"


@pytest.fixture
def batches(tmp_path):
    return train_batches(open_split(tiny.write_heads(tmp_path), "train"), BATCH, seed=0)


def lowered(batches, platform, recipe=RECIPE):
    step, state, frozen = step_and_inputs(recipe)
    traced = step.trace(state, frozen, next(batches))
    return traced.lower(lowering_platforms=(platform,)).as_text()


def test_the_memory_of_the_state_is_used_again(batches):
    step, state, frozen = step_and_inputs()
    compiled = step.lower(state, frozen, next(batches)).compile()
    state_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert compiled.memory_analysis().alias_size_in_bytes == state_bytes
    after, _ = compiled(state, frozen, next(batches))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert int(after.step) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strip_bytes", "parts", "backend"),
    [(WHOLE, 1, "cpu"), (1, 1, "cpu"), (WHOLE, 2, "cpu"), (WHOLE, 2, "gpu")],
)
def test_a_split_batch_moves_no_maps(
    monkeypatch, set_constant, tmp_path, strip_bytes, parts, backend
):
    """Between devices travel sums alone: of gradients, and means over the batch."""
    set_constant("STRIP_BYTES", strip_bytes)
    # micro-batches in line or as a loop
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    joint = replace(RECIPE.joint, micro_batches=parts)
    mesh = device_mesh(DEVICES)
    step, state, frozen = step_and_inputs(replace(RECIPE, joint=joint))
    split = open_split(tiny.write_heads(tmp_path), "train")
    place = partial(place_cases, mesh=mesh)
    cases = next(train_batches(split, 2 * parts, seed=0, place=place))
    inputs = replicate((state, frozen), mesh)
    text = step.lower(*inputs, cases).compile().as_text()
    moves = set(re.findall(rf" ({COLLECTIVES})(?:-start)?\(", text))
    assert moves == {"all-reduce"}


def test_a_run_compiles_its_step_once(batches, caplog):
    step, state, frozen = step_and_inputs()
    step = jax.jit(step.__wrapped__, donate_argnums=0)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        for _ in range(4):
            state, _ = step(state, frozen, next(batches))
    compiled = [r for r in caplog.messages if "Compiling jit(train_step)" in r]
    assert len(compiled) == 1


CONVOLUTIONS = {
    "cuda": {
        "[b, 0, 1, 2, f]x[0, 1, 2, i, o]->[b, 0, 1, 2, f]",
        "[b, 0, 1, 2, f]x[0, 1, 2, o, i]->[b, 0, 1, 2, f]",  # transposed, upsampling
        "[f, 0, 1, 2, b]x[i, 0, 1, 2, o]->[0, 1, 2, b, f]",  # of kernels
    },
    "tpu": {  # slices as cases
        "[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]",
        "[f, 0, 1, b]x[i, 0, 1, o]->[0, 1, b, f]",
    },
}
"""Where batch, axes and channels stand in all convolutions of a step."""


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_feature_maps_are_never_transposed(batches, platform):
    """Elsewhere than in the sampler and the pixel shuffle, which move no more axes."""
    text = lowered(batches, platform)
    convolutions = re.findall(
        r"stablehlo.convolution.*dim_numbers = (.*?), window", text
    )
    assert len(convolutions) > 30
    assert set(convolutions) <= CONVOLUTIONS[platform]
    moved = re.findall(r"stablehlo.transpose.*dims = \[(.*?)\]", text)
    allowed = {
        "0, 1, 2, 4, 3": "a kernel, for the input gradient",
        "0, 2, 3, 1, 4": "slices to columns, for the sampler",
        "0, 3, 1, 2, 4": "columns to slices",
        "0, 1, 4, 2, 5, 3, 6, 7": "outputs of a corner to voxels",
        "0, 1, 3, 5, 2, 4, 6, 7": "voxels of a block to channels",
    }
    of_maps = {axes for axes in moved if axes.startswith("0, ") and len(axes) > 10}
    assert of_maps <= set(allowed), of_maps


def test_the_networks_compute_in_bfloat16_only(batches):
    text = lowered(batches, "cuda")
    results = re.findall(r"stablehlo.convolution.*-> tensor<\S*x(\w+)>", text)
    assert set(results) == {"bf16"}
    full = lowered(batches, "cuda", RECIPE.with_fields(precision="float32"))
    results = re.findall(r"stablehlo.convolution.*-> tensor<\S*x(\w+)>", full)
    assert set(results) == {"f32"}


def test_parameters_optimizer_and_values_stay_float32(batches):
    step, state, frozen = step_and_inputs()
    after, values = jax.eval_shape(step, state, frozen, next(batches))
    floats = [
        leaf
        for leaf in jax.tree.leaves((after, values))
        if jnp.issubdtype(leaf.dtype, jnp.floating)
    ]
    assert len(floats) > 60
    assert {leaf.dtype for leaf in floats} == {jnp.dtype("float32")}
