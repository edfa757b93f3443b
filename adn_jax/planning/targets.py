"""Accelerators that a step can be compiled for, none of them at hand."""

import importlib.util
import math
import os
import re
from dataclasses import dataclass
from typing import Any, Literal

from jax.sharding import AbstractMesh

from adn_jax.distributed.mesh import AXES, divisors
from adn_jax.errors import UserError
from adn_jax.runtime.jobs import GIB

EXAMPLES = "v5e:4x4, v5p:2x2x1, v4:2x2x2, v6e:2x4, h100 or h200:8"


@dataclass(frozen=True)
class Chip:
    """One accelerator, by its maker's data sheet."""

    name: str
    platform: Literal["tpu", "gpu"]
    memory: int
    """Bytes that programs may use, at most."""
    flops: float
    """Multiplications and additions a second in bfloat16, dense."""
    bytes_a_second: float
    """Of its own memory."""
    clock_hz: float | None = None
    """What turns the compiler's cycles into seconds; None: not published."""
    one_device: bool = True
    """Whether the compiler takes a chip for one device unless it is told to."""


CHIPS = {
    "v4": Chip("TPU v4", "tpu", 32 * GIB, 275e12, 1228e9, 1.05e9, one_device=False),
    "v5e": Chip("TPU v5e", "tpu", 16 * GIB, 197e12, 819e9, 1.5e9),
    "v5p": Chip("TPU v5p", "tpu", 95 * GIB, 459e12, 2765e9, 1.75e9),
    "v6e": Chip("TPU v6e", "tpu", 32 * GIB, 918e12, 1640e9),
    "h100": Chip("NVIDIA H100 SXM", "gpu", 80 * 10**9, 989e12, 3350e9),
    "h200": Chip("NVIDIA H200", "gpu", 141 * 10**9, 989e12, 4800e9),
}
"""Figures of Google's and NVIDIA's data sheets."""

HOPPER = """gpu_device_info {{
  threads_per_block_limit: 1024  threads_per_warp: 32
  threads_per_core_limit: 2048  core_count: 132  fpus_per_core: 128
  registers_per_core_limit: 65536  registers_per_block_limit: 65536
  shared_memory_per_block: 49152  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472  l2_cache_size: {l2_cache}
  block_dim_limit_x: 2147483647  block_dim_limit_y: 65535  block_dim_limit_z: 65535
  clock_rate_ghz: 1.98  memory_bandwidth: {bandwidth}  device_memory_size: {memory}
  cuda_compute_capability {{ major: 9 }}
}}
platform_name: "CUDA"
device_description_str: "{name}"
dnn_version_info {{ major: 9 minor: 15 }}
runtime_version {{ major: 13 }}
"""
"""What XLA asks of a Hopper card that it does not see; the two differ in memory."""

EXTRAS = {"tpu": ("libtpu", "plan-tpu"), "gpu": ("jax_cuda13_plugin", "plan-cuda")}
"""The module that compiles for a platform, and the extra that installs it."""


@dataclass(frozen=True)
class Accelerators:
    """A slice of TPUs, or cards of one host."""

    name: str
    """As it was given."""
    chip: Chip
    topology: str
    """Chips along each axis, as 4x4."""

    @property
    def devices(self) -> int:
        """Chips in all."""
        return math.prod(map(int, self.topology.split("x")))

    @property
    def room(self) -> int:
        """Bytes that programs may take on a device.

        A TPU's compiler judges by itself; of a card jax takes three quarters unless
        XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise.
        """
        is_card = self.chip.platform == "gpu"
        return self.chip.memory * 3 // 4 if is_card else self.chip.memory


