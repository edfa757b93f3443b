"""Parts that the networks share: group normalisation, pooling, dropout, layers."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, UInt32

from adn_jax.config import Remat, UNetSettings
from adn_jax.distributed.mesh import platform_in_use
from adn_jax.errors import UserError
from adn_jax.models.convolution import KEPT, convolve, convolve_relu
from adn_jax.models.convolution_cpu import after, when_made
from adn_jax.models.packing import packed_head, packed_kernel, repack, tile_channels
from adn_jax.models.precision import add_to_channels, products_in_use
from adn_jax.types import Key, Params, Volume

EPSILON = 1e-5
SPACE = (1, 2, 3)


def group_count(channels: int, groups: int) -> int:
    """Groups of a normalisation: 1 where there are fewer channels than `groups`."""
    if channels < groups:
        return 1
    if channels % groups:
        raise UserError(
            f"{channels} feature maps do not divide into {groups} groups; choose "
            "widths that are multiples of the groups, or another number of groups."
        )
    return groups


def _group_statistics(
    volume: Volume, groups: int, pack: int
) -> tuple[Float[Array, "b 1 1 1 c"], Float[Array, "b 1 1 1 c"]]:
    """Mean and 1 / standard deviation of each channel's group, in float32.

    Each axis is summed for itself (never merged by reshape), so that a volume may be
    split over devices along y; the variance is that of the differences from the mean.
    """

    volume = volume.astype(jnp.float32)
    mean = _over_groups(volume.mean(axis=SPACE), groups, pack)
    variance = _over_groups(jnp.square(volume - mean).mean(axis=SPACE), groups, pack)
    return mean, jax.lax.rsqrt(variance + EPSILON)


def _over_groups(
    values: Float[Array, "b c"], groups: int, pack: int
) -> Float[Array, "b 1 1 1 c"]:
    """Mean over the channels of each group, at each of its channels."""
    if pack > 1:
        values = values.reshape(len(values), pack, -1).mean(axis=1)
    grouped = values.reshape(len(values), groups, -1).mean(axis=2)
    repeated = jnp.repeat(grouped, values.shape[1] // groups, axis=1)
    return jnp.tile(repeated, pack)[:, None, None, None]


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def group_norm(
    volume: Volume,
    scale: Float[Array, " channels"],
    bias: Float[Array, " channels"],
    groups: int,
    pack: int = 1,
) -> Volume:
    """Normalise each group of channels, then scale and shift each channel.

    Computes in float32; the result has the type of `volume`. Of the maps, the gradient
    needs `volume` alone, in its own type.
    """
    return _group_norm_forward(volume, scale, bias, groups, pack)[0]


def _group_norm_forward(volume, scale, bias, groups, pack):
    scale, bias = tile_channels(scale, pack), tile_channels(bias, pack)
    mean, rate = checkpoint_name(_group_statistics(volume, groups, pack), KEPT)
    factor = rate * scale
    out = volume.astype(jnp.float32) * factor + (bias - mean * factor)
    return out.astype(volume.dtype), (volume, mean, rate, scale)


def _group_norm_backward(groups, pack, saved, cotangent):
    volume, mean, rate, scale = saved
    centred = volume.astype(jnp.float32) - mean
    cotangent = cotangent.astype(jnp.float32)
    by_bias = cotangent.sum(SPACE)
    by_scale = (cotangent * centred).sum(SPACE) * rate[:, 0, 0, 0]
    voxels = math.prod(volume.shape[1:4])
    shift = _over_groups(by_bias * scale / voxels, groups, pack)
    slope = _over_groups(by_scale * scale / voxels, groups, pack)
    by_volume = rate * (cotangent * scale - shift - centred * (rate * slope))
    by_scale, by_bias = (
        each.sum(0) if pack == 1 else each.sum(0).reshape(pack, -1).sum(0)
        for each in (by_scale, by_bias)
    )
    return by_volume.astype(volume.dtype), by_scale, by_bias


group_norm.defvjp(_group_norm_forward, _group_norm_backward)


class GroupNorm(nn.Module):
    """Group normalisation with a scale and bias for each channel (Wu and He, 2018)."""

    groups: int
    pack: int = 1

    @nn.compact
    def __call__(self, volume: Volume) -> Volume:
        """Normalise; sizes and type stay."""
        channels = (volume.shape[-1] // self.pack,)
        scale = self.param("scale", nn.initializers.ones, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        return group_norm(volume, scale, bias, self.groups, self.pack)


class Convolution(nn.Module):
    """3 x 3 x 3 convolution with bias, zeros outside."""

    features: int

    @nn.compact
    def __call__(self, volume: Volume) -> Float[Array, "b z y x o"]:
        """Convolve; sizes stay."""
        kernel = convolution_kernel(self, 3, volume.shape[-1], self.features)
        return add_bias(self, convolve(volume, kernel, 1))


class ConvolutionRelu(nn.Module):
    """3 x 3 x 3 convolution without bias, a short cut added, and ReLU."""

    features: int
    pack: int = 1

    @nn.compact
    def __call__(
        self, volume: Volume, shortcut: Float[Array, "b z y x o"] | None
    ) -> Float[Array, "b z y x o"]:
        """Compute ReLU(conv(volume) + shortcut); sizes stay."""
        inputs = volume.shape[-1] // self.pack
        kernel = convolution_kernel(self, 3, inputs, self.features)
        return convolve_relu(volume, packed_kernel(kernel, self.pack), shortcut)


def convolution_kernel(
    module: nn.Module, side: int, inputs: int, features: int
) -> Float[Array, "d h w c o"]:
    """Kernel parameter of a layer; `draw_kernels` gives it its first values."""
    shape = (side, side, side, inputs, features)
    return module.param("kernel", nn.initializers.zeros, shape)


def add_bias(
    module: nn.Module, volume: Volume, start: float = 0.0, pack: int = 1
) -> Volume:
    """Add the bias parameter of a layer, `start` before training."""
    start_from = nn.initializers.constant(start)
    bias = module.param("bias", start_from, (volume.shape[-1] // pack,))
    return add_to_channels(volume, tile_channels(bias, pack))


class NormConvolution(nn.Module):
    """Group normalisation, a 3 x 3 x 3 convolution without bias, and ReLU."""

    features: int
    groups: int
    pack: int = 1

    @nn.compact
    def __call__(
        self, volume: Volume, shortcut: Float[Array, "b z y x o"] | None = None
    ) -> Float[Array, "b z y x o"]:
        """Compute ReLU(conv(norm(volume)) + shortcut); sizes stay."""
        groups = group_count(volume.shape[-1] // self.pack, self.groups)
        normalised = GroupNorm(groups, self.pack, name="norm")(volume)
        layer = ConvolutionRelu(self.features, self.pack, name="convolution")
        return layer(normalised, shortcut)


class Head(nn.Module):
    """1 x 1 x 1 convolution to float32 logits; the bias starts at the prior's logit."""

    outputs: int
    prior: float | None = None
    pack: int = 1

    @nn.compact
    def __call__(self, volume: Volume) -> Float[Array, "b z y x1 o"]:
        """Compute the logits of each voxel, not packed any more."""
        inputs = volume.shape[-1] // self.pack
        kernel = convolution_kernel(self, 1, inputs, self.outputs)
        start = 0.0 if self.prior is None else math.log(self.prior / (1 - self.prior))
        logits = jnp.matmul(
            volume,
            packed_head(kernel[0, 0, 0], self.pack).astype(volume.dtype),
            preferred_element_type=jnp.float32,
        )
        return repack(add_bias(self, logits, start, self.pack), self.pack, 1)


