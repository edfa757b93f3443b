import json

import pytest

from adn_jax.benchmarks.job import Job, Spread, StepFigures, spread
from adn_jax.config.serialization import settings_from_json, settings_to_json
from adn_jax.runtime.capacity import CompiledMemory
from tests.benchmarks.records import RECIPE, ours, torch


def there_and_back(kind, value):
    return settings_from_json(kind, json.loads(json.dumps(settings_to_json(value))), "")


def test_jobs_and_figures_travel_as_json():
    job = Job("steps", RECIPE, what="align", form="eager", batch=3, cache="there")
    assert there_and_back(Job, job) == job
    for figures in (ours(0.25, 0.5), torch(0.75)):
        assert there_and_back(StepFigures, figures) == figures


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((3.0,), Spread(3.0, 3.0, 3.0)),
        ((1.0, 2.0), Spread(1.25, 1.5, 1.75)),
        ((5.0, 1.0, 2.0, 100.0, 3.0), Spread(2.0, 3.0, 5.0)),
    ],
)
def test_median_and_quartiles(values, expected):
    assert spread(values) == expected


def test_reused_memory_counts_once():
    assert CompiledMemory(10, 7, 6, 100).total == 111
