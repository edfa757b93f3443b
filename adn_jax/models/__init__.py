"""The networks as pure functions: `init_*(key, settings)` and `apply_*(params, ...)`.

No other part of the package knows how the networks are built.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from adn_jax.config import (
    AlignmentNetSettings,
    DeepMedicSettings,
    Precision,
    Remat,
    SegmentNetSettings,
    SymmetryNetSettings,
    UNetSettings,
    WindowNetSettings,
)
from adn_jax.distributed.mesh import shard_rows
from adn_jax.errors import UserError
from adn_jax.models.alignment_net import AlignmentNet
from adn_jax.models.blocks import draw_kernels
from adn_jax.models.deepmedic import apply_deepmedic, deepmedic_window, init_deepmedic
from adn_jax.models.patches import Window, over_windows
from adn_jax.models.precision import map_type, multiplying
from adn_jax.models.sean import apply_sean, check_slices, init_sean, sean_window
from adn_jax.models.unets import UNet
from adn_jax.types import Key, Params, View

__all__ = [
    "apply_alignment_net",
    "apply_network",
    "apply_unet",
    "apply_unet_levels",
    "apply_windows",
    "check_shape",
    "deepest_rows",
    "inference_window",
    "init_alignment_net",
    "init_network",
    "init_unet",
    "training_window",
]

LevelLogits = tuple[Float32[Array, "b _z _y _x outputs"], ...]

IDENTITY_START = 0.01
"""Share of the last kernel's usual size that T keeps to start at the identity."""


@partial(jax.jit, static_argnames=("settings", "shape_zyx"))
def init_alignment_net(
    key: Key, settings: AlignmentNetSettings, shape_zyx: tuple[int, int, int]
) -> Params:
    """Draw the parameters of T for volumes of `shape_zyx` voxels."""
    check_shape(shape_zyx, settings)
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
) -> View:
    """Estimate how each head lies: rotations in radians, shifts in half-extents.

    At the precision bfloat16 feature maps are bfloat16. Products of float32 are exact
    at each: the view turns a head by the angle that it says.

    Raises:
      UserError: the volume is too small for the stages.
    """
    check_shape(volume.shape[1:4], settings)
    with multiplying("float32"):
        maps = volume.astype(map_type(precision))
        view: Any = AlignmentNet(settings).apply({"params": params}, maps)
        return view


@partial(jax.jit, static_argnames=("settings", "inputs"))
def init_unet(key: Key, settings: UNetSettings, inputs: int = 1) -> Params:
    """Draw the parameters of a U-Net that takes `inputs` channels."""
    side = 2 ** (len(settings.widths) - 1)
    volume = jnp.zeros((1, side, side, side, inputs))
    return draw_kernels(key, UNet(settings).init(key, volume, None)["params"])


@partial(jax.jit, static_argnames=("settings", "precision", "remat"))
def apply_unet(
    params: Params,
    volume: Float[Array, "b z y x c"],
    settings: UNetSettings,
    *,
    key: Key | None = None,
    precision: Precision = "float32",
    remat: Remat = "nothing",
) -> Float32[Array, "b z y x outputs"]:
    """Compute the logits of each voxel; a key switches dropout on.

    Maps and products are as `precision` says, the logits float32; `remat` trades
    time for the gradient's memory. Where the mesh in use has devices that share rows,
    they share those of every map.

    Raises:
      UserError: a size of the volume does not halve as often as the levels need.
    """
    return _level_logits(params, volume, settings, key, precision, remat)[0]


@partial(jax.jit, static_argnames=("settings", "precision", "remat"))
def apply_unet_levels(
    params: Params,
    volume: Float[Array, "b z y x c"],
    settings: UNetSettings,
    *,
    key: Key | None = None,
    precision: Precision = "float32",
    remat: Remat = "nothing",
) -> LevelLogits:
    """The logits of `apply_unet`, and those of the levels below that have any.

    There are `settings.deep_supervision` of these, each of its level's size, the finest
    first.
    """
    return _level_logits(params, volume, settings, key, precision, remat)


def _level_logits(
    params: Params,
    volume: Float[Array, "b z y x c"],
    settings: UNetSettings,
    key: Key | None,
    precision: Precision,
    remat: Remat,
) -> LevelLogits:
    check_shape(volume.shape[1:4], settings)
    network = UNet(settings, remat)
    rows = shard_rows(volume.astype(map_type(precision)))
    with multiplying(precision):
        logits: Any = network.apply({"params": params}, rows, key)
        return logits


