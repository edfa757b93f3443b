"""What the machine can do at best: a large matrix product and a large copy."""

import statistics
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float

from adn_jax.benchmarks.job import Job, PeakFigures
from adn_jax.benchmarks.machine import jax_device
from adn_jax.benchmarks.programs import make_mesh
from adn_jax.benchmarks.timing import time_calls
from adn_jax.config import Precision
from adn_jax.distributed.mesh import CASES
from adn_jax.models.precision import map_type, multiplying

MATRIX_SIZE = {"cpu": 2048, "gpu": 16384, "tpu": 16384}
"""Rows and columns of the matrices on one device."""

COPY_BYTES = {"cpu": 2**28, "gpu": 2**32, "tpu": 2**32}
"""Size of the array on one device: far more than any cache holds."""


def measure_peaks(job: Job) -> PeakFigures:
    """Both peaks over the devices of a job, in the recipe's type, by median calls.

    One device of a CPU has all its cores.
    """
    devices = 1 if jax.default_backend() == "cpu" else job.devices
    mesh = make_mesh(devices)
    first = mesh.devices.flat[0]
    return PeakFigures(
        device=jax_device(first, devices),
        flops=matrix_flops(
            MATRIX_SIZE[first.platform], job.recipe.system.precision, mesh
        ),
        bytes_a_second=copy_rate(COPY_BYTES[first.platform], mesh),
    )


def matrix_flops(size: int, precision: Precision, mesh: Mesh) -> float:
    """Operations a second of square products of `size`, one on each device.

    They are as exact as the networks' at this precision.
    """
    devices = mesh.shape["data"]

    def draw(key: Array) -> Float[Array, "d n n"]:
        return jax.random.normal(key, (devices, size, size), map_type(precision))

    sharding = NamedSharding(mesh, CASES)
    left, right = (
        jax.jit(draw, out_shardings=sharding)(jax.random.key(seed)) for seed in (0, 1)
    )
    with multiplying(precision):
        product = jax.jit(jnp.matmul).lower(left, right).compile()
    seconds = median_seconds(lambda: jax.block_until_ready(product(left, right)))
    return devices * 2 * size**3 / seconds


def copy_rate(size: int, mesh: Mesh) -> float:
    """Bytes read and written a second where an array of `size` bytes is changed.

    It is changed in its place (donated), on each device its own.
    """
    shape = (mesh.shape["data"], size // 4)
    sharding = NamedSharding(mesh, CASES)
    array = [jax.jit(partial(jnp.zeros, shape), out_shardings=sharding)()]
    change = jax.jit(lambda values: values + 1, donate_argnums=0)

    def call() -> None:
        array[0] = jax.block_until_ready(change(array[0]))

    return 2 * 4 * shape[0] * shape[1] / median_seconds(call)


def median_seconds(call: Callable[[], object]) -> float:
    """Median time of a call that has been made once before."""
    call()
    return statistics.median(time_calls(call, repeats=5))
