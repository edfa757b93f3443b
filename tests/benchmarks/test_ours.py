import pytest

from adn_jax.benchmarks import machine as timing
from adn_jax.benchmarks.job import Job
from adn_jax.benchmarks.ours import measure_budget, measure_ours
from adn_jax.models.cost import step_flops
from tests.benchmarks.undisturbed import undisturbed
from tests.training.tiny import small_recipe

pytestmark = pytest.mark.usefixtures("unchecked_annotations")


def test_figures_of_a_program(monkeypatch):
    monkeypatch.setattr(timing, "LEAST_SECONDS", 0.0)
    job = Job("steps", small_recipe(), what="inference", batch=2, repeats=3)
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


def test_a_profile_has_the_floors_of_the_machine():
    job = Job("budget", small_recipe(), what="inference", peaks=(1e9, 1e8))
    budget = undisturbed(lambda: measure_budget(job), 0.3)
    assert budget.step_s > 0
    assert 0.3 < budget.coverage < 1.1
    compute = sum(row.compute_floor for row in budget.rows)
    most = step_flops(job.recipe, "inference", 1) / 1e9
    assert 0.5 * most < compute <= most
    assert sum(row.memory_floor for row in budget.rows) > 0
