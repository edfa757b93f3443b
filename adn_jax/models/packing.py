"""Neighbours along x as channels: what fills the 128 lanes of a TPU.

A TPU computes 128 channels at once, and the finest maps of a U-Net have 32: three
quarters of it would stand empty, and maps would be copied between layouts. So `pack`
voxels of a row are laid side by side as channels,

    (b, z, y, x, c)  ->  (b, z, y, x / pack, pack * c)

which moves no number, and all that acts on each voxel alone stays as it is. Kernels are
spread out to match: more multiplications, by zeros, but fewer cycles. Parameters are
the same in both forms.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from adn_jax.distributed.mesh import platform_in_use

LANES = 128
"""Channels that a TPU computes at once."""

MOST = 4
"""Voxels packed together at most: with more, the zeros cost more than lanes gain."""


def level_packs(widths: tuple[int, ...], columns: int) -> tuple[int, ...]:
    """Voxels to pack on each level of a U-Net whose finest maps have `columns` (x).

    1 on all levels, which is the plain form, unless the program is for a TPU.
    """
    packs = []
    for level, features in enumerate(widths):
        pack = 1
        if platform_in_use() == "tpu":
            while (
                2 * pack * features <= LANES
                and 2 * pack <= MOST
                and (columns >> level) % (2 * pack) == 0
            ):
                pack *= 2
        packs.append(pack)
    return tuple(packs)


def repack(
    volume: Float[Array, "b z y x c"], former: int, pack: int
) -> Float[Array, "b z y x1 c1"]:
    """The same maps with another number of voxels packed together."""
    if former == pack:
        return volume
    b, z, y, x, c = volume.shape
    return volume.reshape(b, z, y, x * former // pack, c // former * pack)


def tile_channels(values: Float[Array, " c"], pack: int) -> Float[Array, " c1"]:
    """What belongs to each channel, for channels of packed maps."""
    return jnp.tile(values, pack) if pack > 1 else values


def packed_kernel(
    kernel: Float[Array, "d h 3 c o"], pack: int
) -> Float[Array, "d h 3 c1 o1"]:
    """A kernel of three taps along x and padding 1, for packed maps.

    Output voxel p sees with tap i the voxel p + i - 1, which is voxel s of the packed
    neighbour at t - 1: t, s = divmod(p + i - 1 + pack, pack).
    """
    if pack == 1:
        return kernel
    spread = jnp.zeros((pack, 3, 3, pack), kernel.dtype)
    for output in range(pack):
        for tap in range(3):
            neighbour, voxel = divmod(output + tap - 1 + pack, pack)
            spread = spread.at[output, tap, neighbour, voxel].set(1)
    return _spread(kernel, spread)


def packed_upsampling(
    kernel: Float[Array, "d h 3 c o"], small: int, pack: int
) -> Float[Array, "d h 3 c1 o1"]:
    """The same behind an upsampling (nearest, x2) of maps that pack `small` voxels.

    `pack` is 2 * `small`, so that a packed voxel of one stands for one of the other.
    """
    spread = jnp.zeros((pack, 3, 3, small), kernel.dtype)
    for output in range(pack):
        for tap in range(3):
            seen = (output + tap - 1 + pack) // 2  # counted from the neighbour before
            neighbour, voxel = divmod(seen, small)
            spread = spread.at[output, tap, neighbour, voxel].add(1)
    return _spread(kernel, spread)


def packed_head(kernel: Float[Array, "c o"], pack: int) -> Float[Array, "c1 o1"]:
    """The matrix that acts on each voxel alone, for packed maps."""
    return jnp.kron(jnp.eye(pack, dtype=kernel.dtype), kernel) if pack > 1 else kernel


def _spread(
    kernel: Float[Array, "d h 3 c o"], spread: Float[Array, "p 3 t s"]
) -> Float[Array, "d h t s*c p*o"]:
    full = jnp.einsum("dhico,pits->dhtscpo", kernel, spread, precision="highest")
    d, h, t, s, c, p, o = full.shape
    return full.reshape(d, h, t, s * c, p * o)
