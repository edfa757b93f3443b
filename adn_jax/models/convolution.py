"""3D convolutions of the networks, each exact and with a form that suits the backend.

XLA's 3D convolution is slow on CPUs, so there a convolution runs as 2D convolutions of
slices: one with all taps in z side by side, whose outputs are then added up across
slices, or for many maps four for each pair of slices (Winograd); large volumes go
through in strips. Elsewhere lax's own is used.
Nearest upsampling and stride 2 are folded into convolutions of two taps a side.
"""

import math
from functools import partial
from itertools import pairwise, product

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from adn_jax.runtime.mesh import by_rows

Volume = Float[Array, "b z y x c"]
Features = Float[Array, "b z1 y1 x1 o"]
Kernel = Float[Array, "d h w c o"]

STRIP_BYTES = 64 * 2**20
"""Size to which the outputs of a strip's 2D convolutions are held on a CPU: freshly
allocated memory costs more time there than the rows that strips compute twice."""

MANY_MAPS = 32
"""Feature maps from which on four convolutions a pair of slices are the faster form."""

KEPT = "kept"
"""Name of what a gradient keeps where it computes other values again."""

ALL_CORES = 112
"""Outputs from which on XLA's 2D convolution uses all cores; a few more cost less."""


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(volume: Volume, kernel: Kernel, padding: int) -> Features:
    """Convolve (correlate, as torch does) with stride 1.

    Args:
      volume: feature maps.
      kernel: equal sides d = h = w of at least padding + 1 taps.
      padding: zeros on both ends of each axis; each grows by 2 * padding - d + 1.
    """
    return lax.platform_dependent(
        volume,
        kernel,
        cpu=partial(_convolve_slices, padding=padding),
        default=partial(_convolve_volume, padding=padding),
    )


def _convolve_forward(volume, kernel, padding):
    return convolve(volume, kernel, padding), (volume, kernel)


def _convolve_backward(padding, inputs, cotangent):
    volume, kernel = inputs
    with jax.named_scope("kernel_gradient"):
        kernel_gradient = lax.platform_dependent(
            volume,
            cotangent,
            cpu=partial(_kernel_gradient_slices, kernel=kernel, padding=padding),
            default=partial(_kernel_gradient_volume, kernel=kernel, padding=padding),
        )
    with jax.named_scope("input_gradient"):
        flipped = jnp.flip(kernel, (0, 1, 2)).swapaxes(3, 4)
        input_gradient = convolve(cotangent, flipped, kernel.shape[0] - 1 - padding)
    return input_gradient, kernel_gradient


convolve.defvjp(_convolve_forward, _convolve_backward)


@jax.custom_vjp
def convolve_relu(
    volume: Volume,
    kernel: Float[Array, "3 3 3 c o"],
    shortcut: Float[Array, "b z y x o"] | None,
) -> Float[Array, "b z y x o"]:
    """ReLU(convolve(volume, kernel, 1) + shortcut); nothing is added where it is None.

    The gradient needs the inputs and the result alone, no mask and no sum.
    """
    return lax.platform_dependent(
        volume,
        kernel,
        shortcut,
        cpu=_convolve_relu_slices,
        default=_convolve_relu_volume,
    )


def _convolve_relu_forward(volume, kernel, shortcut):
    out = checkpoint_name(convolve_relu(volume, kernel, shortcut), KEPT)
    return out, (volume, kernel, out, shortcut is None)


def _convolve_relu_backward(saved, cotangent):
    volume, kernel, out, without_shortcut = saved
    cotangent = jnp.where(out > 0, cotangent, jnp.zeros((), cotangent.dtype))
    by_volume, by_kernel = _convolve_backward(1, (volume, kernel), cotangent)
    return by_volume, by_kernel, None if without_shortcut else cotangent


convolve_relu.defvjp(_convolve_relu_forward, _convolve_relu_backward)


def _convolve_relu_volume(volume, kernel, shortcut):
    return _finish(_convolve_volume(volume, kernel, padding=1), shortcut)


def _convolve_relu_slices(volume, kernel, shortcut):
    def finish(rows, start):
        part = None
        if shortcut is not None:
            part = lax.slice_in_dim(shortcut, start, start + rows.shape[2], axis=2)
        return _finish(rows, part)

    return _convolve_slices(volume, kernel, padding=1, finish=finish)


def _finish(out, shortcut):
    return jax.nn.relu(out if shortcut is None else out + shortcut)


def _convolve_volume(volume, kernel, *, padding):
    return lax.conv_general_dilated(
        volume,
        kernel,
        window_strides=(1, 1, 1),
        padding=[(padding, padding)] * 3,
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    )


def _kernel_gradient_volume(volume, cotangent, *, kernel, padding):
    convolve_with = partial(_convolve_volume, volume, padding=padding)
    return jax.linear_transpose(convolve_with, kernel)(cotangent)[0]


