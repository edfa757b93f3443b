"""DeepMedic, a baseline (Kamnitsas et al. 2017, and the form that its authors ship).

Pathways look at the same place at several resolutions; their maps are joined and
classified voxel by voxel. Every convolution but the pathways' first stands behind batch
normalisation and PReLU. Where the shipped code repeats the border of the joined maps to
keep their size, they are computed a voxel larger, so that a prediction does not depend
on the window it is part of. A bias on the image, which the shipped code has, is left
out: the normalisation behind the first convolution takes its effect away.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Float32

from adn_jax.config import DeepMedicSettings, Precision
from adn_jax.models.blocks import (
    EPSILON,
    Head,
    Volume,
    convolution_kernel,
    draw_kernels,
    dropout,
)
from adn_jax.models.convolution import convolve
from adn_jax.models.patches import Patch
from adn_jax.models.precision import map_type, multiplying, repeat
from adn_jax.types import Key, Params, Shape

BATCHES = 60
"""Updates over which the statistics of inference are averaged."""

NEWEST_SHARE = 2 / (BATCHES + 1)
"""Share of the newest in a moving average that has the mean age and the variance of the
plain average of the last `BATCHES`."""

FIRST_SLOPE = 0.01
"""PReLU's slope below zero before training."""


class Activation(nn.Module):
    """Batch normalisation and PReLU, in float32; the result has the input's type."""

    @nn.compact
    def __call__(self, volume: Volume, training: bool) -> Volume:
        """Normalise by the batch in training, else by the running statistics."""
        channels = volume.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        slope = self.param("slope", nn.initializers.constant(FIRST_SLOPE), channels)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        running_variance = self.variable("batch_stats", "variance", jnp.ones, channels)

        values = volume.astype(jnp.float32)
        mean, variance = running_mean.value, running_variance.value
        if training:
            mean = values.mean(axis=(0, 1, 2, 3))
            variance = jnp.square(values - mean).mean(axis=(0, 1, 2, 3))
            running_mean.value += NEWEST_SHARE * (mean - running_mean.value)
            running_variance.value += NEWEST_SHARE * (variance - running_variance.value)
        values = (values - mean) * (scale * jax.lax.rsqrt(variance + EPSILON)) + bias
        values = jnp.where(values > 0, values, slope * values)
        return values.astype(volume.dtype)


class Layer(nn.Module):
    """Convolution without bias; of a kernel of 3 the maps shrink by 2 voxels.

    They are computed in full and cut: on CPUs, where `convolve` is made for maps that
    keep their size, an update takes a quarter of the time.
    """

    features: int
    side: int

    @nn.compact
    def __call__(self, volume: Volume) -> Float[Array, "b z2 y2 x2 o"]:
        """Convolve."""
        kernel = convolution_kernel(self, self.side, volume.shape[-1], self.features)
        border = self.side // 2
        maps = convolve(volume, kernel, border)
        z, y, x = (size - 2 * border for size in volume.shape[1:4])
        return centre(maps, (z, y, x))


class Pathway(nn.Module):
    """The layers of one resolution; maps shrink by 2 voxels a layer."""

    widths: tuple[int, ...]
    residual: tuple[int, ...]

    @nn.compact
    def __call__(self, volume: Volume, training: bool) -> Float[Array, "b z2 y2 x2 o"]:
        """Compute the maps of an image."""
        inputs = []
        for number, features in enumerate(self.widths, start=1):
            inputs.append(volume)
            if number > 1:
                volume = Activation(name=f"activation_{number}")(volume, training)
            volume = Layer(features, 3, name=f"layer_{number}")(volume)
            if number in self.residual:
                volume = _add_earlier(volume, inputs[-2])
        return volume


class DeepMedic(nn.Module):
    """Pathways, the layers on all of them together, and logits."""

    settings: DeepMedicSettings

    @nn.compact
    def __call__(
        self, windows: Volume, key: Key | None
    ) -> Float[Array, "b z2 y2 x2 1"]:
        """Compute the logits of the windows' inner voxels; a key means training."""
        settings, training = self.settings, key is not None
        margin = _widest_margin(settings)
        shrinks = margin - _joined_halo(settings)
        z, y, x = (size - 2 * shrinks for size in windows.shape[1:4])
        pathways = []
        for step in settings.steps:
            pathway = Pathway(settings.widths, settings.residual, name=f"every_{step}")
            seen = every(windows, step, (z, y, x), 2 * len(settings.widths))
            maps = repeat(pathway(seen, training), (step, step, step))
            pathways.append(centre(maps, (z, y, x)))
        volume = jnp.concatenate(pathways, axis=-1)

        inputs = []
        layers = zip(settings.joined_widths, settings.joined_kernels, strict=True)
        for number, (features, side) in enumerate(layers, start=1):
            inputs.append(volume)
            volume = Activation(name=f"activation_{number}")(volume, training)
            volume = dropout(volume, settings.dropout[number - 1], key, number)
            volume = Layer(features, side, name=f"joined_{number}")(volume)
            if number in settings.joined_residual:
                volume = _add_earlier(volume, inputs[-2])
        volume = Activation(name="activation_head")(volume, training)
        volume = dropout(volume, settings.dropout[-1], key, 0)
        return Head(1, settings.prior, name="head")(volume)


