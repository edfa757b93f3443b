"""What a step costs at least: multiplications of each layer, and passes over memory.

Counted from the networks themselves, traced on shapes alone, so that a figure in FLOP/s
never depends on how the layers are computed.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from adn_jax.config import AlignmentNetSettings, Recipe, UNetSettings
from adn_jax.errors import UserError
from adn_jax.models import (
    apply_alignment_net,
    apply_unet_levels,
    init_alignment_net,
    init_unet,
)
from adn_jax.models.blocks import Head
from adn_jax.models.precision import map_type

StepKind = Literal["align", "tissue", "joint", "inference"]
"""A train step of T, of the tissue net, of D and F, or the chain T, D, F."""

PASSES = {
    ("convolution", "forward"): 2,
    ("normalisation", "forward"): 3,
    ("convolution", "input gradient"): 2,
    ("convolution", "kernel gradient"): 2,
    ("normalisation", "backward"): 5,
}
"""How often each layer's output goes through memory, by kind of work and direction.

Its convolution writes it, the normalisation behind reads it twice (statistics, values)
and writes, the next convolution reads. Backward, the next convolution's input gradient
writes the output's gradient, the normalisation reads both twice and writes, the
convolution's own input gradient reads that, and its kernel gradient reads that and the
layer's input. In sum 5 forward, 9 backward.
"""


@dataclass(frozen=True)
class LayerCost:
    """One layer that multiplies, for one volume."""

    path: str
    """Names of the modules down to the layer, joined by a slash."""
    kind: str
    """Class of the layer."""
    shape_zyx: tuple[int, ...]
    """Voxels of the output; empty for a dense layer."""
    taps: int
    """Taps of the kernel, all axes."""
    inputs: int
    """Channels in."""
    features: int
    """Channels out."""
    flat: bool = False
    """Whether upsampling in the layer leaves z as it is."""

    @property
    def voxels(self) -> int:
        """Voxels of the output."""
        return math.prod(self.shape_zyx)

    @property
    def flops(self) -> int:
        """Multiplications and additions of the plain layer, those with zeros too."""
        return 2 * self.voxels * self.taps * self.inputs * self.features

    @property
    def computed_flops(self) -> int:
        """Those of the layer as `models.convolution` computes it on accelerators.

        Collapsed upsampling: 2 taps for 3 and 2 outputs a corner along each axis that
        doubles, which has one more corner than small voxels.
        """
        if self.kind != "UpConvolution":
            return self.flops
        z, y, x = self.shape_zyx
        corners = (z if self.flat else z // 2 + 1) * (y // 2 + 1) * (x // 2 + 1)
        taps, outputs = (12, 4) if self.flat else (8, 8)
        return 2 * corners * taps * self.inputs * outputs * self.features


@dataclass(frozen=True)
class NetworkCost:
    """One network in a step, for one volume."""

    part: str
    """Part of the system: align, disentangle, segment or tissue."""
    layers: tuple[LayerCost, ...]
    """Its layers in the order of their calls."""
    trained: bool
    """Whether the step computes gradients of its kernels."""
    whole: bool = True
    """Whether the first layer's input gradient is needed: not where X enters it, but
    where a trained normalisation stands in front of it."""

    @property
    def flops(self) -> dict[str, int]:
        """By direction: forward, input gradient, kernel gradient; plain layers."""
        return self._by_direction([layer.flops for layer in self.layers])

    @property
    def computed_flops(self) -> dict[str, int]:
        """The same of the layers as accelerators compute them."""
        return self._by_direction([layer.computed_flops for layer in self.layers])

    def _by_direction(self, forward: list[int]) -> dict[str, int]:
        if not self.trained:
            return {"forward": sum(forward)}
        return {
            "forward": sum(forward),
            "input gradient": sum(forward if self.whole else forward[1:]),
            "kernel gradient": sum(forward),
        }

    @property
    def elements(self) -> dict[tuple[str, str], int]:
        """Numbers read or written in memory, by kind of work and direction."""
        outputs = sum(layer.voxels * layer.features for layer in self.layers)
        return {
            work: passes * outputs
            for work, passes in PASSES.items()
            if self.trained or work[1] == "forward"
        }


@cache
def layer_costs(
    settings: UNetSettings | AlignmentNetSettings,
    shape_zyx: tuple[int, int, int],
    inputs: int = 1,
) -> tuple[LayerCost, ...]:
    """The layers of a network that multiply, for one volume of `inputs` channels.

    Raises:
        UserError: the volume does not fit the network.
    """
    key = jax.random.key(0)
    volume = jax.ShapeDtypeStruct((1, *shape_zyx, inputs), jnp.float32)
    if isinstance(settings, AlignmentNetSettings):
        params = jax.eval_shape(lambda: init_alignment_net(key, settings, shape_zyx))
        return _trace(lambda p, v: apply_alignment_net(p, v, settings), params, volume)
    params = jax.eval_shape(lambda: init_unet(key, settings, inputs))
    return _trace(lambda p, v: apply_unet_levels(p, v, settings), params, volume)


def _voxels(layer: nn.Module, shape_zyx: tuple[int, ...]) -> tuple[int, ...]:
    """Voxels of a layer's output, whose rows may be packed (`models.packing`)."""
    if isinstance(layer, Head) or not shape_zyx:
        return shape_zyx
    return (*shape_zyx[:-1], shape_zyx[-1] * getattr(layer, "pack", 1))


