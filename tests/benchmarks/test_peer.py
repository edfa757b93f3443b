import os
import sys
from types import ModuleType, SimpleNamespace

import pytest

from adn_jax.benchmarks import peer, timing
from adn_jax.benchmarks.job import Job
from adn_jax.errors import UserError
from tests.benchmarks.recipes import small_recipe


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
        peer.measure_peer(job())


def test_both_sides_run_on_the_same_device():
    assert peer.torch_device_name(fake_torch(True), job(platform="cpu")) == "cpu"
    assert peer.torch_device_name(fake_torch(True), job(platform="gpu")) == "cuda"
    with pytest.raises(UserError, match=r"torch 9\.9 does not see one; install its"):
        peer.torch_device_name(fake_torch(False), job(platform="gpu"))
    with pytest.raises(UserError, match="jax runs on tpu, where PyTorch has no peer"):
        peer.torch_device_name(fake_torch(True), job(platform="tpu"))


def test_one_device_against_one():
    with pytest.raises(UserError, match="the peer uses one device and --devices is 2"):
        peer.torch_device_name(fake_torch(True), job(devices=2, platform="gpu"))
    cores = job(devices=2, platform="cpu")
    assert peer.torch_device_name(fake_torch(True), cores) == "cpu"


@pytest.mark.parametrize("what", ["align", "joint", "inference"])
def test_figures_of_the_twin(monkeypatch, tmp_path, what):
    pytest.importorskip("torch")
    monkeypatch.setattr(timing, "LEAST_SECONDS", 0.0)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "usual")
    figures = peer.measure_peer(job(what=what, batch=2, cache=str(tmp_path)))
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path)
    assert len(figures.step_s) == 2
    assert min(figures.first_s, *figures.step_s) > 0
    assert figures.compile_s is None
    assert figures.memory.peak >= figures.memory.before > 10**7
