"""Network T: looks at the whole head and says how it lies (six numbers)."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from adn_jax.config import AlignmentNetSettings, Precision
from adn_jax.geometry.rigid import Pose
from adn_jax.models.blocks import (
    Convolution,
    GroupNorm,
    Volume,
    convolution_kernel,
    draw_kernels,
    refuse_misfit,
)
from adn_jax.models.convolution import convolve_strided
from adn_jax.models.precision import map_type, multiplying
from adn_jax.types import Key, Params

IDENTITY_START = 0.01
"""Share of the last kernel's usual size that T keeps to start at the identity."""


class AlignmentStage(nn.Module):
    """Strided convolution, then a residual block with normalisation in front."""

    features: int

    @nn.compact
    def __call__(self, volume: Volume) -> Float[Array, "b z2 y2 x2 o"]:
        """Apply the stage; every axis is halved."""
        volume = Downsampling(self.features, name="down")(volume)
        branch = volume
        groups = AlignmentNetSettings.groups(self.features)
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
    def __call__(self, volume: Float[Array, "b z y x 1"]) -> Pose:
        """Estimate how each head lies."""
        for level, features in enumerate(self.settings.widths):
            volume = AlignmentStage(features, name=f"stage_{level}")(volume)
        maps = volume.astype(jnp.float32).mean(axis=(1, 2, 3))
        dense = nn.Dense(
            6,
            kernel_init=nn.initializers.zeros,
            precision=lax.Precision.HIGHEST,
            name="head",
        )
        numbers = jnp.tanh(dense(maps))
        limits = (
            *jnp.deg2rad(jnp.array(self.settings.rotation_limit_deg)),
            *self.settings.translation_limit,
        )
        numbers = numbers * jnp.array(limits, numbers.dtype)
        return Pose(numbers[:, :3], numbers[:, 3:])


@partial(jax.jit, static_argnames=("settings", "shape_zyx"))
def init_alignment_net(
    key: Key, settings: AlignmentNetSettings, shape_zyx: tuple[int, int, int]
) -> Params:
    """Draw the parameters of T for volumes of `shape_zyx` voxels."""
    _check_shape(shape_zyx, settings)
    volume = jnp.zeros((1, *shape_zyx, 1))
    params = draw_kernels(key, AlignmentNet(settings).init(key, volume)["params"])
    if settings.identity_start:
        params["head"]["kernel"] *= IDENTITY_START
    return params


@partial(jax.jit, static_argnames=("settings", "precision"))
def apply_alignment_net(
    params: Params,
    volume: Float[Array, "b z y x 1"],
    settings: AlignmentNetSettings,
    *,
    precision: Precision = "float32",
) -> Pose:
    """Estimate how each head lies.

    At the precision bfloat16 feature maps are bfloat16. Products of float32 are exact
    at each: a pose turns a head by the angle that it says.

    Raises:
        UserError: the volume is too small for the stages.
    """
    _check_shape(volume.shape[1:4], settings)
    with multiplying("float32"):
        maps = volume.astype(map_type(precision))
        pose: Any = AlignmentNet(settings).apply({"params": params}, maps)
        return pose


def _check_shape(shape_zyx: tuple[int, ...], settings: AlignmentNetSettings) -> None:
    """Refuse a volume that is too small for the stages."""
    least = 2 ** len(settings.widths)
    refuse_misfit(
        shape_zyx,
        tuple(max(size, least) for size in shape_zyx),
        len(settings.widths),
        f"at least {least} voxels along each axis",
    )
