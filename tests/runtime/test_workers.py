import os

import pytest

from adn_jax.errors import UserError
from adn_jax.runtime.jobs import sharing_processors, usable_processors, worker_count


@pytest.mark.parametrize(
    ("wanted", "jobs", "count"), [(3, 10, 3), (3, 2, 2), (1, 5, 1), (2, 0, 1)]
)
def test_no_more_processes_than_jobs(wanted, jobs, count):
    assert worker_count(wanted, jobs) == count


def test_one_a_processor_by_default(monkeypatch):
    assert worker_count(None, 10_000) == usable_processors()
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert worker_count(None, 10) == 7


@pytest.mark.parametrize(
    ("batches", "count"), [((6, 4), 2), ((6,), 3), ((12, 8), 4), ((5, 7), 1), ((0,), 1)]
)
def test_processors_share_every_batch(monkeypatch, batches, count):
    monkeypatch.setattr("adn_jax.runtime.jobs.usable_processors", lambda: 5)
    assert sharing_processors(*batches) == count


@pytest.mark.parametrize("wanted", [0, -2])
def test_fewer_than_one_is_refused(wanted):
    with pytest.raises(UserError, match=f"--workers is {wanted}; at least 1"):
        worker_count(wanted, 4)
