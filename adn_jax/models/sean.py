"""SEAN, a baseline (Liang et al. 2021, arXiv 2110.05039): slices that look at the
other side of the head.

A slice goes in with its neighbours above and below, which 3D convolutions and the
attention join; a 2D decoder predicts the middle one. What the paper leaves open is
our reading (docs/baselines.md). Its alignment of each slice is left out: the volume is
aligned before, with the mid-sagittal plane at the centre of x.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Float32

from adn_jax.config import Precision, SymmetryNetSettings
from adn_jax.errors import UserError
from adn_jax.models.blocks import (
    EPSILON,
    Head,
    Volume,
    add_bias,
    convolution_kernel,
    draw_kernels,
    max_pool,
)
from adn_jax.models.convolution import convolve
from adn_jax.models.patches import Patch
from adn_jax.models.precision import map_type, multiplying, project
from adn_jax.runtime.jobs import largest_divisor
from adn_jax.types import Key, Params

RUNNING_SHARE = 0.9
"""Share of the running statistics that an update keeps (torch's momentum of 0.1)."""


@partial(jax.jit, static_argnames=("settings", "inputs"))
def init_sean(key: Key, settings: SymmetryNetSettings, inputs: int = 1) -> Params:
    """Draw the `weights` for `inputs` channels, and the `statistics` (0 and 1)."""
    side = 2 ** (len(settings.widths) - 1)
    windows = jnp.zeros((1, 2 * settings.neighbours + 1, side, side, inputs))
    variables = SymmetryNet(settings).init(key, windows, None)
    return {
        "weights": draw_kernels(key, variables["params"]),
        "statistics": variables["batch_stats"],
    }


@partial(jax.jit, static_argnames=("settings", "precision"))
def apply_sean(
    variables: Params,
    windows: Float[Array, "n {2*settings.neighbours+1} y x c"],
    settings: SymmetryNetSettings,
    key: Key | None = None,
    precision: Precision = "float32",
) -> tuple[Float32[Array, "n 1 y x 1"], Params]:
    """Compute the logits of each window's middle slice, and the next statistics.

    A key (any: nothing is random) means training: each layer normalises by the mean and
    variance of all windows at hand and moves its running statistics a tenth of the way
    to them. Without one the running statistics normalise and come back as they are.
    Feature maps have the type `precision`, norms compute in float32.

    Raises:
        UserError: y or x does not halve as often as the levels need.
    """
    check_slices(windows.shape[1:4], settings)
    network = SymmetryNet(settings)
    collections = {
        "params": variables["weights"],
        "batch_stats": variables["statistics"],
    }
    with multiplying(precision):
        logits, changed = network.apply(
            collections,
            windows.astype(map_type(precision)),
            key,
            mutable=[] if key is None else ["batch_stats"],
        )
    return logits, changed.get("batch_stats", variables["statistics"])


def sean_patch(settings: SymmetryNetSettings, shape_zyx: tuple[int, int, int]) -> Patch:
    """What the network predicts at once, one slice, and what it sees around it.

    Raises:
        UserError: y or x does not halve as often as the levels need.
    """
    check_slices(shape_zyx, settings)
    return Patch(inner=(1, *shape_zyx[1:]), margin=(settings.neighbours, 0, 0))


def check_slices(shape_zyx: tuple[int, ...], settings: SymmetryNetSettings) -> None:
    """Refuse slices whose sizes do not fit the levels, and name sizes that do."""
    step = 2 ** (len(settings.widths) - 1)
    rows, columns = shape_zyx[1:]
    fitting = [max(1, (2 * n + step) // (2 * step)) * step for n in (rows, columns)]
    if fitting != [rows, columns]:
        raise UserError(
            f"slices of {rows} x {columns} voxels (y x) do not fit a network of "
            f"{len(settings.widths)} levels, which needs sizes that are multiples of "
            f"{step}; the nearest that fits is {fitting[0]} x {fitting[1]}: set "
            "--prepare.shape or fewer widths."
        )


def window_count(size: int, most: int) -> int:
    """The greatest number of equal windows, at most `most`, that `size` divides into.

    A size of 15 divides into 3 windows, not 4; a prime above `most` stays whole.
    """
    return largest_divisor(size, most)


class SymmetryNet(nn.Module):
    """3D encoder of all slices, attention on its deepest maps, 2D decoder of one."""

    settings: SymmetryNetSettings

    @nn.compact
    def __call__(
        self,
        windows: Float[Array, "n {2*self.settings.neighbours+1} y x c"],
        key: Key | None,
    ) -> Float32[Array, "n 1 y x 1"]:
        """Compute the logits of the middle slice; with a key, batches normalise.

        Pooling is in plane alone, so every level has all slices. Kernels see zeros
        beyond the first and the last.
        """
        widths, middle = self.settings.widths, self.settings.neighbours
        training = key is not None
        maps, skips = windows, []
        for level, features in enumerate(widths):
            maps = max_pool(maps, flat=True) if level else maps
            block = SlicePair(features, 3, name=f"encoder_{level}")
            maps = block(maps, training)
            skips.append(maps[:, middle : middle + 1])
        maps = SymmetryAttention(self.settings.windows, name="attention")(maps)
        for level, features in enumerate(widths[-2::-1]):
            maps = UpSlices(features, name=f"up_{level}")(maps)
            maps = jnp.concatenate([skips[-2 - level], maps], axis=-1)
            block = SlicePair(features, 1, name=f"decoder_{level}")
            maps = block(maps, training)
        return Head(1, self.settings.prior, name="head")(maps)


class SlicePair(nn.Module):
    """Two convolutions of `depth` x 3 x 3 taps, each with batch norm and ReLU."""

    features: int
    depth: int

    @nn.compact
    def __call__(self, maps: Volume, training: bool) -> Float[Array, "b z y x o"]:
        """Apply the two convolutions; sizes stay."""
        for number in (1, 2):
            layer = ConvolutionNorm(self.features, self.depth, name=f"conv_{number}")
            maps = layer(maps, training)
        return maps


class ConvolutionNorm(nn.Module):
    """Convolution of `depth` (1 or 3) x 3 x 3 taps without bias, batch norm, ReLU."""

    features: int
    depth: int

    @nn.compact
    def __call__(self, maps: Volume, training: bool) -> Float[Array, "b z y x o"]:
        """Compute ReLU(norm(conv(maps))); sizes stay.

        The running variance is that of the voxels, where torch's divides by one voxel
        less.
        """
        shape = (self.depth, 3, 3, maps.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.zeros, shape)
        out = convolve(maps, kernel, (self.depth // 2, 1, 1))
        norm = nn.BatchNorm(
            use_running_average=not training,
            momentum=RUNNING_SHARE,
            epsilon=EPSILON,
            use_fast_variance=False,
            name="norm",
        )
        return nn.relu(norm(out.astype(jnp.float32))).astype(maps.dtype)


class SymmetryAttention(nn.Module):
    """The middle slice attends to its own and to the mirrored window of every slice.

    Each slice is divided into P x Q windows, as near to `windows` as the sizes allow.
    With q = theta(x_0)[p, q], window (p, q) becomes

        x_0 + W sum_t [ softmax(q phi(x_t)[p, q] / sqrt(d)) g(x_t)[p, q],
                        softmax(q phi(x_t)[p, Q-1-q] / sqrt(d)) h(x_t)[p, Q-1-q] ]

    where theta, phi, g, h and W are matrices and d is half of the maps, rounded up.
    """

    windows: tuple[int, int]

    @nn.compact
    def __call__(self, maps: Float[Array, "n t y x c"]) -> Float[Array, "n 1 y x c"]:
        """Compute the middle slice's maps; sizes stay."""
        slices, rows, columns, features = maps.shape[1:]
        counts = (
            window_count(rows, self.windows[0]),
            window_count(columns, self.windows[1]),
        )
        middle = maps[:, slices // 2 : slices // 2 + 1]

        def windows_of(name, maps):
            projected = Projection(-(-features // 2), name=name)(maps)
            return _split_windows(projected, counts)

        queries = windows_of("theta", middle)
        keys, own, other = (windows_of(name, maps) for name in ("phi", "g", "h"))
        attended = [
            _attend(queries, keys, own),
            _attend(queries, jnp.flip(keys, 3), jnp.flip(other, 3)),
        ]
        joined = _join_windows(jnp.concatenate(attended, axis=-1), rows, columns)
        return middle + Projection(features, name="output")(joined)


def _attend(
    queries: Float[Array, "n 1 p q i d"],
    keys: Float[Array, "n t p q j d"],
    values: Float[Array, "n t p q j d"],
) -> Float[Array, "n 1 p q i d"]:
    """Sum over slices of softmax(queries keys / sqrt(d)) values, window by window."""
    scores = jnp.einsum(
        "npqid,ntpqjd->ntpqij",
        queries[:, 0],
        keys,
        preferred_element_type=jnp.float32,
    )
    shares = jax.nn.softmax(scores / math.sqrt(queries.shape[-1]), axis=-1)
    shares = shares.astype(values.dtype)
    return jnp.einsum("ntpqij,ntpqjd->npqid", shares, values)[:, None]


def _split_windows(
    maps: Float[Array, "n t y x d"], counts: tuple[int, int]
) -> Float[Array, "n t p q i d"]:
    """Divide slices into `counts` windows along y and x, each a row of places i."""
    n, slices, rows, columns, features = maps.shape
    down, across = counts
    grid = maps.reshape(
        n, slices, down, rows // down, across, columns // across, features
    )
    return grid.swapaxes(3, 4).reshape(n, slices, down, across, -1, features)


def _join_windows(
    windows: Float[Array, "n t p q i d"], rows: int, columns: int
) -> Float[Array, "n t y x d"]:
    """Undo `_split_windows`."""
    n, slices, down, across, _, features = windows.shape
    grid = windows.reshape(
        n, slices, down, across, rows // down, columns // across, features
    )
    return grid.swapaxes(3, 4).reshape(n, slices, rows, columns, features)


class Projection(nn.Module):
    """1 x 1 x 1 convolution without bias."""

    features: int

    @nn.compact
    def __call__(self, maps: Volume) -> Float[Array, "b z y x o"]:
        """Multiply each voxel's maps by the kernel."""
        kernel = convolution_kernel(self, 1, maps.shape[-1], self.features)
        return project(maps, kernel[0, 0, 0])


class UpSlices(nn.Module):
    """Transposed convolution in plane, 2 x 2 taps, stride 2, with bias.

    The taps never overlap: each voxel becomes four, which are channels first.
    """

    features: int

    @nn.compact
    def __call__(self, maps: Volume) -> Float[Array, "b z y2 x2 o"]:
        """Upsample; y and x double."""
        n, slices, rows, columns, _ = maps.shape
        corners = Projection(4 * self.features, name="corners")(maps)
        grid = corners.reshape(n, slices, rows, columns, 2, 2, self.features)
        joined = grid.swapaxes(3, 4).reshape(
            n, slices, 2 * rows, 2 * columns, self.features
        )
        return add_bias(self, joined)
