"""`adn benchmark CONFIG`: how fast a recipe is, and beside what."""

import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import (
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from adn_jax.benchmarks.job import PeerForm, What, side_of
from adn_jax.benchmarks.record import (
    PEER_FORMS,
    Plan,
    Record,
    record_json,
    summary_json,
)
from adn_jax.benchmarks.suite import count_jobs, run_plan
from adn_jax.benchmarks.table import report_sections
from adn_jax.benchmarks.worker import peer_function
from adn_jax.cli.arguments import LocalFolder, check_trained, parse_with_recipe
from adn_jax.config import Recipe
from adn_jax.distributed.preemption import interrupt_on_sigterm
from adn_jax.errors import UserError
from adn_jax.io.files import write_json, write_text
from adn_jax.report.tables import print_sections, to_markdown
from adn_jax.runtime.jobs import progress_bar

TORCH = "benchmarks.torch_reference:measure"
"""The PyTorch reference, in a checkout of the repository."""

JOB_SPEED_SECONDS = 3600.0
"""The time left is estimated from the speed over this time: a job takes minutes."""


@dataclass(frozen=True)
class Benchmark:
    """Time training and inference of a recipe, each in a process of its own.

    Any setting of the recipe can be changed: `--prepare.shape 16 64 64`,
    `--precision bfloat16`.
    """

    what: tuple[What, ...] = ("joint", "inference")
    """Train step of T (align), of D and F (joint), or the chain T, D, F (inference)."""
    batch: int | None = None
    """Scans a call; default: the stage's batch, and one a device for inference."""
    repeats: int = 5
    """Fewest calls to time in a round."""
    rounds: int = 2
    """Rounds over all systems; compilation is cold in the first and warm in others."""
    devices: int | None = None
    """Devices that share the batch; default: 1, and for training on a CPU as many as
    `train` takes: cores over which the batch of every stage divides."""
    peer: str = "none"
    """Time a peer of the recipe, too, in turn with ours: `module:function`, or `torch`
    for the PyTorch reference of this repository."""
    forms: tuple[PeerForm, ...] = ()
    """Forms of the peer; default: those of the recipe's precision."""
    input: str = "none"
    """Whether a train step waits for its input: a prepared data set, or `synthetic`."""
    layers: bool = False
    """List the operations of every layer."""
    budget: bool = False
    """Profile a few calls: where the time goes, beside what the machine allows."""
    out: LocalFolder | None = None
    """Folder for benchmark.json and benchmark.md; default: the terminal alone."""


def main(arguments: Sequence[str]) -> None:
    """Run the verb; exit code 2 if a system of ours failed."""
    command, recipe = parse_with_recipe(Benchmark, "benchmark", arguments)
    plan = make_plan(command, recipe)
    records: list[Record] = []
    try:
        with interrupt_on_sigterm():
            called = shlex.join(["adn", "benchmark", *arguments])
            run(plan, called, command.out, records)
    except KeyboardInterrupt as stop:
        print("adn: stopped before the end.", file=sys.stderr)
        number = stop.args[0] if stop.args else signal.SIGINT
        raise SystemExit(128 + number) from None
    finally:
        if records:
            print_sections(report_sections(records[-1]), Console())
    if any(each.failure and each.job.form == "jit" for each in records[-1].results):
        raise SystemExit(2)


def make_plan(command: Benchmark, recipe: Recipe) -> Plan:
    """What the command asks for; `UserError` for a count below 1, and for a step that
    the recipe has not."""
    check_trained("--what", [one for one in command.what if one != "inference"], recipe)
    for name in ("batch", "repeats", "rounds", "devices"):
        value = getattr(command, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} is {value}; it has to be at least 1.")
    peer = {"none": "", "torch": TORCH}.get(command.peer, command.peer)
    if peer:
        peer_function(peer)  # a wrong name is told before anything is measured
    forms = command.forms or PEER_FORMS[recipe.system.precision]
    return Plan(
        recipe=recipe,
        what=command.what,
        batch=command.batch,
        repeats=command.repeats,
        rounds=command.rounds,
        devices=command.devices,
        peer=peer,
        forms=forms if peer else (),
        data=None if command.input == "none" else command.input,
        budget=command.budget,
        layers=command.layers,
    )


def run(plan: Plan, command: str, out: Path | None, records: list[Record]) -> None:
    """Measure with a progress bar; `records` and the files get what is found so far."""
    progress = progress_bar(
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        speed_estimate_period=JOB_SPEED_SECONDS,
        transient=True,
    )
    task = progress.add_task("", total=count_jobs(plan))

    def begin(description: str) -> None:
        progress.update(task, description=description)

    def keep(record: Record) -> None:
        progress.advance(task)
        for result in record.results[-1:]:
            if result.failure:  # told at once: what follows takes minutes
                side = side_of(result.job.form)
                print(f"adn: {side}: {result.failure}", file=sys.stderr)
        records[:] = [record]
        if out is not None:
            found = record_json(record) | summary_json(record)
            write_json(out / "benchmark.json", found)
            write_text(out / "benchmark.md", to_markdown(report_sections(record)))

    with progress:
        run_plan(plan, command, begin, keep)
