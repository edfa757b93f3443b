"""What a process runs on: versions, memory, cuDNN, determinism.

On a CPU memory is kept between steps and given back after compiling. Compiled programs
are kept for the next start. Versions of cuDNN whose bfloat16 3D convolutions are wrong
or slow are refused.
"""

import ctypes
import os
import platform
import re
from importlib import metadata
from importlib.metadata import entry_points, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from adn_jax.config import Precision
from adn_jax.errors import UserError
from adn_jax.io.paths import Place

LEAST = (9, 15)
"""First version without wrong results on large volumes (pytorch#163539, 9.10) and
without the four times slower convolutions (pytorch#166643) of its forerunners."""

CUDNN_OVERRIDE = "ADN_ANY_CUDNN"
"""Variable of the environment that allows every version."""

PACKAGES = ("adn-jax", "jax", "jaxlib", "flax", "numpy", "scipy", "nibabel")

FLAG = "--xla_gpu_deterministic_ops"

COMPILER_OPTIONS: dict[str, dict[str, str | bool]] = {
    # else XLA orders operations by what could run side by side, and a train step
    # holds twice as many maps (docs/findings.md)
    "cpu": {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"},
    # else XLA turns every 3-D convolution channels first, and transposes its maps
    "gpu": {"xla_gpu_force_conv_nhwc": True},
}
"""What XLA is told for each platform, beside the user's own flags."""

MOST_COMPILED = 4 << 30
"""Bytes of compiled programs that the user's cache keeps, those used last."""

ARENA_MAX, MMAP_MAX, TRIM_THRESHOLD = -8, -4, -1
"""Numbers of options in glibc's malloc.h."""


def compiler_options() -> dict[str, str | bool] | None:
    """What XLA is told where this process computes, beside the user's own flags."""
    import jax  # not at the top: see `check_cudnn`

    return COMPILER_OPTIONS.get(jax.default_backend())


def check_cudnn(precision: Precision) -> None:
    """Raise `UserError` if bfloat16 would run on too old a cuDNN."""
    if precision != "bfloat16" or CUDNN_OVERRIDE in os.environ:
        return
    import jax  # not at the top: a peer's process, which uses this file, has no jax

    if jax.default_backend() != "gpu":
        return
    for package, release in installed_cudnn().items():
        if tuple(map(int, release.split(".")[:2])) < LEAST:
            wanted = ".".join(map(str, LEAST))
            raise UserError(
                f"{package} {release} is installed; below {wanted} its 3D convolutions "
                "in bfloat16 are wrong on large volumes, or slow: pip install "
                f"'{package}>={wanted}', or set --precision float32, or "
                f"{CUDNN_OVERRIDE}=1 in the environment to go on as it is."
            )


def installed_cudnn() -> dict[str, str]:
    """The cuDNN package that jax's CUDA plugin loads, with its version, if any."""
    found = {}
    for cuda in ("cu12", "cu13"):
        try:
            metadata.version(f"jax-cuda{cuda[2:]}-plugin")
            package = f"nvidia-cudnn-{cuda}"
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def processor_name() -> str:
    """The processor as it calls itself."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.split(":", 1)[1] for line in lines if line.startswith("model name")]
    return names[0].strip() if names else platform.processor() or platform.machine()


def keep_compiled(run: Place | None = None) -> None:
    """Keep what is compiled for later processes that compile the same.

    It is kept in the user's cache, `MOST_COMPILED` bytes of it and apart for each kind
    of processor, for its programs may not run on another; with `run`, in that folder,
    which all processes of a training see. A place that jax was given
    (JAX_COMPILATION_CACHE_DIR) stays, and JAX_ENABLE_COMPILATION_CACHE=0 keeps nothing.
    Call it before anything is compiled.
    """
    import jax  # not at the top: see `check_cudnn`

    config: Any = jax.config  # its attributes are made when jax is imported
    if config.jax_compilation_cache_dir is not None:
        return
    if run is None:
        kind = re.sub(r"\W+", "-", processor_name()).strip("-")
        try:
            home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
            place = Path(home) / "adn-jax" / "compiled" / kind
            place.mkdir(parents=True, exist_ok=True)
        except (OSError, RuntimeError):  # no home, or a read-only one
            return
        config.update("jax_compilation_cache_max_size", MOST_COMPILED)
    else:
        place = run / "compiled"
    config.update("jax_compilation_cache_dir", str(place))


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that make the numbers."""
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
    }


def enable_determinism() -> None:
    """Let XLA take only operations on GPUs that give the same bits at every run.

    CPUs and TPUs do so anyway. What the user set by XLA's flag stays. It compiles
    without trying which kernels are the fastest, for those could differ from run to
    run, and ends with an error if an operation has no such form. Call it before jax
    is used. Source: XLA's flag of this name.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if FLAG not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {FLAG}=true".strip()


def keep_freed_memory() -> None:
    """Keep up to 2 GiB of freed memory instead of giving it back after every step.

    The system clears each page that it hands out, which took a fifth of a small train
    step. Nothing happens if jax has an accelerator's plugin, or without glibc. Call
    it before jax is first used: threads that exist by then keep their own ways.
    """
    accelerated = entry_points(group="jax_plugins") or find_spec("libtpu")
    if accelerated or platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    for option, value in ((ARENA_MAX, 1), (MMAP_MAX, 0), (TRIM_THRESHOLD, 2**31 - 1)):
        libc.mallopt(option, value)


def return_freed_memory() -> None:
    """Give freed memory back to the system, as after compiling (glibc only)."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
