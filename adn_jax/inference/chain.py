"""One scan through the jitted chain of a run: T, D and F, compiled once for a system.

Devices of a CPU, one a core, share the rows of a large one.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from adn_jax.config import SegmentNetSettings, SystemSettings
from adn_jax.distributed.mesh import (
    device_mesh,
    placed_shapes,
    replicated,
    spread_over_cores,
)
from adn_jax.inference.maps import Map
from adn_jax.io.paths import Place
from adn_jax.models import network
from adn_jax.pipeline.adn import AdnOutputs, AdnParams, apply_adn, init_adn
from adn_jax.pipeline.align import (
    Alignment,
    MidlineFit,
    aligns,
    first_pose,
    midline_fit,
)
from adn_jax.runtime.capacity import compile_to_fit
from adn_jax.runtime.jobs import largest_divisor, usable_processors
from adn_jax.runtime.platform import check_cudnn, return_freed_memory
from adn_jax.training.runs import Run
from adn_jax.types import Key, Matrix, Volume

MOST_OUTSIDE = 0.001
"""From this fraction of a head outside the system's box it is seen whole: less is the
rim of a skull-stripped brain."""

SHARED_FROM = 2**19
"""Voxels of X from which on the devices of a CPU share a scan."""

MOST_SHARING = 8
"""With more a device's part of the deepest maps is hardly larger than its borders."""


class Inference(NamedTuple):
    """What one program says of a batch of scans."""

    outputs: AdnOutputs
    first_matrix: Matrix
    """M before the search and the refinement."""
    fit: MidlineFit | None
    """How well the mid-line is known; None if none is sought."""
    outside: Float[Array, " b"]
    """Fraction of each head outside the system's box."""


def infer_scan(
    params: AdnParams, volume: Volume, system: SystemSettings
) -> tuple[Inference, tuple[str, ...]]:
    """Run the chain on one scan, and flag a head that its box does not hold.

    Such a head is run again, seen whole.
    """
    inference = compiled_chain(system)(params, volume)
    outside = float(inference.outside[0])
    if outside <= MOST_OUTSIDE:
        return inference, ()
    flag = (
        f"{outside:.1%} of the aligned brain lies outside the box of "
        f"{' x '.join(map(str, system.aligned_shape))} voxels that the networks see, "
        "so that they saw the whole grid; look at the brain mask and the mid-line"
    )
    return compiled_chain(replace(system, box=None))(params, volume), (flag,)


def run_chain(params: AdnParams, volume: Volume, system: SystemSettings) -> Volume:
    """O of one scan itself."""
    return infer_scan(params, volume, system)[0].outputs.prediction


def as_seen(system: SystemSettings, outputs: AdnOutputs) -> SystemSettings:
    """The system with the box in which a scan was seen, none if it was seen whole."""
    return replace(system, box=system.box if outputs.alignment.box else None)


def infer(params: AdnParams, volume: Volume, system: SystemSettings) -> Inference:
    """The whole chain for a batch, and what is known about its mid-lines."""
    first = Alignment.of(first_pose(params.align, volume, system), system).matrix
    outputs = apply_adn(params, volume, system)
    fit = None
    if aligns(system):
        fit = midline_fit(volume, outputs.alignment.pose, system)
    outside = outputs.alignment.fraction_outside(volume)
    return Inference(outputs, first, fit, outside)


@cache
def compiled_chain(system: SystemSettings) -> Callable[[AdnParams, Volume], Inference]:
    """The chain for one scan, compiled once.

    Raises `MemoryShortageError` if the chain needs more than there is.
    """
    check_cudnn(system.precision)
    chain = partial(infer, system=system)
    return _compile_for_scan(chain, abstract_inputs(system), system)


@cache
def compiled_sampler(
    system: SystemSettings,
) -> Callable[[AdnParams, Volume, Key], Volume]:
    """O of one pass with dropout for one scan, as `compiled_chain`."""

    def sample_prediction(params: AdnParams, volume: Volume, key: Key) -> Volume:
        return apply_adn(params, volume, system, key=key).prediction

    key = jax.eval_shape(lambda: jax.random.key(0))
    return _compile_for_scan(sample_prediction, (*abstract_inputs(system), key), system)


