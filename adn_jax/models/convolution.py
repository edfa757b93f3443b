"""3D convolutions of the networks, each exact and with a form that suits the backend.

XLA's 3D convolution is slow on CPUs, so there a convolution runs as 2D convolutions of
slices; on TPUs, too, where slices as cases fill the registers. GPUs have lax's own.
Nearest upsampling and stride 2 are folded into convolutions of two taps a side.
Kernels are parameters in float32: they are brought to the maps' type here, and their
gradients are float32 again.
"""

from functools import cache, partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from adn_jax.distributed.mesh import halo_exchange, shares_rows
from adn_jax.models.convolution_cpu import convolve_slices, kernel_gradient_slices
from adn_jax.models.packing import packed_upsampling
from adn_jax.models.precision import products_in_use
from adn_jax.types import Volume

Features = Float[Array, "b z1 y1 x1 o"]
Kernel = Float[Array, "d h w c o"]
Padding = tuple[int, int, int]

KEPT = "kept"
"""Name of what a gradient keeps where it computes other values again."""


@cache
def _given(function, **settings):
    """The function with these settings; each time the same, so that jax, which traces
    the forms for all platforms, traces each once for arguments of a shape."""
    return partial(function, **settings)


def convolve(volume: Volume, kernel: Kernel, padding: int | Padding) -> Features:
    """Convolve (correlate, as torch does) with stride 1.

    Args:
        volume: feature maps.
        kernel: sides d, h, w of at least padding + 1 taps each; the type of its
            gradient, which is summed in float32, is its own.
        padding: zeros on both ends of each axis (one number: of all), which grows by
            2 * padding - taps + 1.
    """
    if isinstance(padding, int):
        padding = (padding, padding, padding)
    return _convolve(volume, kernel, padding, products_in_use())


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(volume, kernel, padding, products):
    with jax.default_matmul_precision(products):
        return lax.platform_dependent(
            volume,
            kernel.astype(volume.dtype),
            cpu=_given(convolve_slices, padding=padding),
            tpu=_given(_convolve_planes, padding=padding),
            default=_given(_convolve_volume, padding=padding),
        )


def _convolve_forward(volume, kernel, padding, products):
    return _convolve(volume, kernel, padding, products), (volume, kernel)


def _convolve_backward(padding, products, inputs, cotangent):
    volume, kernel = inputs
    shape = jax.ShapeDtypeStruct(kernel.shape, kernel.dtype)
    with jax.default_matmul_precision(products), jax.named_scope("kernel_gradient"):
        kernel_gradient = lax.platform_dependent(
            volume,
            cotangent,
            cpu=_given(kernel_gradient_slices, kernel=shape, padding=padding),
            tpu=_given(_kernel_gradient_planes, kernel=shape, padding=padding),
            default=_given(_kernel_gradient_gpu, kernel=shape, padding=padding),
        )
    with jax.named_scope("input_gradient"):
        flipped = jnp.flip(kernel, (0, 1, 2)).swapaxes(3, 4)
        rest = tuple(
            taps - 1 - added
            for taps, added in zip(kernel.shape[:3], padding, strict=True)
        )
        input_gradient = _convolve(cotangent, flipped, rest, products)
    return input_gradient, kernel_gradient


_convolve.defvjp(_convolve_forward, _convolve_backward)


def convolve_relu(
    volume: Volume,
    kernel: Float[Array, "3 3 3 c o"],
    shortcut: Float[Array, "b z y x o"] | None,
) -> Float[Array, "b z y x o"]:
    """ReLU(convolve(volume, kernel, 1) + shortcut); nothing is added where it is None.

    The gradient needs the inputs and the result alone, no mask and no sum.
    """
    return _convolve_relu(volume, kernel, shortcut, products_in_use())


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _convolve_relu(volume, kernel, shortcut, products):
    with jax.default_matmul_precision(products):
        return lax.platform_dependent(
            volume,
            kernel.astype(volume.dtype),
            shortcut,
            cpu=_convolve_relu_slices,
            tpu=_given(_convolve_relu_whole, convolve=_convolve_planes),
            default=_given(_convolve_relu_whole, convolve=_convolve_volume),
        )


