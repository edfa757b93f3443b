"""Runs of a comparison: which there are, which machine does which, trained and scored.

What is finished is not done again. Training and evaluation have processes of their own:
memory is given back, and what ends one run does not end the others.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.progress import TimeElapsedColumn, track

from adn_jax.config import PrepareSettings, ReadSettings, Recipe
from adn_jax.config.fields import as_pairs, options_between
from adn_jax.config.serialization import differing_fields, settings_to_json
from adn_jax.config.sizes import Size
from adn_jax.data.cases import read_case
from adn_jax.data.manifest import Manifest, has_manifest, read_manifest
from adn_jax.distributed.preemption import interrupt_on_sigterm
from adn_jax.errors import UserError, last_words
from adn_jax.evaluation.case import EMPTY_RULES
from adn_jax.evaluation.evaluate import RESULT_FORMAT
from adn_jax.inference.system import load_system, tta_of
from adn_jax.io.files import failures_named, read_json
from adn_jax.io.paths import Place, check_apart, spelled_out
from adn_jax.metrics.overlap import Mask
from adn_jax.pipeline.align import aligns
from adn_jax.runtime.jobs import progress_bar
from adn_jax.training.begin import check_on_disk, check_raw_options, prepare_into
from adn_jax.training.differences import changed_settings
from adn_jax.training.runs import Run, stages_of


@dataclass(frozen=True)
class Method:
    """What is compared: a recipe, trained once for each seed."""

    name: str
    config: Path
    """The config file that its training starts from."""
    base: Recipe
    """The recipe that the config file gives at the chosen size."""
    recipe: Recipe
    """The recipe that is trained, apart from its seed."""
    size: Size = "full"

    @property
    def aligned(self) -> bool:
        """Whether it turns heads upright."""
        return aligns(self.recipe.system)

    @property
    def steps(self) -> str:
        """Steps of each stage, in words."""
        stages = stages_of(self.recipe)
        return ", ".join(f"{one} {getattr(self.recipe, one).steps}" for one in stages)


@dataclass(frozen=True)
class PlannedRun:
    """A system with a seed, and the folder of its run."""

    system: Method
    seed: int
    folder: Path

    @property
    def recipe(self) -> Recipe:
        """The recipe of this run."""
        return replace(self.system.recipe, seed=self.seed)

    @property
    def name(self) -> str:
        """For progress and messages."""
        return self.folder.name

    def masks(self, manifest: Manifest, cases: Sequence[str]) -> list[Mask]:
        """What it marks in some cases, on the prepared grid, as it was scored."""
        system = load_system(self.folder)
        return [
            system.infer(read_case(files)).maps.predicted
            for files in map(manifest.case_folder, cases)
        ]


@dataclass(frozen=True)
class Shard:
    """One of several machines that share the runs: `index` of `count`, from 0."""

    index: int = 0
    count: int = 1


def read_shard(text: str) -> Shard:
    """A shard from text such as 0/4; `UserError` if it is none."""
    index, slash, count = text.partition("/")
    if slash and index.isdecimal() and count.isdecimal() and int(index) < int(count):
        return Shard(int(index), int(count))
    raise UserError(
        f"--shard is {text!r}; it has to be a number from 0 and how many there are, "
        "as 0/4, 1/4, 2/4 and 3/4."
    )


def plan_runs(
    systems: Sequence[Method], seeds: Sequence[int], folder: Path
) -> list[PlannedRun]:
    """Every system with every seed, seed by seed; `UserError` for a doublet."""
    given: dict[str, Sequence[str | int]] = {
        "system": [system.name for system in systems],
        "seed": list(seeds),
    }
    for what, values in given.items():
        twice = next((each for each in values if values.count(each) > 1), None)
        if twice is not None:
            raise UserError(f"the {what} {twice!r} is given twice; give each once.")
        if not values:
            raise UserError(f"no {what} is given; give at least one.")
    return [
        PlannedRun(system, seed, folder / f"{system.name}-seed{seed}")
        for seed in seeds
        for system in systems
    ]


def runs_of_shard(runs: Sequence[PlannedRun], shard: Shard) -> list[PlannedRun]:
    """The runs that one machine does.

    Seeds are dealt first, so that the runs of a seed, which share T, stay together
    as long as there are no more shards than seeds; of more, several share a seed.
    """
    seeds = list(dict.fromkeys(run.seed for run in runs))
    chosen = []
    for place, seed in enumerate(seeds):
        dealt = range(place % shard.count, shard.count, len(seeds))
        for number, run in enumerate(run for run in runs if run.seed == seed):
            if dealt[number % len(dealt)] == shard.index:
                chosen.append(run)
    return chosen


def find_trained_t(run: PlannedRun, peers: Iterable[PlannedRun]) -> PlannedRun | None:
    """The first of the peers whose finished T is what this run would train.

    None: there is none, no T is needed, or the run has begun one of its own.
    """
    needed = "align" in stages_of(run.recipe)
    begun = Run.find(run.folder)
    if not needed or (begun is not None and begun.has_checkpoints("align")):
        return None
    for peer in peers:
        if peer.folder == run.folder or "align" not in stages_of(peer.recipe):
            continue
        if changed_settings("align", peer.recipe, run.recipe):
            continue
        other = Run.find(peer.folder)
        if other is not None and "align" in other.finished:
            return peer
    return None


def check_same_data(systems: Sequence[Method]) -> None:
    """Raise `UserError`, naming the fields, unless all want the same prepared data."""
    first, *others = systems
    for other in others:
        differing = list(
            differing_fields(
                first.recipe.system.prepare, other.recipe.system.prepare, "prepare."
            )
        )
        if differing:
            raise UserError(
                f"{first.name} and {other.name} want data prepared differently "
                f"({'; '.join(differing)}); set these fields to the same values."
            )


class Completed(NamedTuple):
    """What there is to compare once a machine has done its runs."""

    scored: list[PlannedRun]
    """Runs, of this machine and others, that are trained and scored."""
    missing: list[str]
    """A sentence for each of the others."""
    failed: bool
    """Whether one of this machine's runs failed."""


