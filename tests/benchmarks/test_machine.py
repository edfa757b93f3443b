from types import ModuleType, SimpleNamespace

import jax
import pytest

from adn_jax.benchmarks import machine
from benchmarks import torch_reference


def test_the_machine_names_itself():
    here = machine.this_machine()
    assert here.processor
    assert here.cores >= 1
    assert here.memory_gb > 0.5
    assert machine.load_average() >= 0


@pytest.mark.parametrize(
    ("script", "expected"),
    [("echo 570.1; echo 570.1", "570.1"), ("exit 9", None), ("true", None)],
)
def test_the_driver_is_asked_for(monkeypatch, tmp_path, script, expected):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert machine.nvidia_driver() == expected


def test_no_driver_without_its_program(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.nvidia_driver() is None


def test_where_jax_runs():
    device = machine.jax_device(jax.devices()[0], 2)
    assert (device.platform, device.count) == ("cpu", 2)
    assert f"jax {jax.__version__}" in device.versions


def test_where_torch_runs():
    torch = pytest.importorskip("torch")
    device = torch_reference.torch_device(torch, "cpu")
    assert device.threads == torch.get_num_threads()
    assert device.versions[0] == f"torch {torch.__version__}"


def test_where_torch_runs_on_a_gpu():
    torch = ModuleType("torch")
    torch.__version__ = "9.9"
    torch.cuda = SimpleNamespace(get_device_name=lambda: "H200")
    torch.backends = SimpleNamespace(cudnn=SimpleNamespace(version=lambda: 91500))
    torch.get_num_threads = lambda: 16
    device = torch_reference.torch_device(torch, "cuda")
    assert (device.platform, device.kind) == ("gpu", "H200")
    assert device.versions == ("torch 9.9", "cuDNN 91500")