def _add_earlier(
    volume: Float[Array, "b z y x o"], earlier: Float[Array, "b z1 y1 x1 c"]
) -> Float[Array, "b z y x o"]:
    """Add the centre of earlier maps: as many as there are, or as many as fit."""
    _, z, y, x, features = volume.shape
    earlier = centre(earlier, (z, y, x))[..., :features]
    missing = features - earlier.shape[-1]
    return volume + jnp.pad(earlier, ((0, 0),) * 4 + ((0, missing),))


def centre(volume: Volume, sizes: Shape) -> Float[Array, "b z1 y1 x1 c"]:
    """The inner `sizes` voxels of maps."""
    for axis, size in enumerate(sizes, start=1):
        first = (volume.shape[axis] - size) // 2
        volume = jax.lax.slice_in_dim(volume, first, first + size, axis=axis)
    return volume


def every(
    windows: Volume, step: int, inner: Shape, shrinks: int
) -> Float[Array, "b z1 y1 x1 c"]:
    """Take every `step`-th voxel around the centre, for maps that cover `inner`.

    The maps are `shrinks` voxels smaller; an odd number of them lies around the centre.
    """
    for axis, size in enumerate(inner, start=1):
        reach = step * ((_coarse_size(size, step) + shrinks) // 2)
        middle = windows.shape[axis] // 2
        windows = jax.lax.slice_in_dim(
            windows, middle - reach, middle + reach + 1, stride=step, axis=axis
        )
    return windows


def _coarse_size(size: int, step: int) -> int:
    """The smallest odd number of voxels, `step` wide each, that cover `size`."""
    return -(-size // step) // 2 * 2 + 1


def _widest_margin(settings: DeepMedicSettings) -> int:
    """Voxels that the widest pathway sees on either side of one that it predicts."""
    field = max(settings.steps) * (2 * len(settings.widths) + 1)
    return field // 2 + _joined_halo(settings)


def _joined_halo(settings: DeepMedicSettings) -> int:
    """Voxels around a predicted one whose maps the joined layers see."""
    return sum(side // 2 for side in settings.joined_kernels)


def deepmedic_patch(settings: DeepMedicSettings, side: int | Shape) -> Patch:
    """What the network predicts and sees at once.

    `side` is odd, one for all axes or one for each. Where it is a multiple of every
    step, windows side by side cut a volume into the same coarse voxels as a large one.
    """
    inner = (side, side, side) if isinstance(side, int) else side
    margin = _widest_margin(settings)
    return Patch(inner, (margin, margin, margin))


@partial(jax.jit, static_argnames=("settings", "inputs"))
def init_deepmedic(key: Key, settings: DeepMedicSettings, inputs: int = 1) -> Params:
    """Draw the weights of a network of `inputs` channels, with statistics to start.

    Kernels are normal with variance 2 / fan-in (He et al. 2015).
    """
    outer = deepmedic_patch(settings, 1).outer
    variables = DeepMedic(settings).init(key, jnp.zeros((1, *outer, inputs)), None)
    weights = jax.tree.map_with_path(
        lambda path, leaf: leaf * math.sqrt(2) if path[-1].key == "kernel" else leaf,
        draw_kernels(key, variables["params"]),
    )
    return {"weights": weights, "statistics": variables["batch_stats"]}


@partial(jax.jit, static_argnames=("settings", "precision"))
def apply_deepmedic(
    variables: Params,
    windows: Float[Array, "n z y x c"],
    settings: DeepMedicSettings,
    *,
    key: Key | None = None,
    precision: Precision = "float32",
) -> tuple[Float32[Array, "n z2 y2 x2 1"], Params]:
    """Logits of the inner voxels of windows, and the next running statistics.

    A key switches to training: dropout, and normalisation by these windows' own
    statistics. Without one the statistics stay as they are. Feature maps have the type
    `precision`, statistics and logits are float32.
    """
    network, windows = DeepMedic(settings), windows.astype(map_type(precision))
    collections = {
        "params": variables["weights"],
        "batch_stats": variables["statistics"],
    }
    with multiplying(precision):
        logits, updated = network.apply(
            collections, windows, key, mutable=[] if key is None else ["batch_stats"]
        )
    return logits, updated.get("batch_stats", variables["statistics"])
