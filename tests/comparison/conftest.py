"""Systems of the paper's table, a data set, and finished runs with made-up scores."""

from pathlib import Path

import pytest

from adn_jax.comparison.work import Method, PlannedRun, plan_runs
from adn_jax.data.manifest import Manifest
from tests.comparison.made_up import (
    CASES,
    LEVELS,
    made_up_rows,
    make_system,
    write_scored,
)
from tests.training.tiny import tiny_recipe


@pytest.fixture
def systems() -> list[Method]:
    """Three systems of the paper's table."""
    return [make_system(name) for name in LEVELS]


@pytest.fixture
def data(tmp_path) -> Path:
    """A data set that is nothing but its manifest."""
    folder = tmp_path / "data"
    settings = tiny_recipe().system.prepare
    splits = {"train": (), "validation": (), "test": CASES}
    Manifest(settings, CASES, splits, folder, files_sha256={"test": "now"}).write()
    return folder


@pytest.fixture
def runs(tmp_path, systems, data) -> list[PlannedRun]:
    """Three systems with two seeds each, trained and scored."""
    planned = plan_runs(systems, (0, 1), tmp_path / "out" / "runs")
    for run in planned:
        write_scored(run, data, made_up_rows(LEVELS[run.system.name], run.seed))
    return planned