def level_logits(
    settings: UNetSettings,
    decoded: Sequence[Float[Array, "b _z _y _x _c"]],
    packs: Sequence[int],
) -> tuple[Float[Array, "b _z _y _x o"], ...]:
    """Logits from the maps behind each level (the last is full size), finest first.

    They are one, and as many more as there is deep supervision. It is called within a
    network, whose heads these are.
    """
    finest_first = decoded[::-1][: 1 + settings.deep_supervision]
    return tuple(
        Head(
            settings.outputs,
            settings.prior,
            packs[below],
            name=f"side_head_{below}" if below else "head",
        )(maps)
        for below, maps in enumerate(finest_first)
    )


def remat_on(platform: str, remat: Remat) -> Remat:
    """What is computed again on a platform, "auto" being decided.

    A GPU has time left over beside its products, and its compiler plans 25 GiB in
    place of 42 for a joint step of six cases; a TPU's plans 7 without; a CPU's takes
    the second computation for the first.
    """
    if remat != "auto":
        return remat
    return "nothing" if platform in ("cpu", "tpu") else "norms"


def apply_block(
    block: nn.Module, volume: Volume, remat: Remat
) -> Float[Array, "b z y x o"]:
    """Apply a block, whose gradient computes some of its maps a second time."""
    platform = platform_in_use()
    remat = remat_on(platform, remat)
    if remat == "nothing" or block.is_initializing():
        return block(volume)
    alone = block.clone(parent=None)

    def apply(params: Params, volume: Volume) -> Float[Array, "b z y x o"]:
        maps: Any = alone.apply({"params": params}, volume)
        return maps

    if remat == "norms":
        by_name = jax.checkpoint_policies.save_only_these_names(KEPT)
        again = jax.checkpoint(apply, policy=by_name)
    elif platform == "cpu":
        again = _recomputed_later(apply)
    else:
        again = jax.checkpoint(apply)
    return again(block.variables["params"], volume)


