"""The two U-Nets: residual (D, F and the tissue net) and plain (a baseline).

Residual: skips are added; each block is three convolutions with a short cut around the
last two (Lee et al. 2017 in spirit; the numbers follow the authors' code). Plain: Cicek
et al. 2016, with the usual group norm.
"""

from functools import partial

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from adn_jax.config import Remat, UNetSettings
from adn_jax.models.blocks import (
    NormConvolution,
    Volume,
    add_bias,
    convolution_kernel,
    dropout,
    level_logits,
    max_pool,
    recomputed,
)
from adn_jax.models.convolution import convolve_upsampled
from adn_jax.models.precision import repeat
from adn_jax.types import Key


class ResidualBlock(nn.Module):
    """r = ReLU(conv(x)); output ReLU(conv(ReLU(conv(r))) + r)."""

    features: int
    groups: int

    @nn.compact
    def __call__(self, volume: Volume) -> Float[Array, "b z y x o"]:
        """Apply the three convolutions; sizes stay."""
        layer = partial(NormConvolution, self.features, self.groups)
        first = layer(name="conv_1")(volume)
        second = layer(name="conv_2")(first)
        return layer(name="conv_3")(second, shortcut=first)


class UpConvolution(nn.Module):
    """Nearest upsampling x2 (not of z where `flat`), then 3 x 3 x 3 taps and a bias."""

    features: int
    flat: bool = False

    @nn.compact
    def __call__(self, volume: Volume) -> Float[Array, "b z2 y2 x2 o"]:
        """Upsample and convolve; every axis doubles, z not where `flat`."""
        kernel = convolution_kernel(self, 3, volume.shape[-1], self.features)
        return add_bias(self, convolve_upsampled(volume, kernel, flat=self.flat))


class DoubleConvolution(nn.Module):
    """Two normalised convolutions, each with ReLU."""

    middle: int
    features: int
    groups: int

    @nn.compact
    def __call__(self, volume: Volume) -> Float[Array, "b z y x o"]:
        """Apply the two convolutions; sizes stay."""
        for number, features in ((1, self.middle), (2, self.features)):
            layer = NormConvolution(features, self.groups, name=f"conv_{number}")
            volume = layer(volume)
        return volume


def upsample(volume: Volume, *, flat: bool = False) -> Float[Array, "b z2 y2 x2 c"]:
    """Repeat each voxel twice along every axis (nearest neighbour; z not if `flat`)."""
    return repeat(volume, (1 if flat else 2, 2, 2))


def _level_block(
    settings: UNetSettings, remat: Remat, features: int, middle: int, name: str
) -> nn.Module:
    """The block of one level; a double convolution has `middle` maps inside."""
    if settings.kind == "residual_unet":
        residual = recomputed(ResidualBlock, remat)
        return residual(features, settings.groups, name=name)
    double = recomputed(DoubleConvolution, remat)
    return double(middle, features, settings.groups, name=name)


def join(
    settings: UNetSettings,
    volume: Volume,
    skip: Float[Array, "b z2 y2 x2 s"],
    flat: bool,
    name: str,
) -> Float[Array, "b z2 y2 x2 o"]:
    """A level's maps from below, upsampled, with the encoder's: their sum after a
    convolution (residual), or both side by side."""
    if settings.kind == "residual_unet":
        return UpConvolution(skip.shape[-1], flat, name=name)(volume) + skip
    return jnp.concatenate([skip, upsample(volume, flat=flat)], axis=-1)


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
        block = partial(_level_block, settings, self.remat)
        skips = []
        for level, features in enumerate(widths):
            if level:
                volume = max_pool(volume, flat=level <= settings.in_plane_levels)
            middle = max(volume.shape[-1], features // 2)
            volume = block(features, middle, f"encoder_{level}")(volume)
            volume = dropout(volume, settings.dropout, key, level)
            skips.append(volume)
        decoded = [skips.pop()]
        for level, features in enumerate(widths[-2::-1]):
            flat = len(skips) <= settings.in_plane_levels
            joined = join(settings, decoded[-1], skips.pop(), flat, f"up_{level}")
            volume = block(features, features, f"decoder_{level}")(joined)
            volume = dropout(volume, settings.dropout, key, len(widths) + level)
            decoded.append(volume)
        return level_logits(settings, decoded)