def parse_target(text: str) -> Accelerators:
    """A target such as `v5e:4x4` or `h200:8`; `UserError` if there is no such."""
    kind, _, topology = text.lower().partition(":")
    chip = CHIPS.get(kind)
    if chip is None:
        raise UserError(
            f"--target {text!r} is unknown; it begins with {', '.join(CHIPS)}, as in "
            f"{EXAMPLES}."
        )
    if chip.platform == "gpu":
        topology = topology or "1"
        fits = topology.isdecimal() and 1 <= int(topology) <= 8
        wanted = "a number of cards of one host, 1 to 8"
    else:
        axes = 3 if kind in {"v4", "v5p"} else 2
        fits = re.fullmatch("x".join(["[1-9][0-9]*"] * axes), topology) is not None
        wanted = f"the slice's chips along {axes} axes"
    if not fits:
        raise UserError(
            f"--target {text!r} wants {wanted} behind the colon, as in {EXAMPLES}."
        )
    return Accelerators(text, chip, topology)


def check_compiler(target: Accelerators) -> None:
    """Raise `UserError` if the compiler for a target is not installed."""
    module, extra = EXTRAS[target.chip.platform]
    if importlib.util.find_spec(module) is None:
        raise UserError(
            f"to compile for {target.name}, {module} is needed and not installed; "
            f"pip install 'adn-jax[{extra}]' (no accelerator and no driver is needed)."
        )


def compiler_environment(target: Accelerators) -> dict[str, str]:
    """The environment of a process that compiles for a target.

    Such a process computes on the CPU. libtpu asks no metadata server whether there is
    a TPU, and shares the machine with other processes that have loaded it; XLA for a
    GPU times no kernels.
    """
    given = dict(os.environ) | {"JAX_PLATFORMS": "cpu"}
    if target.chip.platform == "tpu":
        quiet = {"TPU_STDERR_LOG_LEVEL": "3", "TPU_MIN_LOG_LEVEL": "3"}
        alone = {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
        return given | quiet | alone
    flags = f"{given.get('XLA_FLAGS', '')} --xla_gpu_autotune_level=0".strip()
    return given | {"CUDA_VISIBLE_DEVICES": "-1", "XLA_FLAGS": flags}


def mesh_shape(target: Accelerators, spatial_shards: int) -> AbstractMesh:
    """How a training lies on all of a target's devices: sizes and names of the axes.

    Raises `UserError` if so many devices cannot share the rows of a case.
    """
    devices = target.devices
    if spatial_shards < 1 or devices % spatial_shards:
        raise UserError(
            f"--spatial-shards is {spatial_shards}, which does not divide the "
            f"{devices} devices of {target.name}; set it to {divisors(devices)}."
        )
    return AbstractMesh((devices // spatial_shards, spatial_shards), AXES)


def target_devices(target: Accelerators) -> list[Any]:
    """jax's descriptions of a target's devices, in a process with its environment.

    Raises `UserError` if the compiler knows no such slice.
    """
    from jax.experimental import topologies

    if target.chip.platform == "gpu":
        return _described_cards(target)
    options = {} if target.chip.one_device else {"chip_config_name": "megacore"}
    try:
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=target.name.lower(), **options
        )
    except Exception as error:
        raise UserError(
            f"--target {target.name} is no slice that the TPU compiler knows "
            f"({type(error).__name__}); take one that can be rented, as in {EXAMPLES}."
        ) from error
    return list(found.devices)


def _described_cards(target: Accelerators) -> list[Any]:
    """Cards by their description alone.

    jax looks for a card to find out whether "gpu" is CUDA or ROCm; without one it has
    to be told.
    """
    from jax._src import xla_bridge
    from jax.experimental import topologies

    usual = xla_bridge.canonicalize_platform

    def canonicalize_platform(platform: str) -> str:
        return "cuda" if platform in {"gpu", "cuda"} else usual(platform)

    setattr(xla_bridge, usual.__name__, canonicalize_platform)
    chip = target.chip
    described = HOPPER.format(
        name=chip.name,
        memory=chip.memory,
        bandwidth=int(chip.bytes_a_second),
        l2_cache=50 * 1024**2,
    )
    found = topologies.get_topology_desc(
        platform="cuda", target_config=described, topology=f"1x1x{target.topology}"
    )
    return list(found.devices)
