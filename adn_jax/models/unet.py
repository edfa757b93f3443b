"""Plain 3D U-Net, a baseline (Cicek et al. 2016, with the usual group norm)."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from adn_jax.config import Remat, UNetSettings
from adn_jax.models.blocks import (
    NormConvolution,
    Volume,
    dropout,
    level_logits,
    max_pool,
    recomputed,
)
from adn_jax.models.precision import repeat
from adn_jax.types import Key


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
