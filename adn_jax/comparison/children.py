"""Training and evaluation in processes of their own: memory is given back, and what
ends one run does not end the others."""

import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adn_jax.comparison.plan import PlannedRun
from adn_jax.config.fields import options_between
from adn_jax.config.sizes import Size
from adn_jax.io.paths import Place


@dataclass(frozen=True)
class Job:
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


def train_command(
    run: PlannedRun, job: Job, donor: PlannedRun | None = None
) -> list[str]:
    """Arguments that train a run, with the T of another where there is one."""
    size = ["--size", job.size] if job.size != "full" else []
    shared = ["--align-run", str(donor.folder)] if donor else []
    return [
        *("train", str(run.system.config)),
        *("--data", str(job.data), "--run", str(run.folder)),
        *size,
        *shared,
        *options_between(run.system.base, run.recipe),
    ]


def evaluate_command(run: PlannedRun, job: Job) -> list[str]:
    """Arguments that score a run."""
    data = ["--data", str(job.data)]
    return ["evaluate", str(run.folder), "--split", job.split, *data]


def run_child(arguments: Sequence[str], log: Path) -> str:
    """Run a verb in a process of its own, its output added to a file.

    Ctrl-C and SIGTERM reach it once, so that it saves; this process waits for it.
    Returns why it failed, in one sentence; empty where it did not.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    before = log.stat().st_size if log.exists() else 0
    with (
        log.open("ab") as output,
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
    """Why a process ended without success, from its last words."""
    if code < 0:
        advice = "; the memory may not suffice" if code == -signal.SIGKILL else ""
        return f"{verb} was ended by {signal.Signals(-code).name}{advice}."
    lines = [line.strip() for line in said.splitlines()]
    last = next((line for line in reversed(lines) if any(map(str.isalnum, line))), "")
    return last.removeprefix("adn: ") or f"{verb} ended with exit code {code}."
