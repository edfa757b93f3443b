"""Every measurement of one benchmark, each in a fresh process, in a fair order.

A system is measured in rounds: the peer, which says at once if it cannot do it, then
ours with an empty compilation cache, then both again, ours with the filled cache. What
happens on the machine meanwhile meets both sides; the times of all rounds are pooled.
"""

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from adn_jax.benchmarks.job import Job, PeakFigures, What, side_of
from adn_jax.benchmarks.machine import load_average, this_machine
from adn_jax.benchmarks.record import FIGURES, Plan, Record, Result
from adn_jax.config.serialization import settings_from_json, settings_to_json
from adn_jax.errors import UserError, last_words
from adn_jax.inference.chain import sharing_devices
from adn_jax.runtime.jobs import sharing_processors, usable_processors
from adn_jax.training.runs import cases_at_once


def run_plan(
    plan: Plan,
    command: str,
    begin: Callable[[str], None],
    keep: Callable[[Record], None],
) -> None:
    """Measure everything; first of all the machine's peaks.

    Args:
        plan: what to measure.
        command: the command line, for the record.
        begin: told before each job what it is.
        keep: given the record after each job.

    Raises:
        UserError: not even the peaks can be measured.
    """
    begin("peaks of the machine")
    now, load = datetime.now(UTC).isoformat(timespec="seconds"), load_average()
    first = run_job(Job("peaks", plan.recipe, devices=plan.devices or 1))
    if not isinstance(first.figures, PeakFigures):
        raise UserError(f"the machine's peaks were not measured: {first.failure}")
    loads = load, load_average()
    record = Record(plan, command, this_machine(), now, loads, first.figures)
    keep(record)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as caches:
        for number, job in planned_jobs(plan, Path(caches)):
            if _has_failed(record, job):
                continue
            begin(job_words(job, number))
            result = run_job(fit_machine(job, plan, record.peaks))
            record.results.append(replace(result, round=number))
            record.load = load, load_average()
            keep(record)


def count_jobs(plan: Plan) -> int:
    """Jobs of a plan in which nothing fails."""
    return 1 + sum(1 for _ in planned_jobs(plan, Path()))


def planned_jobs(plan: Plan, caches: Path) -> Iterator[tuple[int, Job]]:
    """Rounds and jobs in their order; each system's has a cache of its own."""
    for what in plan.what:
        job = Job(
            "steps",
            plan.recipe,
            what=what,
            batch=batch_of(plan, what),
            repeats=plan.repeats,
            devices=plan.devices or 1,
            peer=plan.peer,
        )
        ours, *peers = (
            replace(job, form=form, cache=str(caches / f"{what}_{form}"))
            for form in ("jit", *plan.forms)
        )
        for number in range(1, plan.rounds + 1):
            yield from ((number, each) for each in (*peers, ours))
        if plan.data is not None and what != "inference":
            yield 1, replace(ours, task="input", data=plan.data)
        if plan.budget:
            yield 1, replace(ours, task="budget")


def fit_machine(job: Job, plan: Plan, peaks: PeakFigures) -> Job:
    """The job with what is known of the machine; on a CPU with as many devices as
    `train` and `predict` take there.

    Where the plan says how many devices, so many they are.
    """
    platform, rates = peaks.device.platform, (peaks.flops, peaks.bytes_a_second)
    job = replace(job, platform=platform, peaks=rates)
    if plan.devices is not None or platform != "cpu" or job.form != "jit":
        return job
    if job.what == "inference":
        shared = sharing_devices(job.recipe.system, usable_processors())
        return replace(job, devices=shared if job.batch == 1 else 1)
    stage = replace(getattr(job.recipe, job.what), batch=job.batch)
    recipe = replace(job.recipe, **{job.what: stage})
    return replace(job, devices=sharing_processors(*cases_at_once(recipe)))


def batch_of(plan: Plan, what: What) -> int:
    """Scans in one call."""
    if plan.batch is not None:
        return plan.batch
    if what == "inference":
        return plan.devices or 1
    return getattr(plan.recipe, what).batch


def _has_failed(record: Record, job: Job) -> bool:
    """Whether the system's steps, or the same job, failed before."""
    return any(
        result.failure
        and (result.job.what, result.job.form) == (job.what, job.form)
        and result.job.task in {"steps", job.task}
        for result in record.results
    )


def job_words(job: Job, number: int) -> str:
    """A job in a few words, for the progress."""
    if job.task != "steps":
        return f"{job.what}, {job.task}"
    return f"{job.what}, {side_of(job.form)}, round {number}"


def run_job(job: Job) -> Result:
    """Run a job in a fresh process; a crash becomes a failure in one sentence."""
    answer = ask_worker("adn_jax.benchmarks.worker", job)
    if "error" in answer:
        return Result(job, 1, failure=answer["error"])
    return Result(job, 1, settings_from_json(FIGURES[job.task], answer, "figures"))


def ask_worker(
    module: str, job: Any, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Run a module in a fresh process, with a job as JSON on stdin.

    Returns the JSON of its last line; {"error": sentence} if it crashed.
    """
    process = subprocess.run(
        [sys.executable, "-m", module],
        input=json.dumps(settings_to_json(job)),
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    if process.returncode:
        return {"error": crash_sentence(process.returncode, process.stderr)}
    return json.loads(process.stdout.splitlines()[-1])


def crash_sentence(code: int, stderr: str) -> str:
    """Why a worker ended without an answer."""
    if code < 0:
        name = signal.Signals(-code).name
        advice = "; the memory may not suffice: lower --batch" if code == -9 else ""
        return f"its process was ended by {name}{advice}."
    return f"its process failed with {last_words(code, stderr) or f'exit code {code}'}"
