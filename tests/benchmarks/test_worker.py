import io
import json
import sys
from dataclasses import replace

import pytest

from adn_jax.benchmarks import suite, worker
from adn_jax.benchmarks.job import Job, StepFigures
from adn_jax.config.serialization import settings_to_json
from adn_jax.errors import TRACEBACK, UserError
from tests.training.tiny import small_recipe

JOB = Job("steps", small_recipe(), what="inference", repeats=1)


def answer_of(monkeypatch, capsys, job=JOB):
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(settings_to_json(job))))
    worker.main()
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_a_mistake_is_an_answer(monkeypatch, capsys):
    def refuse(job):
        raise UserError(f"{job.what} is refused.")

    monkeypatch.setattr(worker, "measure", refuse)
    assert answer_of(monkeypatch, capsys) == {"error": "inference is refused."}


def test_memory_that_ran_out_is_an_answer(monkeypatch, capsys):
    def exhaust(_):
        raise MemoryError("no more")

    monkeypatch.setattr(worker, "measure", exhaust)
    said = answer_of(monkeypatch, capsys)["error"]
    assert said.startswith("memory ran out (no more); ")


def test_a_process_of_its_own_fills_and_reads_the_cache(tmp_path):
    job = replace(JOB, cache=str(tmp_path / "cache"))
    entries = []
    for _ in range(2):
        result = suite.run_job(job)
        assert isinstance(result.figures, StepFigures), result.failure
        entries.append(sorted(path.name for path in (tmp_path / "cache").iterdir()))
    assert entries[0] == entries[1] != []


def test_a_process_that_fails_is_one_sentence():
    job = replace(JOB, devices=2, batch=3)
    assert "does not divide over 2 devices" in suite.run_job(job).failure


@pytest.mark.parametrize(
    ("code", "said", "expected"),
    [
        (-9, "", "ended by SIGKILL; the memory may not suffice: lower --batch."),
        (-11, "Fatal", "ended by SIGSEGV."),
        (1, "Traceback\nValueError: bad\n\n", "failed with ValueError: bad"),
        (1, f"{TRACEBACK}\n  f()\nE: 3\n  more\nnote\n", "failed with E: 3"),
        (3, "", "failed with exit code 3"),
    ],
)
def test_a_crash_is_one_sentence(code, said, expected):
    assert (
        suite.crash_sentence(code, said)
        == f"its process {'was ' if code < 0 else ''}{expected}"
    )
