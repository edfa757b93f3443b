import subprocess
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from adn_jax.benchmarks import machine as memory
from adn_jax.benchmarks.job import ObservedMemory
from benchmarks import torch_reference

MEGABYTES = 200
linux = pytest.mark.skipif(not memory.PROCESS.is_dir(), reason="needs Linux")


@linux
def test_the_peak_begins_again():
    meter = memory.process_meter()
    block = np.ones(MEGABYTES * 2**20, np.uint8)
    del block
    meter.begin()
    small = meter.end()
    block = np.ones(MEGABYTES * 2**20, np.uint8)
    large = meter.end()
    size = block.nbytes
    assert meter.peak_building > meter.before + 0.9 * size
    assert small.peak < meter.before + 0.5 * size
    assert large.peak > meter.before + 0.9 * size


@linux
def test_a_child_does_not_inherit_the_peak():
    block = np.ones(MEGABYTES * 2**20, np.uint8)
    call = "from adn_jax.benchmarks import machine; print(machine.process_memory()[1])"
    child = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True)
    assert int(child.stdout) < block.nbytes


def test_without_linux_the_peak_stands_for_both(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "PROCESS", tmp_path)
    in_use, peak = memory.process_memory()
    assert in_use == peak > 2**24
    monkeypatch.setattr(memory, "PROCESS", tmp_path / "absent")
    memory.reset_process_peak()


def test_an_accelerator_tells_its_own_memory():
    numbers = {"bytes_in_use": 3, "peak_bytes_in_use": 5}
    device = SimpleNamespace(platform="gpu", memory_stats=lambda: numbers)
    meter = memory.jax_meter(device)
    meter.begin()
    numbers["peak_bytes_in_use"] = 9
    assert meter.end() == ObservedMemory(before=3, peak=9, peak_building=5)


def test_cuda_forgets_its_peak():
    numbers = {"peak": 5}
    cuda = SimpleNamespace(
        memory_allocated=lambda: 3,
        max_memory_allocated=lambda: numbers["peak"],
        reset_peak_memory_stats=lambda: numbers.update(peak=3),
    )
    torch = ModuleType("torch")
    torch.cuda = cuda
    meter = torch_reference.torch_meter(torch, "cuda")
    meter.begin()
    assert meter.end() == ObservedMemory(before=3, peak=3, peak_building=5)
