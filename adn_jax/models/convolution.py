"""3D convolutions of the networks, each exact and with a form that suits the backend.

XLA's 3D convolution is slow on CPUs, so there a convolution runs as one 2D convolution
over slices whose neighbours in z are joined as channels. Elsewhere lax's own is used.
Nearest upsampling and stride 2 are folded into convolutions of two taps a side.
"""

from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Volume = Float[Array, "b z y x c"]
Features = Float[Array, "b z1 y1 x1 o"]
Kernel = Float[Array, "d h w c o"]


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
    flipped = jnp.flip(kernel, (0, 1, 2)).swapaxes(3, 4)
    kernel_gradient = lax.platform_dependent(
        volume,
        cotangent,
        cpu=partial(_kernel_gradient_slices, kernel=kernel, padding=padding),
        default=partial(_kernel_gradient_volume, kernel=kernel, padding=padding),
    )
    return convolve(cotangent, flipped, kernel.shape[0] - 1 - padding), kernel_gradient


convolve.defvjp(_convolve_forward, _convolve_backward)


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


def _convolve_slices(volume, kernel, *, padding):
    depth, height, width, _, features = kernel.shape
    joined = jnp.concatenate(_shifted_slices(volume, depth, padding), axis=-1)
    joined_kernel = kernel.transpose(1, 2, 0, 3, 4).reshape(height, width, -1, features)
    slices = _convolve_2d(joined, joined_kernel, padding)
    return slices.reshape(len(volume), -1, *slices.shape[1:])


def _kernel_gradient_slices(volume, cotangent, *, kernel, padding):
    sizes_stay = kernel.shape[0] == 2 * padding + 1
    by_form = _kernel_gradient_2d if sizes_stay else _kernel_gradient_products
    return by_form(volume, cotangent, kernel, padding)


def _kernel_gradient_2d(volume, cotangent, kernel, padding):
    """One 2D kernel gradient for each tap in z; XLA is fast where sizes stay."""
    slices = cotangent.reshape(-1, *cotangent.shape[2:])
    return jnp.stack(
        [
            jax.linear_transpose(partial(_convolve_2d, shifted, padding=padding), tap)(
                slices
            )[0]
            for shifted, tap in zip(
                _shifted_slices(volume, len(kernel), padding), kernel, strict=True
            )
        ]
    )


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


def _convolve_2d(slices, kernel, padding):
    return lax.conv_general_dilated(
        slices,
        kernel,
        window_strides=(1, 1),
        padding=[(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def convolve_upsampled(
    volume: Volume, kernel: Float[Array, "3 3 3 c o"]
) -> Float[Array, "b z2 y2 x2 o"]:
    """Upsample x2 (nearest) and convolve with padding 1, without the upsampled map.

    Two neighbours on the small map hold all that the two outputs between their centres
    see, so along each axis three taps become two, added up for each of the two outputs.
    The eight outputs of a corner between small voxels are channels first, voxels then.
    """
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