def _convolve_relu_forward(volume, kernel, shortcut, products):
    out = checkpoint_name(_convolve_relu(volume, kernel, shortcut, products), KEPT)
    return out, (volume, kernel, out, shortcut is None)


def _convolve_relu_backward(products, saved, cotangent):
    volume, kernel, out, without_shortcut = saved
    cotangent = jnp.where(out > 0, cotangent, jnp.zeros((), cotangent.dtype))
    by_volume, by_kernel = _convolve_backward(
        (1, 1, 1), products, (volume, kernel), cotangent
    )
    return by_volume, by_kernel, None if without_shortcut else cotangent


_convolve_relu.defvjp(_convolve_relu_forward, _convolve_relu_backward)


def _convolve_relu_whole(volume, kernel, shortcut, *, convolve):
    return _add_shortcut(convolve(volume, kernel, padding=(1, 1, 1)), shortcut)


def _convolve_relu_slices(volume, kernel, shortcut):
    """Devices that share rows go through their own in strips: XLA's partitioner would
    share out each strip."""

    def convolved(rows, weights, shortcut, halo):
        def finish(strip, start):
            part = None
            if shortcut is not None:
                part = lax.slice_in_dim(shortcut, start, start + strip.shape[2], axis=2)
            return _add_shortcut(strip, part)

        return convolve_slices(rows, weights, padding=(1, 1 - halo, 1), finish=finish)

    if not shares_rows(volume):
        return convolved(volume, kernel, shortcut, halo=0)
    return halo_exchange(convolved, halo=1)(volume, kernel, shortcut)


def _add_shortcut(out, shortcut):
    return jax.nn.relu(out if shortcut is None else out + shortcut)


def _convolve_volume(volume, kernel, *, padding):
    return lax.conv_general_dilated(
        volume,
        kernel,
        window_strides=(1, 1, 1),
        padding=[(added, added) for added in padding],
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    )