def init_network(key: Key, settings: SegmentNetSettings, inputs: int = 1) -> Params:
    """Draw the parameters of any network that can be F."""
    match settings:
        case UNetSettings():
            return init_unet(key, settings, inputs)
        case DeepMedicSettings():
            return init_deepmedic(key, settings, inputs)
        case SymmetryNetSettings():
            return init_sean(key, settings, inputs)


def apply_network(
    params: Params,
    volume: Float[Array, "b z y x c"],
    settings: SegmentNetSettings,
    *,
    key: Key | None = None,
    precision: Precision = "float32",
    remat: Remat = "nothing",
) -> Float32[Array, "b z y x outputs"]:
    """Compute the logits of each voxel by any network that can be F.

    One that sees windows goes over the volume window by window, without dropout.
    """
    if isinstance(settings, UNetSettings):
        return apply_unet(
            params, volume, settings, key=key, precision=precision, remat=remat
        )

    def logits(windows: Float[Array, "n z y x c"]) -> Float32[Array, "n z2 y2 x2 1"]:
        return apply_windows(params, windows, settings, precision=precision)[0]

    _, z, y, x, _ = volume.shape
    return over_windows(logits, volume, inference_window(settings, (z, y, x)))


def apply_windows(
    params: Params,
    windows: Float[Array, "n z y x c"],
    settings: WindowNetSettings,
    *,
    key: Key | None = None,
    precision: Precision = "float32",
) -> tuple[Float32[Array, "n z2 y2 x2 1"], Params]:
    """Logits of the windows' inner voxels, and the next running statistics.

    A key switches to training: dropout, and the statistics of these windows.
    """
    apply = apply_deepmedic if isinstance(settings, DeepMedicSettings) else apply_sean
    return apply(params, windows, settings, key=key, precision=precision)


def training_window(settings: WindowNetSettings, shape: tuple[int, int, int]) -> Window:
    """Windows that a network learns from on volumes of a shape."""
    if isinstance(settings, DeepMedicSettings):
        return deepmedic_window(settings, settings.side)
    return sean_window(settings, shape)


def inference_window(
    settings: WindowNetSettings, shape: tuple[int, int, int]
) -> Window:
    """Windows that cover a volume of a shape side by side.

    Along an axis that one tile covers, it is no longer than needed, and odd.
    """
    if isinstance(settings, SymmetryNetSettings):
        return sean_window(settings, shape)
    z, y, x = (min(settings.tile, size // 2 * 2 + 1) for size in shape)
    return deepmedic_window(settings, (z, y, x))


def check_shape(
    shape_zyx: tuple[int, ...], settings: SegmentNetSettings | AlignmentNetSettings
) -> None:
    """Refuse a volume whose sizes a network cannot take, and name sizes that it can."""
    if isinstance(settings, DeepMedicSettings):
        return
    if isinstance(settings, SymmetryNetSettings):
        check_slices(shape_zyx, settings)
        return
    if isinstance(settings, AlignmentNetSettings):
        least = 2 ** len(settings.widths)
        suitable = tuple(max(size, least) for size in shape_zyx)
        need = f"at least {least} voxels along each axis"
    else:
        poolings = len(settings.widths) - 1
        step, step_z = 2**poolings, 2 ** (poolings - settings.in_plane_levels)
        suitable = tuple(
            max(1, (2 * size + step) // (2 * step)) * step
            for size, step in zip(shape_zyx, (step_z, step, step), strict=True)
        )
        need = f"sizes that are multiples of {step}"
        if settings.in_plane_levels:
            need += f" along y and x, and of {step_z} along z"
    if suitable != tuple(shape_zyx):
        raise UserError(
            f"a volume of {_sizes(shape_zyx)} voxels (z y x) does not fit a network of "
            f"{len(settings.widths)} levels, which needs {need}; the nearest that fits "
            f"is {_sizes(suitable)}: set --prepare.shape or fewer widths."
        )


def deepest_rows(shape_zyx: tuple[int, int, int], settings: UNetSettings) -> int:
    """Rows (y) of a U-Net's smallest maps."""
    return shape_zyx[1] // 2 ** (len(settings.widths) - 1)


def _sizes(shape_zyx: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape_zyx))
