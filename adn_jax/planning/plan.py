"""Every step of a recipe on every target, and settings with which it fits."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from adn_jax.benchmarks.suite import ask_worker
from adn_jax.config import Recipe
from adn_jax.config.serialization import settings_from_json, settings_to_json
from adn_jax.errors import UserError
from adn_jax.io.files import read_json, write_json
from adn_jax.planning.targets import Accelerators, compiler_environment
from adn_jax.planning.worker import Answer, CompileJob
from adn_jax.runtime.capacity import Demand
from adn_jax.training.updates import Devices, Lighter, lighter_settings

COMPILER_PACKAGES = ("adn-jax", "jax", "jaxlib", "libtpu", "jax-cuda13-plugin")
"""What decides what comes out."""

Change = Callable[[Accelerators, str], tuple[Recipe, int]]
"""A target and further options of the command line -> the recipe and the spatial shards
that they give."""


@dataclass(frozen=True)
class Trial:
    """A step compiled with some settings."""

    options: str
    """What was changed, as on the command line; empty: nothing."""
    job: CompileJob
    answer: Answer


@dataclass(frozen=True)
class StepPlan:
    """A step on a target: as it was asked for, then changed until it fits."""

    target: Accelerators
    trials: tuple[Trial, ...]

    @property
    def asked(self) -> Trial:
        """With the settings that were given."""
        return self.trials[0]

    @property
    def best(self) -> Trial | None:
        """Of the trials that fit the cheapest for a case; None: none fits."""
        fitting = [trial for trial in self.trials if fits(self.target, trial)]
        if fits(self.target, self.asked):
            return self.asked
        return min(fitting, key=cost_of_case, default=None)


def fits(target: Accelerators, trial: Trial) -> bool:
    """Whether a step's plan stays within what programs may take on a device."""
    step = trial.answer.step
    return step is not None and step.memory.total <= target.room


def cost_of_case(trial: Trial) -> float:
    """Cycles for a case; without an estimate of them the bytes of temporaries."""
    job, step = trial.job, trial.answer.step
    assert step is not None  # what fits was compiled
    return (step.cycles or step.memory.temporaries) / cases_of(job)


def cases_of(job: CompileJob) -> int:
    """Cases in an update, over all devices."""
    return getattr(job.recipe, job.stage).batch


@dataclass
class Compiled:
    """Answers of earlier calls by their jobs, kept in a file as they come in."""

    path: Path | None
    versions: dict[str, str] = field(default_factory=lambda: dict(installed()))

    def __post_init__(self) -> None:
        """Read what the same versions have answered before."""
        self.answers: dict[str, Any] = {}
        if self.path is not None and self.path.is_file():
            content = read_json(self.path)
            if content.get("versions") == self.versions:
                self.answers = content["answers"]

    def compile(self, job: CompileJob, target: Accelerators) -> Answer:
        """The answer to a job: a former one, or that of a fresh process."""
        key = json.dumps(settings_to_json(job), sort_keys=True)
        if key not in self.answers:
            answer = compile_apart(job, target)
            if answer.error:
                return answer
            self.answers[key] = settings_to_json(answer)
            if self.path is not None:
                write_json(
                    self.path, {"versions": self.versions, "answers": self.answers}
                )
        return settings_from_json(Answer, self.answers[key], "answer")


def installed() -> Iterator[tuple[str, str]]:
    """Versions of what compiles, as far as it is there."""
    for package in COMPILER_PACKAGES:
        try:
            yield package, version(package)
        except PackageNotFoundError:
            continue


def compile_apart(job: CompileJob, target: Accelerators) -> Answer:
    """Compile in a process with the target's environment."""
    environment = compiler_environment(target)
    answer = ask_worker("adn_jax.planning.worker", job, environment)
    return settings_from_json(Answer, answer, "answer")


def plan_step(
    target: Accelerators,
    stage: str,
    change: Change,
    compiled: Compiled,
    tries: int,
    begin: Callable[[str], None],
) -> StepPlan:
    """Compile a step; where it does not fit, up to `tries` milder forms of it.

    Args:
        target: what to compile for.
        stage: which step.
        change: gives the recipe with some options changed.
        compiled: former answers, to which new ones are added.
        tries: forms that are compiled at most, each of them one that would fit by
            estimate.
        begin: told before each compilation what it is.
    """

    def attempt(options: str) -> Trial:
        begin(f"{target.name} {stage} {options}".strip())
        recipe, shards = change(target, options)
        job = CompileJob(target.name, recipe, stage, shards)
        return Trial(options, job, compiled.compile(job, target))

    first = attempt("")
    if first.answer.error:
        raise UserError(f"{stage} on {target.name}: {first.answer.error}")
    trials = [first]
    if not fits(target, first):
        trials += [attempt(each.options) for each in milder(target, first)[:tries]]
    return StepPlan(target, tuple(trials))


def milder(target: Accelerators, trial: Trial) -> list[Lighter]:
    """Settings with which a step that does not fit would, by estimate."""
    step, refusal, job = trial.answer.step, trial.answer.refusal, trial.job
    if step is not None:
        maps = step.memory.temporaries
        demand, there = Demand(step.memory.total - maps, maps), target.room
    elif refusal is not None and refusal.wanted:
        demand, there = Demand(0, refusal.wanted), refusal.there
    else:
        return []
    shards = job.spatial_shards
    devices = Devices(
        target.chip.platform, target.devices // shards, shards, target.devices
    )
    return lighter_settings(job.stage, job.recipe, devices, demand, there)
