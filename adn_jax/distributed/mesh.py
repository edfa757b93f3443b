"""Devices side by side: a batch is split over them, parameters are on each.

A mesh has two axes: along `data` devices have cases of their own, along `spatial` they
have the same cases and share the rows (y) of the maps in the U-Nets.
"""

import math
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import (
    AbstractMesh,
    AxisType,
    Mesh,
    NamedSharding,
    PartitionSpec,
    Sharding,
)
from jaxtyping import Array, Float, Shaped

from adn_jax.errors import UserError
from adn_jax.types import Index, Tree, Volume

AnyVolume = Shaped[Array, "b z y x *c"]

OutputVolume = Float[Array, "b z2 y2 x2 o"]

AXES = ("data", "spatial")

CASE_SPEC = PartitionSpec("data")
"""How a batch lies: each device has some cases whole."""

ROW_SPEC = PartitionSpec("data", None, "spatial")
"""How a volume lies whose rows are shared."""


def spread_over_cores(devices: int) -> None:
    """Make a CPU so many devices, one a core of those that can share the work.

    XLA keeps part of a program for a CPU on one core; a device a core, each with its
    share of the cases or rows, uses all. Another number that the user chose (by JAX's
    setting or XLA's flag) stays, and so does that of a jax that is in use already;
    accelerators are as they are.
    """
    chosen = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    # jax makes its settings attributes when it is imported
    given = jax.config.jax_num_cpu_devices  # ty: ignore[missing-attribute]
    if not chosen and given < 0:
        with suppress(RuntimeError):  # jax is in use
            jax.config.update("jax_num_cpu_devices", devices)


