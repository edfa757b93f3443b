"""What a benchmark ran on, memory in use, and times of repeated calls.

It imports neither jax nor PyTorch, so that either's process holds the other's not.
"""

import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

from adn_jax.benchmarks.job import Device, ObservedMemory
from adn_jax.runtime.jobs import usable_processors
from adn_jax.runtime.platform import processor_name

CUDNN = "nvidia-cudnn"
"""Begin of the name of the wheels that carry cuDNN for jax."""

PROCESS = Path("/proc/self")

RESET_PEAK = "5"
"""What Linux takes in `clear_refs` to let the peak begin again at what is in use."""

LEAST_SECONDS = 1.0
"""Short calls are repeated for at least so long."""

MOST_CALLS = 200


@dataclass(frozen=True)
class Machine:
    """The hardware and the system."""

    processor: str
    cores: int
    """Those that a process may use."""
    memory_gb: float
    driver: str | None
    """Version of NVIDIA's driver; None if there is none."""
    system: str
    python: str


def this_machine() -> Machine:
    """Where this process runs."""
    return Machine(
        processor=processor_name(),
        cores=usable_processors(),
        memory_gb=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9,
        driver=nvidia_driver(),
        system=platform.platform(),
        python=platform.python_version(),
    )


def nvidia_driver() -> str | None:
    """Version of NVIDIA's driver; None if there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, check=False)
    lines = answer.stdout.splitlines()
    return lines[0] if answer.returncode == 0 and lines else None


def load_average() -> float:
    """Processes that wanted a core, mean of the last minute."""
    return os.getloadavg()[0]


def jax_device(first: Any, count: int) -> Device:
    """Where jax runs: on `count` devices like its first."""
    names = {found.metadata["Name"] or "" for found in distributions()}
    cudnn = sorted(name for name in names if name.startswith(CUDNN))
    return Device(
        platform=first.platform,
        kind=processor_name() if first.platform == "cpu" else first.device_kind,
        count=count,
        threads=usable_processors(),
        versions=tuple(f"{name} {version(name)}" for name in ("jax", "jaxlib", *cudnn)),
    )


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


def time_call(call: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def time_calls(call: Callable[[], object], repeats: int) -> tuple[float, ...]:
    """Seconds of each of `repeats` calls, or more where they are short."""
    times: list[float] = []
    while len(times) < repeats or (
        sum(times) < LEAST_SECONDS and len(times) < MOST_CALLS
    ):
        times.append(time_call(call))
    return tuple(times)


def time_pipelined(
    dispatch: Callable[[], object], wait: Callable[[object], object], count: int
) -> float:
    """Seconds a call where `count` calls are handed over and only the last is awaited.

    `dispatch` may return before its work is done.
    """

    def calls() -> None:
        for _ in range(count - 1):
            dispatch()
        wait(dispatch())

    return time_call(calls) / count
