import os
import sys
from types import ModuleType, SimpleNamespace

import pytest

from adn_jax.benchmarks import machine as timing
from adn_jax.benchmarks.job import Device, Job, ObservedMemory, StepFigures
from adn_jax.benchmarks.suite import run_job
from adn_jax.benchmarks.worker import peer_function
from adn_jax.errors import UserError
from benchmarks import torch_reference
from tests.training.tiny import small_recipe

MEMORY = ObservedMemory(before=1, peak=2, peak_building=1)


def job(**changes):
    values = {"what": "inference", "form": "eager", "batch": 1, "repeats": 2}
    return Job("steps", small_recipe(), **(values | changes))


def fake_torch(sees_gpu):
    torch = ModuleType("torch")
    torch.__version__ = "9.9"
    torch.cuda = SimpleNamespace(is_available=lambda: sees_gpu)
    return torch


def test_missing_torch_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match="PyTorch is not installed"):
        torch_reference.measure(job())


def test_both_sides_run_on_the_same_device():
    assert (
        torch_reference.torch_device_name(fake_torch(True), job(platform="cpu"))
        == "cpu"
    )
    assert (
        torch_reference.torch_device_name(fake_torch(True), job(platform="gpu"))
        == "cuda"
    )
    with pytest.raises(UserError, match=r"torch 9\.9 does not see one; install its"):
        torch_reference.torch_device_name(fake_torch(False), job(platform="gpu"))
    with pytest.raises(UserError, match="jax runs on tpu, where PyTorch has no peer"):
        torch_reference.torch_device_name(fake_torch(True), job(platform="tpu"))


def test_one_device_against_one():
    with pytest.raises(UserError, match="the peer uses one device and --devices is 2"):
        torch_reference.torch_device_name(
            fake_torch(True), job(devices=2, platform="gpu")
        )
    cores = job(devices=2, platform="cpu")
    assert torch_reference.torch_device_name(fake_torch(True), cores) == "cpu"


@pytest.mark.parametrize("what", ["align", "joint", "inference"])
def test_figures_of_the_reference(monkeypatch, tmp_path, what):
    pytest.importorskip("torch")
    monkeypatch.setattr(timing, "LEAST_SECONDS", 0.0)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "usual")
    figures = torch_reference.measure(job(what=what, batch=2, cache=str(tmp_path)))
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path)
    assert len(figures.step_s) == 2
    assert min(figures.first_s, *figures.step_s) > 0
    assert figures.compile_s is None
    assert figures.memory.peak >= figures.memory.before > 10**7


def a_peer(job):
    """A peer of one's own, as `--peer tests.benchmarks.test_peer:a_peer` names it."""
    device = Device("cpu", "made up", 1, 1, ("mine 1.0",))
    return StepFigures(device, 0.5, (job.batch / 10,) * job.repeats, MEMORY)


def test_a_peer_of_ones_own_is_measured_in_a_process_of_its_own():
    result = run_job(job(batch=3, peer="tests.benchmarks.test_peer:a_peer"))
    assert result.failure == ""
    assert result.figures.step_s == (0.3, 0.3)
    assert result.figures.device.versions == ("mine 1.0",)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tensorflow", "torch, none, or module:function of a peer of your own"),
        ("no_such_module:measure", r"module 'no_such_module' of the peer .* imported"),
        ("tests.benchmarks.test_peer:none", "has no function 'none'; correct the name"),
    ],
)
def test_a_peer_that_is_not_there_is_told_before_anything_is_measured(name, message):
    with pytest.raises(UserError, match=message):
        peer_function(name)