@dataclass(frozen=True)
class RunJob:
    """What is done with every run."""

    data: Place
    """The prepared data set."""
    split: str
    """Split on which the runs are scored."""
    size: Size
    logs: Path
    """Folder for what the processes print."""
    by_pairs: bool = False
    """Whether the verb takes settings as --set field=value, unlike `train`."""
    spatial_shards: int = 1
    """Devices that share the rows of each case in training."""


def complete(
    runs: Sequence[PlannedRun], job: RunJob, mine: Sequence[PlannedRun] | None = None
) -> Completed:
    """Do the runs of this machine (None: all), and say on stderr which failed, and
    which folders of other machines hold other runs.

    Raises `UserError`, before anything is trained, if a run could not be.
    """
    mine = runs if mine is None else mine
    check_runs(mine, job)
    failures = do_runs(mine, job)
    # those of other machines may be of another command
    strangers = {run.name: why for run in runs if (why := stranger(run, job))}
    refused = strangers | failures
    name_failures(refused, job)
    scored = [run for run in runs if run.name not in refused and is_scored(run, job)]
    missing = missing_sentences(runs, scored, refused)
    return Completed(scored, missing, any(run.name in refused for run in mine))


def check_runs(runs: Sequence[PlannedRun], job: RunJob) -> None:
    """Raise `UserError` if the folder of a run holds another, or one could not be
    trained: each system is tried in a process of its own, up to its first update."""
    for run in runs:
        if why := stranger(run, job):
            raise UserError(f"{run.name}: {why}")
    untrained = [run for run in runs if _trained_steps(run) is None]
    systems = {run.system.name: run for run in reversed(untrained)}
    for run in track([*systems.values()][::-1], "checking", transient=True):
        command = [*train_command(run, job), "--dry-run"]
        if why := run_child(command, job.logs / "checks.log"):
            raise UserError(
                f"{run.name} cannot be trained: {_in_words_of(job, run, why)}"
            )


