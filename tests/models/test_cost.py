import re
from dataclasses import replace
from functools import partial
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adn_jax.config import (
    AlignmentNetSettings,
    AlignmentSettings,
    PrepareSettings,
    Recipe,
    SystemSettings,
    UNetSettings,
)
from adn_jax.models import (
    apply_alignment_net,
    apply_unet,
    init_alignment_net,
    init_unet,
)
from adn_jax.models import unets as residual_unet_module
from adn_jax.models.convolution import convolve
from adn_jax.models.cost import layer_costs, step_bytes, step_flops, step_networks
from adn_jax.models.precision import repeat
from adn_jax.training.stages import loss_of_joint
from adn_jax.types import Batch

SHAPE = (8, 16, 8)
UNET = UNetSettings(widths=(2, 4, 8), groups=2)
ALIGNMENT_NET = AlignmentNetSettings(widths=(4, 8))
PAPER = Recipe(name="paper", tissue_source="network")
SMALL = Recipe(
    name="small",
    system=SystemSettings(
        prepare=PrepareSettings(shape=SHAPE),
        alignment_net=ALIGNMENT_NET,
        disentangle_net=UNET,
        segment_net=replace(UNET, kind="unet"),
    ),
)

CONVOLUTION = re.compile(
    r"stablehlo\.convolution.*?x\[(?P<kernel>[^\]]*)\]->.*?"
    r": \(tensor<[^>]*>, tensor<(?P<taps>[^>]*)>\) -> tensor<(?P<out>[^>]*)>"
)


def count_convolutions(function, *inputs):
    """FLOPs of every convolution in what a TPU would be given to compile, not packed.

    GPUs have transposed convolutions instead, whose zeros XLA counts and cuDNN skips.
    """
    traced = jax.jit(function).trace(*inputs)
    text = traced.lower(lowering_platforms=("tpu",)).as_text()
    # a function that is called twice is written down once
    return inlined_count(functions_of(text), "main")


def functions_of(text):
    parts = re.split(r"func\.func (?:public|private) @([\w.]+)", text)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def inlined_count(functions, name):
    total = 0
    for line in functions[name].splitlines():
        if found := CONVOLUTION.search(line):
            sizes = [int(n) for n in found["taps"].split("x")[:-1]]
            features = sizes[found["kernel"].split(", ").index("o")]
            outputs = [int(n) for n in found["out"].split("x")[:-1]]
            total += 2 * prod(outputs) * prod(sizes) // features
        elif found := re.search(r"call @([\w.]+)\(", line):
            total += inlined_count(functions, found[1])
    return total


def convolutions(layers):
    return [layer for layer in layers if layer.kind not in ("Head", "Dense")]


@pytest.mark.parametrize("in_plane_levels", [0, 1, 2])
@pytest.mark.parametrize("kind", ["residual_unet", "unet"])
def test_computed_unet_equals_what_is_compiled(kind, in_plane_levels):
    settings = replace(UNET, kind=kind, in_plane_levels=in_plane_levels)
    params = init_unet(jax.random.key(0), settings, 2)
    counted = count_convolutions(
        partial(apply_unet, settings=settings), params, jnp.zeros((1, *SHAPE, 2))
    )
    layers = convolutions(layer_costs(settings, SHAPE, 2))
    assert counted == sum(layer.computed_flops for layer in layers)


@pytest.mark.parametrize("in_plane_levels", [0, 1])
def test_plain_unet_equals_repeat_and_convolve(monkeypatch, in_plane_levels):
    monkeypatch.setattr(
        residual_unet_module,
        "convolve_upsampled",
        lambda volume, kernel, *, flat: convolve(
            repeat(volume, (1 if flat else 2, 2, 2)), kernel, 1
        ),
    )
    # not traced elsewhere
    settings = replace(UNET, groups=1, in_plane_levels=in_plane_levels)
    params = init_unet(jax.random.key(0), settings)
    counted = count_convolutions(
        partial(apply_unet, settings=settings), params, jnp.zeros((1, *SHAPE, 1))
    )
    layers = convolutions(layer_costs(settings, SHAPE))
    assert counted == sum(layer.flops for layer in layers)


def test_view_net_equals_what_is_compiled():
    params = init_alignment_net(jax.random.key(0), ALIGNMENT_NET, SHAPE)
    counted = count_convolutions(
        partial(apply_alignment_net, settings=ALIGNMENT_NET),
        params,
        jnp.zeros((1, *SHAPE, 1)),
    )
    layers = convolutions(layer_costs(ALIGNMENT_NET, SHAPE))
    assert counted == sum(layer.flops for layer in layers)
    assert counted == sum(layer.computed_flops for layer in layers)


