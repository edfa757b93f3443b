"""The two U-Nets: residual (D, F and the tissue net) and plain (a baseline).

Residual: skips are added; each block is three convolutions with a short cut around the
last two (Lee et al. 2017 in spirit; the numbers follow the authors' code). Plain: Cicek
et al. 2016, with the usual group norm.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Float32

from adn_jax.config import Precision, Remat, UNetSettings
from adn_jax.distributed.mesh import shard_rows
from adn_jax.models.blocks import (
    NormConvolution,
    Volume,
    add_bias,
    apply_block,
    convolution_kernel,
    draw_kernels,
    dropout,
    level_logits,
    max_pool,
    refuse_misfit,
)
from adn_jax.models.convolution import convolve_upsampled, convolve_upsampled_packed
from adn_jax.models.packing import level_packs, repack
from adn_jax.models.precision import map_type, multiplying, repeat
from adn_jax.types import Key, Params


class ResidualBlock(nn.Module):
    """r = ReLU(conv(x)); output ReLU(conv(ReLU(conv(r))) + r)."""

    features: int
    groups: int
    pack: int = 1

    @nn.compact
    def __call__(self, volume: Volume) -> Float[Array, "b z y x o"]:
        """Apply the three convolutions; sizes stay."""
        layer = partial(NormConvolution, self.features, self.groups, self.pack)
        first = layer(name="conv_1")(volume)
        second = layer(name="conv_2")(first)
        return layer(name="conv_3")(second, shortcut=first)


class UpConvolution(nn.Module):
    """Nearest upsampling x2 (not of z where `flat`), then 3 x 3 x 3 taps and a bias."""

    features: int
    flat: bool = False
    pack: int = 1
    """Voxels that the result packs; the maps from below pack half as many, or 1."""

    @nn.compact
    def __call__(self, volume: Volume) -> Float[Array, "b z2 y2 x2 o"]:
        """Upsample and convolve; every axis doubles, z not where `flat`."""
        inputs = volume.shape[-1] // max(self.pack // 2, 1)
        kernel = convolution_kernel(self, 3, inputs, self.features)
        if self.pack == 1:
            maps = convolve_upsampled(volume, kernel, flat=self.flat)
        else:
            maps = convolve_upsampled_packed(
                volume, kernel, flat=self.flat, pack=self.pack
            )
        return add_bias(self, maps, pack=self.pack)


class DoubleConvolution(nn.Module):
    """Two normalised convolutions, each with ReLU."""

    middle: int
    features: int
    groups: int
    pack: int = 1

    @nn.compact
    def __call__(self, volume: Volume) -> Float[Array, "b z y x o"]:
        """Apply the two convolutions; sizes stay."""
        for number, features in ((1, self.middle), (2, self.features)):
            layer = NormConvolution(
                features, self.groups, self.pack, name=f"conv_{number}"
            )
            volume = layer(volume)
        return volume


def _level_block(
    settings: UNetSettings, features: int, middle: int, pack: int, name: str
) -> nn.Module:
    """The block of one level; a double convolution has `middle` maps inside."""
    if settings.kind == "residual_unet":
        return ResidualBlock(features, settings.groups, pack, name=name)
    return DoubleConvolution(middle, features, settings.groups, pack, name=name)


class UNet(nn.Module):
    """Encoder and decoder of blocks, joined at every level, and logits.

    The two kinds differ in block and join: residual blocks and sums, or double
    convolutions and maps side by side.
    """

    settings: UNetSettings
    remat: Remat = "nothing"

    @nn.compact
    def __call__(
        self, volume: Volume, key: Key | None
    ) -> tuple[Float[Array, "b _z _y _x o"], ...]:
        """Compute the logits of each level that has a head, the finest first.

        A key switches dropout on.
        """
        settings, widths = self.settings, self.settings.widths
        packs = level_packs(widths, volume.shape[3])
        volume = repack(volume, 1, packs[0])
        skips = []
        for level, (features, pack) in enumerate(zip(widths, packs, strict=True)):
            if level:
                above, flat = packs[level - 1], level <= settings.in_plane_levels
                volume = max_pool(volume, flat=flat, pack=above)
                volume = repack(volume, max(above // 2, 1), pack)
            middle = max(volume.shape[-1] // pack, features // 2)
            block = _level_block(settings, features, middle, pack, f"encoder_{level}")
            volume = apply_block(block, volume, self.remat)
            volume = dropout(volume, settings.dropout, key, level)
            skips.append(volume)
        decoded = [skips.pop()]
        for level, features in enumerate(widths[-2::-1]):
            flat = len(skips) <= settings.in_plane_levels
            pack, pack_below = packs[len(skips) - 1 : len(skips) + 1]
            below, skip = decoded[-1], skips.pop()
            if settings.kind == "residual_unet":
                up = UpConvolution(features, flat, pack, name=f"up_{level}")
                joined = up(repack(below, pack_below, max(pack // 2, 1))) + skip
            else:
                upsampled = repeat(
                    repack(below, pack_below, 1), (1 if flat else 2, 2, 2)
                )
                sides = [repack(skip, pack, 1), upsampled]
                joined = repack(jnp.concatenate(sides, axis=-1), 1, pack)
            block = _level_block(settings, features, features, pack, f"decoder_{level}")
            volume = apply_block(block, joined, self.remat)
            volume = dropout(volume, settings.dropout, key, len(widths) + level)
            decoded.append(volume)
        return level_logits(settings, decoded, packs)


@partial(jax.jit, static_argnames=("settings", "inputs"))
def init_unet(key: Key, settings: UNetSettings, inputs: int = 1) -> Params:
    """Draw the parameters of a U-Net that takes `inputs` channels."""
    side = 2 ** (len(settings.widths) - 1)
    volume = jnp.zeros((1, side, side, side, inputs))
    return draw_kernels(key, UNet(settings).init(key, volume, None)["params"])


@partial(jax.jit, static_argnames=("settings", "precision", "remat"))
def apply_unet_levels(
    params: Params,
    volume: Float[Array, "b z y x c"],
    settings: UNetSettings,
    *,
    key: Key | None = None,
    precision: Precision = "float32",
    remat: Remat = "nothing",
) -> tuple[Float32[Array, "b _z _y _x outputs"], ...]:
    """Compute the logits of each voxel, then those of the levels below that have any.

    There are `settings.deep_supervision` of these, each of its level's size, the finest
    first. A key switches dropout on. Maps and products are as `precision` says, the
    logits float32; `remat` trades time for the gradient's memory. If devices of the
    mesh in use share rows, they share those of every map.

    Raises:
        UserError: a size of the volume does not halve as often as the levels need.
    """
    check_unet_shape(volume.shape[1:4], settings)
    network = UNet(settings, remat)
    rows = shard_rows(volume.astype(map_type(precision)))
    with multiplying(precision):
        logits: Any = network.apply({"params": params}, rows, key)
        return logits


@partial(jax.jit, static_argnames=("settings", "precision", "remat"))
def apply_unet(
    params: Params,
    volume: Float[Array, "b z y x c"],
    settings: UNetSettings,
    *,
    key: Key | None = None,
    precision: Precision = "float32",
    remat: Remat = "nothing",
) -> Float32[Array, "b z y x outputs"]:
    """The first of `apply_unet_levels`: the logits of each voxel."""
    return apply_unet_levels(
        params, volume, settings, key=key, precision=precision, remat=remat
    )[0]


def check_unet_shape(shape_zyx: tuple[int, ...], settings: UNetSettings) -> None:
    """Refuse a volume whose sizes do not halve as often as the levels need."""
    poolings = len(settings.widths) - 1
    step, step_z = 2**poolings, 2 ** (poolings - settings.in_plane_levels)
    suitable = tuple(
        max(1, (2 * size + step) // (2 * step)) * step
        for size, step in zip(shape_zyx, (step_z, step, step), strict=True)
    )
    need = f"sizes that are multiples of {step}"
    if settings.in_plane_levels:
        need += f" along y and x, and of {step_z} along z"
    refuse_misfit(shape_zyx, suitable, len(settings.widths), need)