def _in_words_of(job: RunJob, run: PlannedRun, sentence: str) -> str:
    """A sentence of `train` in words of the verb that compares runs."""
    sentence = sentence.replace("--run folder", "OUT")
    return as_pairs(sentence, run.recipe) if job.by_pairs else sentence


def do_runs(runs: Sequence[PlannedRun], job: RunJob) -> dict[str, str]:
    """Train and score what is not finished; returns why some runs failed, by name.

    Raises `KeyboardInterrupt` at Ctrl-C and SIGTERM, after the run has saved.
    """
    failures: dict[str, str] = {}
    left = [run for run in runs if not is_scored(run, job)]
    seconds: list[float] = []
    columns = TimeElapsedColumn(), "{task.fields[left]}"
    progress = progress_bar(*columns, transient=True)
    with interrupt_on_sigterm(), progress:
        task = progress.add_task("", total=len(left), left="")
        for number, run in enumerate(left, start=1):
            progress.update(task, description=run.name)
            start = time.monotonic()
            why = _in_words_of(job, run, _do_run(run, runs, job))
            if why:
                failures[run.name] = why
            else:
                seconds.append(time.monotonic() - start)
            estimate = time_left(seconds, len(left) - number)
            progress.update(task, advance=1, left=estimate)
            end = f"failed: {why}" if why else "trained and scored"
            line = f"{number} of {len(left)}: {run.name} {end} {estimate}"
            progress.console.print(line.rstrip(), highlight=False, markup=False)
    return failures


def _do_run(run: PlannedRun, peers: Sequence[PlannedRun], job: RunJob) -> str:
    """Train and score one run; returns why it failed, empty where it did not."""
    log = job.logs / f"{run.name}.log"
    try:
        why = ""
        if _trained_steps(run) is None:
            donors = (peer for peer in peers if not stranger(peer, job))
            why = run_child(train_command(run, job, find_trained_t(run, donors)), log)
            why = why or stranger(run, job)  # its config file may have changed since
        if why:
            return why
        # scores of these cases as they were before, or lay elsewhere, are to go
        summary = run.folder / "evaluation" / job.split / "summary.json"
        summary.unlink(missing_ok=True)
        return run_child(evaluate_command(run, job), log)
    except UserError as error:
        return str(error)


def stranger(run: PlannedRun, job: RunJob) -> str:
    """Why a folder with a finished stage cannot be this run; empty where it can."""
    try:
        begun = Run.find(run.folder)
        if begun is None or not begun.finished:
            return ""
        begun.check_same_recipe(run.recipe)
    except UserError as error:
        return _in_words_of(job, run, str(error))
    if others := begun.other_cases(read_manifest(job.data)):
        return (
            f"{run.folder} was trained with {others} than {job.data} has now; choose "
            "another OUT."
        )
    return ""


def _trained_steps(run: PlannedRun) -> dict[str, int] | None:
    """Stage -> step of its best weights; None unless every stage is finished."""
    begun, stages = Run.find(run.folder), stages_of(run.recipe)
    if begun is None or not set(stages) <= begun.finished.keys():
        return None
    return {stage: begun.finished[stage]["best_step"] for stage in stages}


def is_scored(run: PlannedRun, job: RunJob) -> bool:
    """Whether the run is trained, and its scores are of its weights, on these cases, by
    the rules of a table: the present version's, with the threshold and test-time
    augmentation of its recipe."""
    path = run.folder / "evaluation" / job.split / "summary.json"
    steps = _trained_steps(run)
    if steps is None or not path.is_file():
        return False
    summary, manifest = read_json(path), read_manifest(job.data)
    cases = manifest.splits.get(job.split, ())
    return (
        summary.get("format") == RESULT_FORMAT
        and summary["steps"] == steps
        and summary["data"] == spelled_out(job.data)
        and summary.get("files_sha256") == manifest.files_sha256.get(job.split)
        and summary["cases"] + summary["without_label"] == len(cases)
        and summary["empty"]["rule"] == EMPTY_RULES["penalise"]
        and summary["threshold"] == run.recipe.threshold
        and summary.get("least_lesion_ml", 0.0) == run.recipe.least_lesion_ml
        and summary.get("tta", summary.get("averaging"))
        == settings_to_json(tta_of([run.recipe]))
    )


