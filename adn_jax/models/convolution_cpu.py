"""3D convolutions as 2D convolutions of slices, for CPUs, whose 3D form is slow.

One 2D convolution has all taps in z side by side, and its outputs are then added up
across slices, in float32; for many maps there are four for each pair of slices
(Winograd). Large volumes go through in strips.
"""

import math
from functools import partial
from itertools import pairwise, product

import jax
import jax.numpy as jnp
from jax import lax

STRIP_BYTES = 64 * 2**20
"""Size to which the outputs of a strip's 2D convolutions are held on a CPU: freshly
allocated memory costs more time there than the rows that strips compute twice."""

MANY_MAPS = 32
"""Feature maps from which on four convolutions a pair of slices are the faster form."""

ALL_CORES = 112
"""Outputs from which on XLA's 2D convolution uses all cores; a few more cost less."""

SLOW_UNPADDED = jax.__version_info__ < (0, 11)
"""Whether XLA lays a convolution without padding out as patches, one copy of the map a
tap: memory of which no plan tells, and up to 2.5 times the time of one with a row of
zeros. (So does jax 0.10.2; 0.9.2 and 0.11.2 do not.)"""


def convolve_slices(volume, kernel, *, padding, finish=lambda rows, start: rows):  # noqa: ARG005
    """Convolve (b, z, y, x, c) with (d, h, w, c, o), strip by strip along y.

    `padding` is that of each axis. `finish` takes a strip's outputs and their first row
    and gives what they become.
    """
    depth, height, *_, features = kernel.shape
    z, y, x = (
        size + 2 * added - taps + 1
        for size, added, taps in zip(
            volume.shape[1:4], padding, kernel.shape[:3], strict=True
        )
    )
    above = padding[1]
    maps = features * (2 if _suits_pairs(volume, kernel, padding) else depth)
    row_bytes = volume[:, :, 0, :, 0].size * maps * 4
    strips = math.ceil(y / max(8, STRIP_BYTES // row_bytes))
    rows = math.ceil(y / strips)
    if strips == 1:
        return finish(_convolve_strip(volume, kernel, padding, (above, above)), 0)
    out = jnp.zeros((len(volume), z, y, x, features), volume.dtype)
    for start in range(0, y, rows):
        first, last = start - above, min(start + rows, y) - above + height - 1
        strip = volume[:, :, max(first, 0) : last]
        if start:
            # else all strips are held in memory together
            strip = after(strip, out[:, :1, start - 1 : start, :1, :1])
        edges = (max(-first, 0), max(last - volume.shape[2], 0))
        strip = finish(_convolve_strip(strip, kernel, padding, edges), start)
        out = lax.dynamic_update_slice_in_dim(out, strip, start, axis=2)
    # what comes next would be fused with the last strip, which then costs a copy of all
    return after(out, out[:, :1, -1:, :1, :1])


def after(volume, values):
    """The volume, not before the values (one, or one a case) are there: an order that
    CPUs keep.

    Their compiler takes optimization barriers away before it fuses and schedules.
    """
    return volume + values.astype(volume.dtype) * jnp.zeros((), volume.dtype)


def when_made(tree):
    """A number for `after` that is not there before all leaves of the tree are."""
    return sum(leaf.ravel()[0].astype(jnp.float32) for leaf in jax.tree.leaves(tree))


def _convolve_strip(volume, kernel, padding, edges):
    """Convolve with `padding` along z and x, and zeros on both `edges` along y."""
    in_plane = [edges, (padding[2], padding[2])]
    if _suits_pairs(volume, kernel, padding):
        return _convolve_pairs(volume, kernel, in_plane)
    depth, height, width, inputs, features = kernel.shape
    b, z, y, x, _ = volume.shape
    taps = kernel.transpose(1, 2, 3, 0, 4).reshape(height, width, inputs, -1)
    used = taps.shape[-1]
    if ALL_CORES // 2 < used < ALL_CORES:
        taps = jnp.pad(taps, ((0, 0), (0, 0), (0, 0), (0, ALL_CORES - used)))
    slices = _convolve_2d(volume.reshape(b * z, y, x, inputs), taps, in_plane)
    by_tap = slices[..., :used].reshape(b, z, *slices.shape[1:3], depth, features)
    return _add_across_slices(by_tap, padding[0]).astype(volume.dtype)


def _suits_pairs(volume, kernel, padding):
    depth, maps = len(kernel), kernel.shape[3:]
    fits = depth == 3 and padding[0] == 1 and volume.dtype == jnp.float32
    return fits and min(maps) >= MANY_MAPS


def _convolve_pairs(volume, kernel, in_plane):
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
        _convolve_2d(slices.reshape(b * pairs, y, x, inputs), taps, in_plane)
        for slices, taps in factors
    )
    both = jnp.stack([outer_1 + inner_1 + inner_2, inner_1 - inner_2 - outer_2], axis=1)
    return both.reshape(b, 2 * pairs, *both.shape[2:])[:, :z]


def _convolve_2d(slices, taps, padding):
    convolve = partial(
        lax.conv_general_dilated,
        slices,
        taps,
        window_strides=(1, 1),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        preferred_element_type=jnp.float32,
    )
    is_large = len(taps) > 1 and slices.shape[-1] >= MANY_MAPS
    if SLOW_UNPADDED and is_large and not any(map(any, padding)):
        return convolve(padding=[(0, 1), (0, 0)])[:, :-1]
    return convolve(padding=padding)


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


def kernel_gradient_slices(volume, cotangent, *, kernel, padding):
    """Gradient (d, h, w, c, o) of `kernel` for a cotangent (b, z, y, x, o)."""
    sizes_stay = kernel.shape[:3] == tuple(2 * added + 1 for added in padding)
    by_form = _kernel_gradient_2d if sizes_stay else _kernel_gradient_products
    return by_form(volume, cotangent, kernel, padding)


def _kernel_gradient_2d(volume, cotangent, kernel, padding):
    """2D convolutions with the cotangent as kernel; XLA is fast where sizes stay.

    Channels, with those of the neighbours in z, stand where cases stood, slices where
    channels stood.
    """
    depth, height, width, inputs, features = kernel.shape
    gradient = lax.conv_general_dilated(
        jnp.concatenate(_shifted_slices(volume, depth, padding[0]), axis=-1),
        cotangent.reshape(-1, *cotangent.shape[2:]),
        window_strides=(1, 1),
        padding=[(added, added) for added in padding[1:]],
        dimension_numbers=("CHWN", "IHWO", "HWNC"),
        preferred_element_type=kernel.dtype,
    )
    by_tap = gradient.reshape(height, width, depth, inputs, features)
    return by_tap.transpose(2, 0, 1, 3, 4)


def _kernel_gradient_products(volume, cotangent, kernel, padding):
    """One matrix product of the shifted volume and the cotangent for each tap."""
    padded = jnp.pad(volume, ((0, 0), *((each, each) for each in padding), (0, 0)))
    z, y, x, features = cotangent.shape[1:]
    rows = cotangent.reshape(-1, features)
    products = [
        jnp.matmul(
            padded[:, i : i + z, j : j + y, k : k + x].reshape(-1, volume.shape[-1]).T,
            rows,
            preferred_element_type=kernel.dtype,
        )
        for i, j, k in product(*map(range, kernel.shape[:3]))
    ]
    return jnp.stack(products).reshape(kernel.shape)


def _shifted_slices(volume, taps, padding):
    """For each tap in z, the slices that it meets, with z joined to the batch."""
    padded = jnp.pad(volume, ((0, 0), (padding, padding), (0, 0), (0, 0), (0, 0)))
    slices = padded.shape[1] - taps + 1
    shifted = [padded[:, tap : tap + slices] for tap in range(taps)]
    return [part.reshape(-1, *part.shape[2:]) for part in shifted]