def test_layers_carry_names_and_sizes():
    layers = {layer.path: layer for layer in layer_costs(UNET, SHAPE)}
    assert len(layers) == 3 * 5 + 2 + 1
    up = layers["up_1"]
    assert (up.kind, up.shape_zyx, up.taps) == ("UpConvolution", SHAPE, 27)
    assert (up.inputs, up.features, up.voxels) == (4, 2, 1024)
    assert layers["head"].flops == 2 * 1024 * 2
    assert layer_costs(ALIGNMENT_NET, SHAPE)[-1].flops == 2 * 8 * 6


def test_side_heads_count_in_training_alone():
    recipe = SMALL.with_fields(segment_net=replace(UNET, deep_supervision=1))
    layers = {
        layer.path: layer for layer in layer_costs(recipe.system.segment_net, SHAPE)
    }
    assert layers["side_head_1"].shape_zyx == (4, 8, 4)
    assert layers["side_head_1"].flops == 2 * 4 * 8 * 4 * 4

    def paths(what):
        (segment,) = (n for n in step_networks(recipe, what) if n.part == "segment")
        return {layer.path for layer in segment.layers}

    assert paths("joint") - paths("inference") == {"side_head_1"}


def test_layers_of_a_network_that_jit_has_seen():
    params = init_unet(jax.random.key(0), UNET)
    see = partial(apply_unet, settings=UNET)
    jax.eval_shape(see, params, jnp.zeros((1, *SHAPE, 1)))
    assert layer_costs(UNET, SHAPE) == layer_costs(UNET, SHAPE) != ()


def test_figures_of_the_paper():
    forward = {
        network.part: network.flops["forward"]
        for network in step_networks(PAPER, "joint")
    }
    assert forward["disentangle"] == pytest.approx(1.880e12, rel=1e-3)
    assert forward["align"] == pytest.approx(0.087e12, rel=1e-2)
    assert step_flops(PAPER, "joint", 6) == pytest.approx(79.5e12, rel=2e-3)
    maps = replace(PAPER, tissue_source="maps")
    without = step_flops(PAPER, "joint", 6) - step_flops(maps, "joint", 6)
    assert without == pytest.approx(11.3e12, rel=2e-3)
    bfloat16 = PAPER.with_fields(precision="bfloat16")
    assert step_bytes(bfloat16, "joint", 6) == pytest.approx(307e9, rel=0.02)
    assert step_bytes(PAPER, "joint", 6) == 2 * step_bytes(bfloat16, "joint", 6)


def test_steps_run_the_networks_that_a_recipe_uses():
    def parts(recipe, what):
        return [(n.part, n.trained) for n in step_networks(recipe, what)]

    assert parts(PAPER, "align") == [("align", True)]
    assert parts(PAPER, "inference") == [
        ("align", False),
        ("disentangle", False),
        ("segment", False),
    ]
    searched = SMALL.with_fields(alignment=AlignmentSettings(network=False))
    assert parts(searched, "joint") == [("disentangle", True), ("segment", True)]
    assert step_flops(searched, "align", 1) == 0


def test_joint_step_equals_what_is_compiled():
    recipe = SMALL.with_fields(
        disentangle_net=replace(UNET, kind="unet", widths=(4, 4))
    )
    key = jax.random.key(0)
    params = {
        "disentangle": init_unet(key, recipe.system.disentangle_net),
        "segment": init_unet(key, recipe.system.segment_net),
    }
    frozen = {"align": init_alignment_net(key, ALIGNMENT_NET, SHAPE)}
    step = jnp.zeros((), jnp.int32)

    def loss(params, volume, tissue, case):
        batch = Batch(volume=volume, lesion=volume, tissue=tissue, case=case)
        return loss_of_joint(recipe, params, frozen, batch, key, step)

    with jax.numpy_dtype_promotion("standard"):
        counted = count_convolutions(
            jax.grad(loss, has_aux=True),
            params,
            jnp.zeros((2, *SHAPE, 1)),
            jnp.zeros((2, *SHAPE), jnp.int32),
            jnp.arange(2),
        )
    products = sum(
        layer.flops * (3 if network.trained else 1)
        for network in step_networks(recipe, "joint")
        for layer in network.layers
        if layer.kind in ("Head", "Dense")
    )
    np.testing.assert_equal(counted, step_flops(recipe, "joint", 2) - 2 * products)
