"""Devices side by side: a batch is split over them, parameters are on each."""

import os
from functools import partial
from typing import TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from adn_jax.errors import UserError
from adn_jax.runtime.workers import sharing_processors

Tree = TypeVar("Tree")


def spread_over_cores(*batches: int) -> None:
    """Make a CPU as many devices as cores can share every one of these batches.

    XLA keeps part of a program for a CPU on one core; a device a core, each with its
    share of the cases, uses all. Another number that the user chose (by JAX's setting
    or XLA's flag) stays, and accelerators are as they are. Call it before jax is used.
    """
    chosen = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not chosen and jax.config.jax_num_cpu_devices < 0:
        jax.config.update("jax_num_cpu_devices", sharing_processors(*batches))


def data_mesh(devices: int | None = None) -> Mesh:
    """A mesh of the first `devices` devices (all of them) along the batch."""
    count = jax.device_count() if devices is None else devices
    return jax.make_mesh(
        (count,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:count]
    )


def check_batch(batch: int, mesh: Mesh, where: str, micro_batches: int = 1) -> None:
    """Raise `UserError` where a batch does not divide over parts and devices."""
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


def replicate(tree: Tree, mesh: Mesh) -> Tree:
    """A copy of every array on every device."""
    make = partial(jax.make_array_from_process_local_data, replicated(mesh))
    return jax.tree.map(lambda leaf: make(np.asarray(leaf)), tree)


def place_cases(array: np.ndarray, mesh: Mesh) -> jax.Array:
    """Split an array over the devices along its first axis, the cases.

    On several hosts each gives its own share of the cases.
    """
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    return jax.make_array_from_process_local_data(sharding, array)