def _trace(apply: Callable[..., Any], *shapes: Any) -> tuple[LayerCost, ...]:
    costs = []

    def record(call, args, kwargs, context):
        out = call(*args, **kwargs)
        layer = context.module
        if context.method_name == "__call__" and layer.has_variable("params", "kernel"):
            *taps, inputs, features = layer.get_variable("params", "kernel").shape
            path, kind = "/".join(layer.path), type(layer).__name__
            shape_zyx, taps = _voxels(layer, out.shape[1:-1]), math.prod(taps)
            flat = getattr(layer, "flat", False)
            costs.append(LayerCost(path, kind, shape_zyx, taps, inputs, features, flat))
        return out

    # jit would take a network that it has seen from its cache, and call no layer
    with jax.disable_jit(), nn.intercept_methods(record):
        jax.eval_shape(apply, *shapes)
    return tuple(costs)


def step_networks(recipe: Recipe, what: StepKind) -> tuple[NetworkCost, ...]:
    """The networks that one step of `what` runs, as far as the recipe uses them."""
    if not isinstance(recipe.system.segment_net, UNetSettings):
        raise UserError(
            f"the cost of a {recipe.system.segment_net.kind} is not counted; choose a "
            "recipe whose segment_net is a residual_unet or unet."
        )
    system, networks = recipe.system, []
    costs = partial(layer_costs, shape_zyx=system.aligned_shape)
    if system.alignment.network:
        align = layer_costs(system.alignment_net, shape_zyx=system.prepare.shape)
        networks.append(NetworkCost("align", align, what == "align", whole=False))
    if what == "align":
        return tuple(networks)
    if what == "tissue":
        tissue = NetworkCost("tissue", costs(recipe.tissue_net), True)
        return *networks, tissue
    trained = what == "joint"
    if recipe.system.disentangles:
        disentangle = costs(
            recipe.system.disentangle_net, inputs=recipe.system.disentangle_channels
        )
        networks.append(NetworkCost("disentangle", disentangle, trained))
    # in inference nothing needs the side heads
    sides = recipe.system.segment_net.deep_supervision if trained else 0
    segment = costs(
        replace(recipe.system.segment_net, deep_supervision=sides),
        inputs=recipe.system.segment_channels,
    )
    networks.append(NetworkCost("segment", segment, trained))
    if trained and recipe.tissue_source == "network":
        networks.append(NetworkCost("tissue", costs(recipe.tissue_net), False))
    return tuple(networks)


def step_flops(recipe: Recipe, what: StepKind, batch: int) -> float:
    """Multiplications and additions of the layers in one step, plain form.

    Frozen networks count forward, trained ones also the gradients of every kernel and
    of every layer's input, but for T's first layer, which nothing trained precedes.
    """
    networks = step_networks(recipe, what)
    return float(batch * sum(sum(network.flops.values()) for network in networks))


def step_bytes(recipe: Recipe, what: StepKind, batch: int) -> float:
    """Memory traffic that one step needs at least, without any copy or transpose.

    It is that of a program whose convolutions stand alone (as cuDNN's do) and whose
    every other operation is merged into the passes that remain: 5 over each layer's
    output forward, 9 backward, in the recipe's precision. Kernels, the sampler and the
    loss are small beside it.
    """
    networks = step_networks(recipe, what)
    elements = sum(sum(network.elements.values()) for network in networks)
    return float(
        batch * elements * jnp.dtype(map_type(recipe.system.precision)).itemsize
    )
