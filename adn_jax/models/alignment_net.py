"""Network T: looks at the whole head and says how it lies (six numbers)."""

import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from adn_jax.config import AlignmentNetSettings
from adn_jax.models.blocks import Convolution, GroupNorm, Volume, convolution_kernel
from adn_jax.models.convolution import convolve_strided
from adn_jax.types import View

CHANNELS_PER_GROUP = 4


class Stage(nn.Module):
    """Strided convolution, then a residual block with normalisation in front."""

    features: int

    @nn.compact
    def __call__(self, volume: Volume) -> Float[Array, "b z2 y2 x2 o"]:
        """Apply the stage; every axis is halved."""
        volume = Downsampling(self.features, name="down")(volume)
        branch = volume
        groups = max(1, self.features // CHANNELS_PER_GROUP)
        for number in (1, 2):
            branch = nn.relu(GroupNorm(groups, name=f"norm_{number}")(branch))
            branch = Convolution(self.features, name=f"conv_{number}")(branch)
        return volume + branch


class Downsampling(nn.Module):
    """4 x 4 x 4 convolution with stride 2, without bias: halves every axis."""

    features: int

    @nn.compact
    def __call__(self, volume: Volume) -> Float[Array, "b z2 y2 x2 o"]:
        """Convolve; every axis is halved."""
        kernel = convolution_kernel(self, 4, volume.shape[-1], self.features)
        return convolve_strided(volume, kernel)


class AlignmentNet(nn.Module):
    """Strided stages, global average, linear layer, tanh, limits."""

    settings: AlignmentNetSettings

    @nn.compact
    def __call__(self, volume: Float[Array, "b z y x 1"]) -> View:
        """Estimate the view in radians and half-extents."""
        for level, features in enumerate(self.settings.widths):
            volume = Stage(features, name=f"stage_{level}")(volume)
        maps = volume.astype(jnp.float32).mean(axis=(1, 2, 3))
        dense = nn.Dense(
            6,
            kernel_init=nn.initializers.zeros,
            precision=lax.Precision.HIGHEST,
            name="head",
        )
        view = jnp.tanh(dense(maps))
        limits = (
            *jnp.deg2rad(jnp.array(self.settings.rotation_limit_deg)),
            *self.settings.translation_limit,
        )
        return view * jnp.array(limits, view.dtype)
