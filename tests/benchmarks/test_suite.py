from dataclasses import replace
from pathlib import Path

import pytest

from adn_jax.benchmarks import suite
from adn_jax.benchmarks.job import Job
from adn_jax.benchmarks.record import Plan, Result
from adn_jax.errors import UserError
from tests.benchmarks.records import PEAKS, RECIPE, ours

PLAN = Plan(
    RECIPE, ("joint", "inference"), forms=("eager",), data="synthetic", budget=True
)


def jobs_of(plan):
    return list(suite.planned_jobs(plan, Path("caches")))


def test_both_sides_take_turns():
    found = [
        (job.what, job.task, job.form, number, job.batch, job.cache)
        for number, job in jobs_of(PLAN)
    ]
    assert found == [
        ("joint", "steps", "eager", 1, 2, "caches/joint_eager"),
        ("joint", "steps", "jit", 1, 2, "caches/joint_jit"),
        ("joint", "steps", "eager", 2, 2, "caches/joint_eager"),
        ("joint", "steps", "jit", 2, 2, "caches/joint_jit"),
        ("joint", "input", "jit", 1, 2, "caches/joint_jit"),
        ("joint", "budget", "jit", 1, 2, "caches/joint_jit"),
        ("inference", "steps", "eager", 1, 1, "caches/inference_eager"),
        ("inference", "steps", "jit", 1, 1, "caches/inference_jit"),
        ("inference", "steps", "eager", 2, 1, "caches/inference_eager"),
        ("inference", "steps", "jit", 2, 1, "caches/inference_jit"),
        ("inference", "budget", "jit", 1, 1, "caches/inference_jit"),
    ]
    assert suite.count_jobs(PLAN) == 1 + len(found)


def test_numbers_reach_the_jobs():
    plan = Plan(RECIPE, PLAN.what, batch=6, repeats=9, rounds=1, devices=2)
    found = jobs_of(plan)
    assert [number for number, _ in found] == [1, 1]
    for _, job in found:
        assert (job.batch, job.repeats, job.devices) == (6, 9, 2)


@pytest.fixture
def run(monkeypatch):
    """Run a plan with these answers to jobs; what was told and kept."""

    def run_plan(plan, answer):
        monkeypatch.setattr(suite, "run_job", answer)
        told, kept = [], []
        suite.run_plan(plan, "adn", told.append, lambda r: kept.append(len(r.results)))
        return told, kept

    return run_plan


def test_a_failed_system_is_not_tried_again(run):
    def answer(job):
        if job.task == "peaks":
            return Result(job, 1, PEAKS)
        assert job.platform == "cpu"
        if job.form == "eager":
            return Result(job, 1, failure="no torch.")
        if job.task == "input":
            return Result(job, 1, failure="no data.")
        if job.task == "budget":
            assert job.peaks == (PEAKS.flops, PEAKS.bytes_a_second)
        return Result(job, 1, ours(0.1))

    told, kept = run(replace(PLAN, what=("joint",)), answer)
    assert told == [
        "peaks of the machine",
        "joint, peer eager, round 1",
        "joint, ours, round 1",
        "joint, ours, round 2",
        "joint, input",
        "joint, budget",
    ]
    assert kept == [0, 1, 2, 3, 4, 5]


def test_without_steps_there_is_no_profile(run):
    def answer(job):
        return Result(job, 1, PEAKS if job.task == "peaks" else None, "too big.")

    told, _ = run(replace(PLAN, what=("joint",), forms=()), answer)
    assert told == ["peaks of the machine", "joint, ours, round 1"]


def test_without_peaks_there_is_nothing_to_tell(run):
    with pytest.raises(UserError, match=r"peaks were not measured: it broke\."):
        run(PLAN, lambda job: Result(job, 1, failure="it broke."))


def test_training_on_a_cpu_has_the_devices_of_train(monkeypatch):
    monkeypatch.setattr("adn_jax.runtime.jobs.usable_processors", lambda: 8)
    halves = replace(RECIPE.align, batch=18, micro_batches=2)
    recipe = replace(RECIPE, align=halves, joint=replace(RECIPE.joint, batch=6))

    def devices(plan, **changes):
        job = replace(Job("steps", recipe, batch=6), **changes)
        return suite.fit_machine(job, plan, PEAKS).devices

    assert devices(PLAN) == devices(PLAN, what="align", batch=18) == 3
    assert devices(PLAN, batch=4) == 1
    assert devices(PLAN, what="inference") == devices(PLAN, form="eager") == 1
    assert devices(replace(PLAN, devices=3), devices=3) == 3
