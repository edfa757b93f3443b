"""The process's memory on a CPU: kept between steps, given back after compiling."""

import ctypes
import platform
from importlib.metadata import entry_points
from importlib.util import find_spec

ARENA_MAX, MMAP_MAX, TRIM_THRESHOLD = -8, -4, -1
"""Numbers of options in glibc's malloc.h."""


def keep_freed_memory() -> None:
    """Keep up to 2 GiB of freed memory instead of giving it back after every step.

    The system clears each page that it hands out, which took a fifth of a small train
    step. Nothing happens where jax has an accelerator's plugin, or without glibc. Call
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