def device_mesh(devices: int | None = None, spatial_shards: int = 1) -> Mesh:
    """A mesh of the first `devices` devices (all of them).

    Raises `UserError` if `spatial_shards` of them, which share each case, do not
    divide the devices of every process: what they exchange has to stay within one.
    """
    count = jax.device_count() if devices is None else devices
    local = count // jax.process_count()
    if spatial_shards < 1 or local % spatial_shards:
        raise UserError(
            f"--spatial-shards is {spatial_shards}, which does not divide the {local} "
            f"devices of a process; set it to {divisors(local)}."
        )
    grid = np.array(by_process(jax.devices())[:count])
    return Mesh(
        grid.reshape(count // spatial_shards, spatial_shards),
        AXES,
        axis_types=(AxisType.Auto, AxisType.Auto),
    )


def by_process(devices: Sequence[Any]) -> list[Any]:
    """Devices process by process, as `hosts.own_share` deals out cases.

    `jax.make_mesh` follows the wires of a TPU slice instead, where the devices of
    several processes take turns.
    """
    return sorted(devices, key=lambda device: (device.process_index, device.id))


def platform_in_use() -> str:
    """Platform (cpu, gpu, tpu) of the mesh in use, else of this process's devices."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def check_rows(rows: int, mesh: Mesh | AbstractMesh) -> None:
    """Raise `UserError` if the rows of a net's deepest maps cannot be shared."""
    shards = mesh.shape["spatial"]
    if rows % shards:
        fitting = divisors(math.gcd(rows, shards))
        raise UserError(
            f"--spatial-shards is {shards}, but the deepest maps of the networks have "
            f"{rows} rows (y), which {shards} devices cannot share; set it to "
            f"{fitting}, or choose another --prepare.shape."
        )


def divisors(number: int) -> str:
    """What divides a number, in words."""
    return " or ".join(str(s) for s in range(1, number + 1) if number % s == 0)


def _is_shared(volume: AnyVolume) -> bool:
    """Whether the devices of the mesh now in use (`jax.set_mesh`) share a volume.

    They do in one of our meshes that has many devices, over which cases and rows
    divide; a lone case, from which the form of parameters is drawn, does not.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.axis_names != AXES or mesh.size == 1:
        return False
    cases, _, rows, *_ = volume.shape
    return cases % mesh.shape["data"] == 0 and rows % mesh.shape["spatial"] == 0


def shares_rows(volume: AnyVolume) -> bool:
    """Whether several devices of the mesh now in use have rows of each case."""
    return _is_shared(volume) and jax.sharding.get_abstract_mesh().shape["spatial"] > 1


def shard_rows(volume: Volume) -> Volume:
    """The same volume, its rows (y) shared by the devices along `spatial` from here."""
    return _arrange(volume, ROW_SPEC)


def replicate_rows(volume: AnyVolume) -> AnyVolume:
    """The same volume, which stays whole on each device that shares its rows later.

    Without this constraint XLA may shard the rows here and all-gather them later.
    """
    return _arrange(volume, CASE_SPEC)


def _arrange(volume: AnyVolume, how: PartitionSpec) -> AnyVolume:
    """The same volume, laid out so if devices share it."""
    if not _is_shared(volume):
        return volume
    return jax.lax.with_sharding_constraint(volume, how)


def halo_exchange(
    function: Callable[..., OutputVolume], halo: int
) -> Callable[..., OutputVolume]:
    """The function (volume, weights) -> volume, by each device on its own rows.

    `function(rows, weights, *others, halo)` gets a device's rows between `halo` rows of
    each of its neighbours (zeros outside) and gives what comes of its own; `halo` is 0,
    and `rows` are all, where nothing is shared. Of the others, volumes or None, it gets
    its own rows. It is for what XLA's partitioner does at a cost: maps that are for a
    while a row larger, which it gathers, and weights that grow before they are used,
    whose gradient it sums in that form.
    """

    def apply(own: Volume, weights: jax.Array, *others: Volume | None) -> OutputVolume:
        sharing = jax.sharding.get_abstract_mesh().shape["spatial"]
        if sharing == 1:
            return function(own, weights, *others, halo=0)
        # a device's rows between the rows next to them, zeros at the ends
        down = [(device, device + 1) for device in range(sharing - 1)]
        up = [(device + 1, device) for device in range(sharing - 1)]
        above = jax.lax.ppermute(own[:, :, -halo:], "spatial", down)
        below = jax.lax.ppermute(own[:, :, :halo], "spatial", up)
        rows = jnp.concatenate([above, own, below], axis=2)
        return function(rows, weights, *others, halo=halo)

    def by_each(
        volume: Volume, weights: jax.Array, *others: Volume | None
    ) -> OutputVolume:
        if not _is_shared(volume):
            return function(volume, weights, *others, halo=0)
        shared = jax.shard_map(
            apply,
            in_specs=(ROW_SPEC, PartitionSpec(), *([ROW_SPEC] * len(others))),
            out_specs=ROW_SPEC,
            check_vma=False,
        )
        return shared(volume, weights, *others)

    return by_each


def ring_reduce(
    function: Callable[[Volume, Array, Index, Index, int], OutputVolume], wanted: int
) -> Callable[[Volume, Array], OutputVolume]:
    """(volume, one array a case) -> `wanted` rows, which may depend on any others.

    `function(block, array, source, target, count)` is what a block of rows, from
    `source` on, gives to `count` rows of the result, from `target` on; the
    contributions are added. Where devices share rows the blocks go round, so that no
    device holds a whole map.
    """

    def apply(own: Volume, array: Array) -> OutputVolume:
        sharing = jax.sharding.get_abstract_mesh().shape["spatial"]
        here, rows = jax.lax.axis_index("spatial"), own.shape[2]
        count = wanted // sharing
        ring = [(device, (device + 1) % sharing) for device in range(sharing)]
        block = own
        total = function(block, array, here * rows, here * count, count)
        for turn in range(1, sharing):
            block = jax.lax.ppermute(block, "spatial", ring)
            source = (here - turn) % sharing
            total += function(block, array, source * rows, here * count, count)
        return total

    def by_each(volume: Volume, array: Array) -> OutputVolume:
        sharing = jax.sharding.get_abstract_mesh().shape.get("spatial", 1)
        if sharing == 1 or wanted % sharing or not _is_shared(volume):
            return function(volume, array, 0, 0, wanted)
        spread = jax.shard_map(
            apply, in_specs=(ROW_SPEC, CASE_SPEC), out_specs=ROW_SPEC, check_vma=False
        )
        return spread(volume, array)

    return by_each


def check_batch(
    batch: int, mesh: Mesh | AbstractMesh, where: str, micro_batches: int = 1
) -> None:
    """Raise `UserError` if a batch does not divide over parts and devices."""
    devices = mesh.shape["data"]
    count = micro_batches * devices
    lower = batch // count * count
    if batch % count:
        nearest = [size for size in (lower, lower + count) if size > 0]
        parts = f"{micro_batches} micro-batches, each on " if micro_batches > 1 else ""
        raise UserError(
            f"{where} is {batch}, which does not divide over {parts}{devices} "
            f"{'device' if devices == 1 else 'devices'}; "
            f"set it to {' or '.join(map(str, nearest))}."
        )


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def placed_shapes(tree: Any, sharding: Sharding) -> Any:
    """Shapes and types of the leaves, to lie so on the devices."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
    )


def replicate(tree: Tree, mesh: Mesh) -> Tree:
    """A copy of every array on every device."""
    make = partial(jax.make_array_from_process_local_data, replicated(mesh))
    return jax.tree.map(lambda leaf: make(np.asarray(leaf)), tree)


def place_cases(array: np.ndarray, mesh: Mesh) -> jax.Array:
    """Split an array over the devices along its first axis, the cases.

    On several hosts each gives its own share of the cases.
    """
    sharding = NamedSharding(mesh, CASE_SPEC)
    return jax.make_array_from_process_local_data(sharding, array)
