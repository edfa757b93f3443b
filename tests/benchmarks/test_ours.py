import pytest

from adn_jax.benchmarks import timing
from adn_jax.benchmarks.job import Job
from adn_jax.benchmarks.ours import measure_ours
from tests.training.tiny import tiny_recipe

pytestmark = pytest.mark.usefixtures("unchecked_annotations")


def test_figures_of_a_program(monkeypatch):
    monkeypatch.setattr(timing, "LEAST_SECONDS", 0.0)
    job = Job("steps", tiny_recipe(), what="inference", batch=2, repeats=3)
    figures = measure_ours(job)
    assert len(figures.step_s) == 3
    assert 0 < min(figures.step_s) <= max(figures.step_s) < 60
    assert figures.first_s > 0
    assert figures.lower_s > 0
    assert figures.compile_s > 0
    assert figures.pipelined_s is None
    assert figures.device.platform == "cpu"
    assert figures.compiled.outputs == pytest.approx(2 * 16**3 * 4, abs=64)
    assert figures.memory.peak >= figures.memory.before > 10**7