def _recomputed_later(
    apply: Callable[[Params, Volume], Float[Array, "b z y x o"]],
) -> Callable[[Params, Volume], Float[Array, "b z y x o"]]:
    """As `jax.checkpoint`, whose barrier CPUs' compiler takes away: it would find both
    computations equal, do one and keep its maps. Here the second needs the cotangent.
    """
    products = products_in_use()
    later = jax.custom_vjp(apply)

    def backward(inputs, cotangent):
        params, volume = inputs
        volume = after(volume, cotangent[:, :1, :1, :1, :1])
        with jax.default_matmul_precision(products):
            by_params, by_volume = jax.vjp(apply, params, volume)[1](cotangent)
        # else the gradients of parameters may be left for later, and their maps kept
        return by_params, after(by_volume, when_made(by_params))

    later.defvjp(
        lambda params, volume: (apply(params, volume), (params, volume)), backward
    )
    return later


def draw_kernels(key: Key, params: Params) -> Params:
    """Draw every kernel: normal with variance 1 / fan-in (LeCun).

    All come from one draw: compiling one for each takes half a minute on a CPU.
    """
    flat = flatten_dict(params)
    kernels = {path: leaf for path, leaf in flat.items() if path[-1] == "kernel"}
    ends = np.cumsum([kernel.size for kernel in kernels.values()])
    draws = jnp.split(jax.random.normal(key, (ends[-1],)), ends[:-1])
    for (path, kernel), draw in zip(kernels.items(), draws, strict=True):
        fan_in = kernel.size // kernel.shape[-1]
        flat[path] = draw.reshape(kernel.shape) / math.sqrt(fan_in)
    return unflatten_dict(flat)


def max_pool(
    volume: Volume, *, flat: bool = False, pack: int = 1
) -> Float[Array, "b z2 y2 x2 c2"]:
    """Largest of each 2 x 2 x 2 voxels (where `flat`, of 1 x 2 x 2, so that z stays).

    Packed maps come out with half as many voxels packed together. Among equals the
    gradient goes to the first. First is meant in the order z, y, x, as in torch: x is
    halved first, so that the choice between rows, then slices, outranks it.
    """
    with jax.named_scope("max_pool"):
        volume = _largest_along_x(volume, pack)
        for axis in (2,) if flat else (2, 1):
            volume = _largest(volume, axis)
    return volume


def _largest(volume: Array, axis: int) -> Array:
    """The larger of each two neighbours along an axis, of equals the first."""
    first, second = (
        jax.lax.slice_in_dim(volume, start, None, stride=2, axis=axis)
        for start in (0, 1)
    )
    return jnp.where(second > first, second, first)


def _largest_along_x(volume: Volume, pack: int) -> Float[Array, "b z y x2 c2"]:
    if pack == 1:
        return _largest(volume, 3)
    channels = volume.shape[-1] // pack
    voxels = [
        volume[..., start : start + channels]
        for start in range(0, volume.shape[-1], channels)
    ]
    pairs = zip(voxels[::2], voxels[1::2], strict=True)
    return jnp.concatenate(
        [jnp.where(second > first, second, first) for first, second in pairs], axis=-1
    )


def dropout(volume: Volume, rate: float, key: Key | None, stage: int) -> Volume:
    """Set each element to 0 with probability `rate`, scale the rest; no key: keep all.

    `stage` numbers the calls of a network, so that one key serves them all.
    """
    dropped = np.uint32(round(rate * 2**32))
    if key is None or dropped == 0:
        return volume
    with jax.named_scope("dropout"):
        kept = _random_bits(jax.random.fold_in(key, stage), volume.shape) >= dropped
        scale = jnp.asarray(1 / (1 - rate), volume.dtype)
        return jnp.where(kept, volume * scale, jnp.zeros((), volume.dtype))


def _random_bits(key: Key, shape: tuple[int, ...]) -> UInt32[Array, "..."]:
    """A hash of each element's place and of the key: random enough for dropout.

    It costs a few instructions an element, in whatever loop needs it; jax's generator
    took a tenth of a train step. The mixing is MurmurHash3's finaliser (A. Appleby),
    once for the place in a volume and once more for the volume's place in the batch.
    """
    first, second = jax.random.key_data(key).ravel()[:2]
    batch, *places = (jax.lax.broadcasted_iota(jnp.uint32, shape, i) for i in range(5))
    place = jnp.zeros(shape, jnp.uint32)
    for size, along in zip(shape[1:], places, strict=True):
        place = place * jnp.uint32(size) + along
    return _mix(_mix(place ^ first) ^ (second + batch * jnp.uint32(0x9E3779B9)))


def _mix(bits: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x85EBCA6B)
    bits = (bits ^ (bits >> 13)) * jnp.uint32(0xC2B2AE35)
    return bits ^ (bits >> 16)


def refuse_misfit(
    shape_zyx: tuple[int, ...], suitable: tuple[int, ...], levels: int, need: str
) -> None:
    """Refuse a volume of another shape than the nearest that fits a network."""
    if suitable != tuple(shape_zyx):
        found, nearest = (" x ".join(map(str, each)) for each in (shape_zyx, suitable))
        raise UserError(
            f"a volume of {found} voxels (z y x) does not fit a network of {levels} "
            f"levels, which needs {need}; the nearest that fits is {nearest}: set "
            "--prepare.shape or fewer widths."
        )