def prepared_data(
    data: Place,
    out: Path,
    settings: PrepareSettings,
    workers: int | None,
    hu_range: tuple[float, float] | None = None,
) -> Manifest:
    """The prepared data set; a raw one is prepared into `out/prepared`, once.

    Archives of the AISD download are unpacked into `out/unpacked`. `hu_range` is the HU
    to which the scans of a raw data set were clipped. Raises `UserError` for data that
    cannot be read, and before what runs have learnt from is replaced.
    """
    check_apart(out, data)
    reading = ReadSettings(aisd_unpack=str(out / "unpacked"), hu_range=hu_range)
    if has_manifest(data):
        check_raw_options(reading, workers)
        return read_manifest(data)
    check_on_disk(data)
    runs = [Run.open(path.parent) for path in (out / "runs").glob("*/config.json")]
    learnt_by = next((run.folder for run in runs if run.has_learnt), None)
    return prepare_into(out, data, settings, workers, reading, learnt_by)


def missing_sentences(
    runs: Sequence[PlannedRun],
    scored: Sequence[PlannedRun],
    failures: dict[str, str],
) -> list[str]:
    """A sentence for each run that is not in the table."""
    return [
        f"{run.name}: {failures.get(run.name, 'not trained and scored yet.')}"
        for run in runs
        if run not in scored
    ]


def time_left(seconds: Sequence[float], runs: int) -> str:
    """An estimate from the mean time of finished runs, in words."""
    if not seconds or not runs:
        return ""
    minutes = float(np.mean(seconds)) * runs / 60
    if minutes < 100:
        return f"(about {max(minutes, 1):.0f} min left)"
    return f"(about {minutes / 60:.1f} h left)"


def name_failures(failures: dict[str, str], job: RunJob) -> None:
    """Say on stderr which runs are missing, and why."""
    for name, why in failures.items():
        log = job.logs / f"{name}.log"
        more = f" ({log})" if log.exists() else ""
        print(f"adn: {name} is missing: {why}{more}", file=sys.stderr)


def train_command(
    run: PlannedRun, job: RunJob, donor: PlannedRun | None = None
) -> list[str]:
    """Arguments that train a run, with the T of another where there is one."""
    size = ["--size", job.size] if job.size != "full" else []
    shared = ["--align-run", str(donor.folder)] if donor else []
    shards = job.spatial_shards
    spatial = ["--spatial-shards", str(shards)] if shards != 1 else []
    return [
        *("train", str(run.system.config)),
        *("--data", str(job.data), "--run", str(run.folder)),
        *size,
        *shared,
        *spatial,
        *options_between(run.system.base, run.recipe),
    ]


def evaluate_command(run: PlannedRun, job: RunJob) -> list[str]:
    """Arguments that score a run."""
    data = ["--data", str(job.data)]
    return ["evaluate", str(run.folder), "--split", job.split, *data]


def run_child(arguments: Sequence[str], log: Path) -> str:
    """Run a verb in a process of its own, its output added to a file.

    Ctrl-C and SIGTERM reach it once, so that it saves; this process waits for it.
    Returns why it failed, in one sentence; empty where it did not.
    """
    with failures_named(log.parent):
        log.parent.mkdir(parents=True, exist_ok=True)
        output = log.open("ab")
        before = output.tell()
    with (
        output,
        subprocess.Popen(
            [sys.executable, "-m", "adn_jax", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as child,
    ):
        try:
            code = child.wait()
        except KeyboardInterrupt:
            child.terminate()
            child.wait()
            raise
    said = log.read_bytes()[before:].decode(errors="replace")
    return failure_sentence(arguments[0], code, said) if code else ""


def failure_sentence(verb: str, code: int, said: str) -> str:
    """Why a process ended without success."""
    if code < 0:
        advice = "; the memory may not suffice" if code == -signal.SIGKILL else ""
        return f"{verb} was ended by {signal.Signals(-code).name}{advice}."
    last = last_words(code, said).removeprefix("adn: ")
    return last or f"{verb} ended with exit code {code}."