def _convolve_planes(volume, kernel, *, padding):
    """Slices as cases of a 2D convolution, the taps along z as channels of it.

    Of few volumes a TPU's compiler would make more cases by cutting rows, with copies.
    """
    added_z, *added = padding
    # side by side before they are cases: the other order has 5 % more cycles
    seen = jnp.concatenate(_slices_of_taps(volume, len(kernel), added_z), axis=-1)
    taps_as_channels = jnp.moveaxis(kernel, 0, 2)
    out = lax.conv_general_dilated(
        _as_cases(seen),
        taps_as_channels.reshape(*kernel.shape[1:3], -1, kernel.shape[-1]),
        window_strides=(1, 1),
        padding=[(each, each) for each in added],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return out.reshape(*seen.shape[:2], *out.shape[1:])


def _slices_of_taps(volume, depth, added):
    """The slices that each tap along z sees; `added` of zeros lie at both ends."""
    padded = jnp.pad(volume, [(0, 0), (added, added), *[(0, 0)] * 3])
    slices = padded.shape[1] - depth + 1
    return [lax.slice_in_dim(padded, tap, tap + slices, axis=1) for tap in range(depth)]


def _as_cases(volume):
    """Every slice as a case."""
    return volume.reshape(-1, *volume.shape[2:])


def _kernel_gradient_planes(volume, cotangent, *, kernel, padding):
    """As `_kernel_gradient_volume`, slices as cases, for each tap along z by itself."""
    added_z, *added = padding
    of_tap = partial(
        lax.conv_general_dilated,
        rhs=_as_cases(cotangent),
        window_strides=(1, 1),
        padding=[(each, each) for each in added],
        dimension_numbers=("CHWN", "IHWO", "HWNC"),
        preferred_element_type=kernel.dtype,
    )
    seen = _slices_of_taps(volume, len(kernel), added_z)
    return jnp.stack([of_tap(_as_cases(slices)) for slices in seen])


def _kernel_gradient_volume(volume, cotangent, *, kernel, padding):
    """Channels stand where cases stood; it leaves the convolution in `kernel`'s type,
    in which devices then add up theirs."""
    return lax.conv_general_dilated(
        volume,
        cotangent,
        window_strides=(1, 1, 1),
        padding=[(added, added) for added in padding],
        dimension_numbers=("CDHWN", "IDHWO", "DHWNC"),
        preferred_element_type=kernel.dtype,
    )


def _kernel_gradient_gpu(volume, cotangent, *, kernel, padding):
    """As above, but rounded to the maps' type once: cuDNN sums in float32, and for a
    result in float32 XLA would bring the maps to float32, too."""
    in_maps_type = jax.ShapeDtypeStruct(kernel.shape, volume.dtype)
    gradient = _kernel_gradient_volume(
        volume, cotangent, kernel=in_maps_type, padding=padding
    )
    return gradient.astype(kernel.dtype)


def convolve_upsampled(
    volume: Volume, kernel: Float[Array, "3 3 3 c o"], *, flat: bool = False
) -> Float[Array, "b z2 y2 x2 o"]:
    """Upsample x2 (nearest) and convolve with padding 1, without the upsampled map.

    Devices that share rows share these too. Where `flat`, y and x alone double.
    """

    def upsampled(rows: Volume, weights: Kernel, halo: int) -> Features:
        maps = _convolve_upsampled(rows, weights, flat, products_in_use())
        return _without_halo(maps, 2 * halo)

    return halo_exchange(upsampled, halo=1)(volume, kernel)


def _without_halo(maps, rows):
    """The maps without so many rows at both ends."""
    return maps[:, :, rows : maps.shape[2] - rows]


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve_upsampled(volume, kernel, flat, products):
    with jax.default_matmul_precision(products):
        return lax.platform_dependent(
            volume,
            kernel,
            cuda=_given(_upsampled_transposed, flat=flat),
            default=_given(_upsampled_folded, flat=flat),
        )


def _convolve_upsampled_forward(volume, kernel, flat, products):
    return _convolve_upsampled(volume, kernel, flat, products), (volume, kernel)


def _convolve_upsampled_backward(flat, products, inputs, cotangent):
    def folded(volume, kernel, cotangent):
        _, pull_back = jax.vjp(partial(_upsampled_folded, flat=flat), volume, kernel)
        return pull_back(cotangent)

    with jax.default_matmul_precision(products):
        return lax.platform_dependent(
            *inputs,
            cotangent,
            cuda=partial(_upsampled_transposed_gradients, flat=flat),
            default=folded,
        )


_convolve_upsampled.defvjp(_convolve_upsampled_forward, _convolve_upsampled_backward)


def _upsampled_folded(volume, kernel, *, flat):
    """Two neighbours on the small map hold all that the two outputs between their
    centres see, so along each axis three taps become two, added up for each of the two
    outputs. The eight outputs of a corner between small voxels are channels first,
    voxels then. Where `flat`, the taps along z stay, of four outputs."""
    # output (before or after the corner), small voxel, tap
    fold = jnp.array([[[1, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 1, 1]]], kernel.dtype)
    along_z = jnp.eye(3, dtype=kernel.dtype)[None] if flat else fold
    folded = jnp.einsum(
        "pdi,qhj,rwk,ijkco->dhwcpqro", along_z, fold, fold, kernel, precision="highest"
    )
    corners = convolve(volume, folded.reshape(*folded.shape[:4], -1), 1)
    inner = slice(1, -1)
    slices = slice(None) if flat else inner
    return _channels_to_voxels(corners, len(along_z))[:, slices, inner, inner]


def _upsampled_transposed(volume, kernel, *, flat):
    """The transpose of a convolution of four taps with stride 2, for which cuDNN has a
    program of its own: no map is laid out anew. An output sees two of the four taps
    along each axis, as many as folded."""
    b, z, y, x, _ = volume.shape
    shape = b, z if flat else 2 * z, 2 * y, 2 * x, kernel.shape[-1]
    big = jnp.zeros(shape, volume.dtype)
    halve = partial(_halve, kernel=_transposed_kernel(kernel, flat, volume.dtype))
    _, pull_back = jax.vjp(partial(halve, flat=flat), big)
    return pull_back(volume)[0]


def _upsampled_transposed_gradients(volume, kernel, cotangent, *, flat):
    with jax.named_scope("input_gradient"):
        spread = partial(_transposed_kernel, flat=flat, kind=volume.dtype)
        taps, pull_back = jax.vjp(spread, kernel)
        by_volume = _halve(cotangent, taps, flat=flat)
    with jax.named_scope("kernel_gradient"):
        _, gradient = jax.vjp(partial(_halve, cotangent, flat=flat), taps)
        (by_kernel,) = pull_back(gradient(volume)[0])
    return by_volume, by_kernel


def _transposed_kernel(kernel, flat, kind):
    """Four taps of the strided convolution whose transpose upsamples and convolves:
    tap t of the three adds to the taps t and t + 1 (along z not where `flat`)."""
    spread = jnp.eye(4, 3, dtype=kernel.dtype) + jnp.eye(4, 3, -1, dtype=kernel.dtype)
    along_z = jnp.eye(3, dtype=kernel.dtype) if flat else spread
    taps = jnp.einsum(
        "pi,qj,rk,ijkco->pqroc", along_z, spread, spread, kernel, precision="highest"
    )
    return jnp.flip(taps, (0, 1, 2)).astype(kind)


def _halve(volume, kernel, *, flat):
    """Convolve four taps a side with stride 2 (z: three with stride 1 where `flat`)."""
    return lax.conv_general_dilated(
        volume,
        kernel,
        window_strides=(1 if flat else 2, 2, 2),
        padding=[(1, 1)] * 3,
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    )


def convolve_upsampled_packed(
    volume: Float[Array, "b z y x1 c1"],
    kernel: Float[Array, "3 3 3 c o"],
    *,
    flat: bool,
    pack: int,
) -> Float[Array, "b z2 y2 x1 o1"]:
    """The same for maps that pack pack / 2 voxels of a row; the result packs `pack`.

    Along y and z as in `_upsampled_folded`, with three taps, so that no corner is cut
    off; a packed row keeps its place. What is laid out anew are whole rows.
    """

    def upsampled(own: Array, weights: Array, halo: int) -> Array:
        # output, tap of the kernel, small voxel
        fold = jnp.array(
            [[[1, 0, 0], [0, 1, 0], [0, 1, 0]], [[0, 1, 0], [0, 1, 0], [0, 0, 1]]],
            weights.dtype,
        )
        along_z = jnp.eye(3, dtype=weights.dtype)[None] if flat else fold
        along_x = packed_upsampling(weights, pack // 2, pack)
        folded = jnp.einsum(
            "pid,qjh,ijtco->dhtcpqo", along_z, fold, along_x, precision="highest"
        )
        rows = convolve(own, folded.reshape(*folded.shape[:4], -1), 1)
        b, z, y, x, _ = rows.shape
        slices = len(along_z)
        blocks = rows.reshape(b, z, y, x, slices, 2, -1)
        maps = blocks.transpose(0, 1, 4, 2, 5, 3, 6).reshape(
            b, slices * z, 2 * y, x, -1
        )
        return _without_halo(maps, 2 * halo)

    return halo_exchange(upsampled, halo=1)(volume, kernel)


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


def _channels_to_voxels(volume, slices):
    b, z, y, x, c = volume.shape
    features = c // (4 * slices)
    blocks = volume.reshape(b, z, y, x, slices, 2, 2, features)
    return blocks.transpose(0, 1, 4, 2, 5, 3, 6, 7).reshape(
        b, slices * z, 2 * y, 2 * x, features
    )
