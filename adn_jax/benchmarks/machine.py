"""What a benchmark ran on: hardware, versions, load.

It imports neither jax nor PyTorch, so that either's process holds the other's not.
"""

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

from adn_jax.benchmarks.job import Device
from adn_jax.runtime.jobs import usable_processors

CUDNN = "nvidia-cudnn"
"""Begin of the name of the wheels that carry cuDNN for jax."""


@dataclass(frozen=True)
class Machine:
    """The hardware and the system."""

    processor: str
    cores: int
    """Those that a process may use."""
    memory_gb: float
    driver: str | None
    """Version of NVIDIA's driver; None where there is none."""
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


def processor_name() -> str:
    """The processor as it calls itself."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.split(":", 1)[1] for line in lines if line.startswith("model name")]
    return names[0].strip() if names else platform.processor() or platform.machine()


def nvidia_driver() -> str | None:
    """Version of NVIDIA's driver; None where there is none."""
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
