import pytest

from adn_jax.benchmarks import ours as peaks
from adn_jax.benchmarks.job import Job
from tests.training.tiny import tiny_recipe


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("devices", [1, 2])
def test_peaks_of_a_cpu_are_those_of_all_its_cores(monkeypatch, precision, devices):
    monkeypatch.setattr(peaks, "MATRIX_SIZE", {"cpu": 256})
    monkeypatch.setattr(peaks, "COPY_BYTES", {"cpu": 2**22})
    recipe = tiny_recipe(precision=precision)
    found = peaks.measure_peaks(Job("peaks", recipe, devices=devices))
    assert found.device.count == 1
    assert 1e8 < found.flops < 1e14
    assert 1e8 < found.bytes_a_second < 1e13


def test_operations_and_bytes_are_counted(monkeypatch):
    monkeypatch.setattr(peaks, "median_seconds", lambda call: (call(), 0.5)[1])
    mesh = peaks.make_mesh(2)
    assert peaks.matrix_flops(8, "float32", mesh) == 2 * 2 * 8**3 / 0.5
    assert peaks.copy_rate(64, mesh) == 2 * 2 * 64 / 0.5