def _compile_for_scan(
    function: Callable[..., Any], inputs: tuple[Any, ...], system: SystemSettings
) -> Callable[..., Any]:
    """Compile a function of one scan, and give the memory back that this took: on a CPU
    half a gigabyte, which would lie beside the program's own.

    Several devices of a CPU share the scan's rows (`sharing_devices`); inputs and
    results are nevertheless those of one device.
    """
    on_cpu = jax.default_backend() == "cpu"
    shards = sharing_devices(system, jax.local_device_count()) if on_cpu else 1
    mesh = device_mesh(shards, shards)
    everywhere = replicated(mesh)
    with jax.set_mesh(mesh):
        jitted = jax.jit(function, out_shardings=everywhere)
        lowered = jitted.lower(*placed_shapes(inputs, everywhere))
    program = compile_to_fit(
        lowered,
        f"a scan on the grid {' x '.join(map(str, system.prepare.shape))}",
        advice=lambda *_: "end other programs, or take a machine with more memory",
        devices=shards,
    )
    return_freed_memory()

    def run(*given: Any) -> Any:
        if shards > 1:  # they read one memory, of which each would have a copy
            given = jax.tree.map(_on_host, given)
        results = program(*jax.device_put(given, everywhere))
        return jax.tree.map(lambda leaf: leaf.addressable_data(0), results)

    return run


def _on_host(leaf: jax.Array) -> np.ndarray | jax.Array:
    """A view of a jax array in the host's memory, which devices of a CPU take without a
    copy; random keys, which have none, stay."""
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return leaf if is_key else np.asarray(leaf)


def sharing_devices(system: SystemSettings, there: int) -> int:
    """How many of a CPU's devices share the rows of a scan: one, unless it is large.

    XLA computes a convolution to few maps on one core of a device. Programs of small
    maps take longer to compile for several than the scans gain.
    """
    nets, shape = [network(net) for net in nets_of(system)], system.aligned_shape
    if math.prod(shape) < SHARED_FROM or any(net.sees_patches for net in nets):
        return 1
    rows = math.gcd(system.prepare.shape[1], *(net.deepest_rows(shape) for net in nets))
    return largest_divisor(rows, min(there, MOST_SHARING))


def nets_of(system: SystemSettings) -> list[SegmentNetSettings]:
    """F and, where it is part of the system, D."""
    return [system.segment_net] + [system.disentangle_net] * system.disentangles


def spread_scans(run: Place) -> None:
    """Let all cores of a CPU share the scans of a run; call it before jax is used."""
    system = Run.open(run).recipe.system
    spread_over_cores(sharing_devices(system, usable_processors()))


def abstract_inputs(system: SystemSettings) -> tuple[AdnParams, jax.ShapeDtypeStruct]:
    """Shapes of the parameters and of one scan."""
    params = jax.eval_shape(partial(init_adn, system=system), jax.random.key(0))
    return params, jax.ShapeDtypeStruct((1, *system.prepare.shape, 1), jnp.float32)


@jax.jit
def on_scan_grid(outputs: AdnOutputs) -> dict[str, Volume]:
    """A, P, Q and what X_hat and X_tilde add to X, taken back to I's grid.

    A alone if the system has no D.
    """
    maps = {"asymmetry": outputs.asymmetry}
    parts = {"pathological": outputs.pathological, "anatomical": outputs.anatomical}
    maps |= {name: part for name, part in parts.items() if part is not None}
    sums = {
        "salient_change": outputs.salient,
        "compensated_change": outputs.compensated,
    }
    maps |= {
        name: whole - outputs.aligned
        for name, whole in sums.items()
        if whole is not None
    }
    stacked = jnp.concatenate(list(maps.values()), axis=-1)
    moved = outputs.alignment.unwarp(stacked)
    return dict(zip(maps, jnp.split(moved, len(maps), axis=-1), strict=True))


warp = jax.jit(Alignment.warp)
"""A map of I's grid on X's (linear)."""


in_whole = jax.jit(Alignment.in_whole)
"""A map of X on the whole grid about it, 0 around the system's box."""


warp_labels = jax.jit(Alignment.warp_labels)
"""A label map of I's grid on X's (nearest voxel)."""


def as_batch(volume: np.ndarray) -> Float[Array, "1 z y x 1"]:
    """One volume as a batch of one with one channel."""
    return jnp.asarray(np.asarray(volume, np.float32)[None, ..., None])


def as_map(volume: Volume) -> Map:
    """The first volume of a batch as NumPy."""
    return np.asarray(volume[0, ..., 0])