def _convolve_slices(volume, kernel, *, padding, finish=lambda rows, start: rows):  # noqa: ARG005
    """Convolve strip by strip along y; `finish` takes a strip and its first row."""
    depth, height, *_, features = kernel.shape
    z, y, x = (
        size + 2 * padding - taps + 1
        for size, taps in zip(volume.shape[1:4], kernel.shape[:3], strict=True)
    )
    maps = features * (2 if _suits_pairs(volume, kernel, padding) else depth)
    row_bytes = volume[:, :, 0, :, 0].size * maps * volume.dtype.itemsize
    strips = math.ceil(y / max(8, STRIP_BYTES // row_bytes))
    rows = math.ceil(y / strips)
    if strips == 1:
        return finish(_convolve_strip(volume, kernel, padding, (padding, padding)), 0)
    out = jnp.zeros((len(volume), z, y, x, features), volume.dtype)
    for start in range(0, y, rows):
        first, last = start - padding, min(start + rows, y) - padding + height - 1
        strip = volume[:, :, max(first, 0) : last]
        if start:
            # else all strips are held in memory together
            strip = _after(strip, out[:, :1, start - 1 : start, :1, :1])
        edges = (max(-first, 0), max(last - volume.shape[2], 0))
        strip = finish(_convolve_strip(strip, kernel, padding, edges), start)
        out = lax.dynamic_update_slice_in_dim(out, strip, start, axis=2)
    # what comes next would be fused with the last strip, which then costs a copy of all
    return _after(out, out[:, :1, -1:, :1, :1])


def _after(volume, values):
    """The volume, not before the values (one a case) are there: an order CPUs keep.

    Their compiler takes optimization barriers away before it fuses and schedules.
    """
    return volume + values * jnp.zeros((), volume.dtype)


def _convolve_strip(volume, kernel, padding, edges):
    """Convolve with `padding` along z and x, and zeros on both `edges` along y."""
    if _suits_pairs(volume, kernel, padding):
        return _convolve_pairs(volume, kernel, edges)
    depth, height, width, inputs, features = kernel.shape
    b, z, y, x, _ = volume.shape
    taps = kernel.transpose(1, 2, 3, 0, 4).reshape(height, width, inputs, -1)
    used = taps.shape[-1]
    if ALL_CORES // 2 < used < ALL_CORES:
        taps = jnp.pad(taps, ((0, 0), (0, 0), (0, 0), (0, ALL_CORES - used)))
    slices = _convolve_2d(
        volume.reshape(b * z, y, x, inputs), taps, [edges, (padding, padding)]
    )
    by_tap = slices[..., :used].reshape(b, z, *slices.shape[1:3], depth, features)
    return _add_across_slices(by_tap, padding)


def _suits_pairs(volume, kernel, padding):
    sides, maps = kernel.shape[:3], kernel.shape[3:]
    fits = sides == (3, 3, 3) and padding == 1 and volume.dtype == jnp.float32
    return fits and min(maps) >= MANY_MAPS


def _convolve_pairs(volume, kernel, edges):
    """Convolve two slices at a time by four 2D convolutions, where six are plain.

    This is Winograd's F(2, 3) along z (Lavin and Gray, 2016); rounding differs no more
    than between two orders of the sum.
    """
    b, z, y, x, inputs = volume.shape
    pairs = -(-z // 2)
    ends = (1, 2 * pairs + 1 - z)
    padded = jnp.pad(volume, ((0, 0), ends, (0, 0), (0, 0), (0, 0)))
    before, first, second, after = (
        lax.slice_in_dim(padded, start, start + 2 * pairs - 1, stride=2, axis=1)
        for start in range(4)
    )
    above, middle, below = kernel
    factors = (
        (before - second, above),
        (first + second, (above + middle + below) / 2),
        (second - first, (above - middle + below) / 2),
        (first - after, below),
    )
    outer_1, inner_1, inner_2, outer_2 = (
        _convolve_2d(slices.reshape(b * pairs, y, x, inputs), taps, [edges, (1, 1)])
        for slices, taps in factors
    )
    both = jnp.stack([outer_1 + inner_1 + inner_2, inner_1 - inner_2 - outer_2], axis=1)
    return both.reshape(b, 2 * pairs, *both.shape[2:])[:, :z]


def _convolve_2d(slices, taps, padding):
    return lax.conv_general_dilated(
        slices,
        taps,
        window_strides=(1, 1),
        padding=padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _add_across_slices(by_tap, padding):
    """Slice i of the result is the sum over taps t of slice i + t - padding."""
    z, depth = by_tap.shape[1], by_tap.shape[4]
    slices = z + 2 * padding - depth + 1

    def add(first, last):
        """Slices `first` to `last` - 1, which the same taps add to."""
        return sum(
            by_tap[:, first + shift : last + shift, :, :, shift + padding]
            for shift in range(-padding, depth - padding)
            if first + shift >= 0 and last + shift <= z
        )

    at_start = range(min(padding, slices) + 1)
    at_end = range(max(slices - padding, 0), slices + 1)
    ends = sorted({*at_start, *at_end})
    return jnp.concatenate([add(*pair) for pair in pairwise(ends)], axis=1)


def _kernel_gradient_slices(volume, cotangent, *, kernel, padding):
    sizes_stay = kernel.shape[0] == 2 * padding + 1
    by_form = _kernel_gradient_2d if sizes_stay else _kernel_gradient_products
    return by_form(volume, cotangent, kernel, padding)


def _kernel_gradient_2d(volume, cotangent, kernel, padding):
    """2D convolutions with the cotangent as kernel; XLA is fast where sizes stay.

    Channels, with those of the neighbours in z, stand where cases stood, slices where
    channels stood.
    """
    depth, height, width, inputs, features = kernel.shape
    gradient = lax.conv_general_dilated(
        jnp.concatenate(_shifted_slices(volume, depth, padding), axis=-1),
        cotangent.reshape(-1, *cotangent.shape[2:]),
        window_strides=(1, 1),
        padding=[(padding, padding)] * 2,
        dimension_numbers=("CHWN", "IHWO", "HWNC"),
    )
    by_tap = gradient.reshape(height, width, depth, inputs, features)
    return by_tap.transpose(2, 0, 1, 3, 4)


def _kernel_gradient_products(volume, cotangent, kernel, padding):
    """One matrix product of the shifted volume and the cotangent for each tap."""
    padded = jnp.pad(volume, ((0, 0), *[(padding, padding)] * 3, (0, 0)))
    z, y, x, features = cotangent.shape[1:]
    rows = cotangent.reshape(-1, features)
    products = [
        padded[:, i : i + z, j : j + y, k : k + x].reshape(-1, volume.shape[-1]).T
        @ rows
        for i, j, k in product(*map(range, kernel.shape[:3]))
    ]
    return jnp.stack(products).reshape(kernel.shape)


def _shifted_slices(volume, taps, padding):
    """For each tap in z, the slices that it meets, with z joined to the batch."""
    padded = jnp.pad(volume, ((0, 0), (padding, padding), (0, 0), (0, 0), (0, 0)))
    slices = padded.shape[1] - taps + 1
    shifted = [padded[:, tap : tap + slices] for tap in range(taps)]
    return [part.reshape(-1, *part.shape[2:]) for part in shifted]


def convolve_upsampled(
    volume: Volume, kernel: Float[Array, "3 3 3 c o"]
) -> Float[Array, "b z2 y2 x2 o"]:
    """Upsample x2 (nearest) and convolve with padding 1, without the upsampled map.

    Two neighbours on the small map hold all that the two outputs between their centres
    see, so along each axis three taps become two, added up for each of the two outputs.
    The eight outputs of a corner between small voxels are channels first, voxels then.
    Devices that share rows share these too.
    """
    return by_rows(_convolve_upsampled, halo=1)(volume, kernel)


def _convolve_upsampled(volume, kernel):
    # output (before or after the corner), small voxel, tap
    fold = jnp.array([[[1, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 1, 1]]], kernel.dtype)
    folded = jnp.einsum(
        "pdi,qhj,rwk,ijkco->dhwcpqro", fold, fold, fold, kernel, precision="highest"
    )
    corners = convolve(volume, folded.reshape(*folded.shape[:4], -1), 1)
    return _channels_to_voxels(corners)[:, 1:-1, 1:-1, 1:-1]


def convolve_strided(
    volume: Volume, kernel: Float[Array, "4 4 4 c o"]
) -> Float[Array, "b z2 y2 x2 o"]:
    """Convolve four taps a side with stride 2 and padding 1; odd sizes round down.

    With each block of 2 x 2 x 2 voxels as one voxel of 8 c channels, this is a
    convolution of two taps a side with stride 1.
    """
    padded = jnp.pad(volume, ((0, 0), (1, 1), (1, 1), (1, 1), (0, 0)))
    z, y, x = (size // 2 * 2 + 2 for size in volume.shape[1:4])
    blocks = _voxels_to_channels(padded[:, :z, :y, :x])
    kernel_blocks = _voxels_to_channels(kernel.transpose(4, 0, 1, 2, 3))
    return convolve(blocks, kernel_blocks.transpose(1, 2, 3, 4, 0), 0)


def _voxels_to_channels(volume):
    b, z, y, x, c = volume.shape
    blocks = volume.reshape(b, z // 2, 2, y // 2, 2, x // 2, 2, c)
    return blocks.transpose(0, 1, 3, 5, 2, 4, 6, 7).reshape(
        b, z // 2, y // 2, x // 2, 8 * c
    )


def _channels_to_voxels(volume):
    b, z, y, x, c = volume.shape
    blocks = volume.reshape(b, z, y, x, 2, 2, 2, c // 8)
    return blocks.transpose(0, 1, 4, 2, 5, 3, 6, 7).reshape(
        b, 2 * z, 2 * y, 2 * x, c // 8
    )
