"""Every step of a recipe on every target, and settings with which it fits."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from adn_jax.benchmarks.suite import ask_worker
from adn_jax.config import Recipe
from adn_jax.config.serialization import settings_from_json, settings_to_json
from adn_jax.errors import UserError
from adn_jax.io.files import fingerprint, read_json, write_json
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


def compile_once(job: CompileJob, target: Accelerators, folder: Path | None) -> Answer:
    """The answer to a job: a former one of the same versions, or that of a fresh
    process, which is kept.

    Each has a file of its own in `folder`, so that calls side by side lose nothing;
    None: none is kept.
    """
    asked = {"versions": dict(installed()), "job": settings_to_json(job)}
    path = None if folder is None else folder / f"{fingerprint(asked)}.json"
    if path is not None and path.is_file():
        return settings_from_json(Answer, read_json(path)["answer"], f"{path}: answer")
    answer = compile_apart(job, target)
    if path is not None and not answer.error:
        write_json(path, {**asked, "answer": settings_to_json(answer)})
    return answer


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
    compiled: Path | None,
    tries: int,
    begin: Callable[[str], None],
) -> StepPlan:
    """Compile a step; where it does not fit, up to `tries` milder forms of it.

    Args:
        target: what to compile for.
        stage: which step.
        change: gives the recipe with some options changed.
        compiled: folder of former answers, to which new ones are added; None: none
            is kept.
        tries: forms that are compiled at most, each of them one that would fit by
            estimate.
        begin: told before each compilation what it is.
    """

    def attempt(options: str) -> Trial:
        begin(f"{target.name} {stage} {options}".strip())
        recipe, shards = change(target, options)
        job = CompileJob(target.name, recipe, stage, shards)
        return Trial(options, job, compile_once(job, target, compiled))

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
