"""The two U-Nets: residual (D, F and the tissue net) and plain (a baseline)."""

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


class ResidualUNet(nn.Module):
    """Encoder of residual blocks, decoder that adds the encoder's maps, logits."""

    settings: UNetSettings
    remat: Remat = "nothing"

    @nn.compact
    def __call__(
        self, volume: Volume, key: Key | None
    ) -> tuple[Float[Array, "b _z _y _x o"], ...]:
        """Compute the logits of each level that has a head, the finest first.

        A key switches dropout on.
        """
        widths, groups = self.settings.widths, self.settings.groups
        block = recomputed(ResidualBlock, self.remat)
        skips = []
        for level, features in enumerate(widths):
            if level:
                flat = level <= self.settings.in_plane_levels
                volume = max_pool(volume, flat=flat)
            volume = block(features, groups, name=f"encoder_{level}")(volume)
            volume = dropout(volume, self.settings.dropout, key, level)
            skips.append(volume)
        decoded = [volume]
        for level, features in enumerate(widths[-2::-1]):
            flat = len(widths) - 1 - level <= self.settings.in_plane_levels
            volume = UpConvolution(features, flat, name=f"up_{level}")(volume)
            volume = volume + skips[-2 - level]
            volume = block(features, groups, name=f"decoder_{level}")(volume)
            volume = dropout(volume, self.settings.dropout, key, len(widths) + level)
            decoded.append(volume)
        return level_logits(self.settings, decoded)


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


class UNet(nn.Module):
    """Encoder and decoder of double convolutions, skips joined as channels, logits."""

    settings: UNetSettings
    remat: Remat = "nothing"

    @nn.compact
    def __call__(
        self, volume: Volume, key: Key | None
    ) -> tuple[Float[Array, "b _z _y _x o"], ...]:
        """Compute the logits of each level that has a head, the finest first.

        A key switches dropout on.
        """
        widths, groups = self.settings.widths, self.settings.groups
        block = recomputed(DoubleConvolution, self.remat)
        skips = []
        for level, features in enumerate(widths):
            if level:
                flat = level <= self.settings.in_plane_levels
                volume = max_pool(volume, flat=flat)
            middle = max(volume.shape[-1], features // 2)
            volume = block(middle, features, groups, name=f"encoder_{level}")(volume)
            volume = dropout(volume, self.settings.dropout, key, level)
            skips.append(volume)
        decoded = [volume]
        for level, features in enumerate(widths[-2::-1]):
            flat = len(widths) - 1 - level <= self.settings.in_plane_levels
            upsampled = upsample(volume, flat=flat)
            volume = jnp.concatenate([skips[-2 - level], upsampled], axis=-1)
            volume = block(features, features, groups, name=f"decoder_{level}")(volume)
            volume = dropout(volume, self.settings.dropout, key, len(widths) + level)
            decoded.append(volume)
        return level_logits(self.settings, decoded)
