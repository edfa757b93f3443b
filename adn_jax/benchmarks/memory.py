"""Memory in use and its peak: of the process, or of an accelerator."""

import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adn_jax.benchmarks.job import ObservedMemory

PROCESS = Path("/proc/self")


RESET_PEAK = "5"
"""What Linux takes in `clear_refs` to let the peak begin again at what is in use."""


@dataclass
class MemoryMeter:
    """Reads bytes in use and their peak; forgets the peak, where that is possible."""

    read: Callable[[], tuple[int, int]]
    reset: Callable[[], None]
    before: int = 0
    peak_building: int = 0

    def begin(self) -> None:
        """Note what is in use before the first call."""
        self.before, self.peak_building = self.read()
        self.reset()

    def end(self) -> ObservedMemory:
        """What was in use before, and the peak since."""
        _, peak = self.read()
        return ObservedMemory(self.before, peak, self.peak_building)


def jax_meter(device: Any) -> MemoryMeter:
    """The memory of a device of jax, or the process's where that is the CPU.

    A device's peak in jax cannot be reset: it includes building and compiling.
    """
    if device.platform == "cpu":
        return process_meter()

    def read() -> tuple[int, int]:
        numbers = device.memory_stats()
        return numbers["bytes_in_use"], numbers["peak_bytes_in_use"]

    return MemoryMeter(read, reset=lambda: None)


def process_meter() -> MemoryMeter:
    """The process's resident memory."""
    return MemoryMeter(process_memory, reset_process_peak)


def process_memory() -> tuple[int, int]:
    """Resident bytes of this process, now and at most.

    Elsewhere than on Linux the peak stands for both. The peak of `getrusage` is the
    second choice: a process inherits it from its parent.
    """
    status = PROCESS / "status"
    if not status.is_file():
        unit = 1 if sys.platform == "darwin" else 1024
        peak = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak, peak
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    in_use, peak = (1024 * int(lines[name].split()[0]) for name in ("VmRSS", "VmHWM"))
    return in_use, peak


def reset_process_peak() -> None:
    """Let the peak begin again; without the right to, it stays."""
    path = PROCESS / "clear_refs"
    try:
        path.write_text(RESET_PEAK)
    except OSError:
        return
