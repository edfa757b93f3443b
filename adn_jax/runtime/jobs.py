"""Work on many cases: here, in processes of this machine, or on a Dask cluster."""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from adn_jax.errors import FULL_DISK, UserError, typed_line

if TYPE_CHECKING:
    from dask.distributed import Client

GIB = 1 << 30

MEMORY_EACH_GIB = 4.0
"""What a process may need, the registration of an atlas included."""

LEAST_MEMORY_GIB = 0.5
"""With less a process would be ended as soon as it starts."""


Outcome = tuple[str, str | None]
"""Name of a case, and why it failed."""


@runtime_checkable
class Named(Protocol):
    """A case, as far as its outcome needs to know it."""

    @property
    def name(self) -> str:
        """Name of the case."""


Case = TypeVar("Case", bound=Named)


@dataclass(frozen=True)
class Processes:
    """Where the work on cases is done.

    `workers`: processes side by side; None: one a processor, as far as the memory
    lasts; 1: in this very process. `memory_gib` is what each may take; None: an equal
    share. `scheduler` is the address of a Dask cluster, which has its own of both.
    """

    workers: int | None = None
    memory_gib: float | None = None
    scheduler: str = ""

    def __post_init__(self) -> None:
        """Raise `UserError` if none, or too little memory, is wanted."""
        worker_count(self.workers, 1)
        if self.memory_gib is not None and self.memory_gib < LEAST_MEMORY_GIB:
            raise UserError(
                f"--memory-gib is {self.memory_gib}; a process needs at least "
                f"{LEAST_MEMORY_GIB}, and about {MEMORY_EACH_GIB:.0f} for the atlas."
            )

    @property
    def here(self) -> bool:
        """Whether this very process does the work."""
        return self.workers == 1 and not self.scheduler

    def run(
        self,
        title: str,
        job: Callable[[Case], Outcome],
        cases: Sequence[Case],
        folders: Sequence[Path] = (),
    ) -> Iterator[Outcome]:
        """Outcomes of the job as they come in, under a bar that counts failures, too.

        Every process of a cluster has to see the `folders`.
        """
        if self.here:
            outcomes: Iterator[Outcome] = map(job, cases)
        else:
            outcomes = self.outcomes(job, cases, folders)
        bar = progress_bar("[red]{task.fields[failed]}", "left", TimeRemainingColumn())
        with bar:
            task, failed = bar.add_task(title, total=len(cases), failed=""), 0
            for name, reason in outcomes:
                failed += reason is not None
                said = f"{failed} failed" if failed else ""
                bar.update(task, advance=1, failed=said)
                yield name, reason

    def outcomes(
        self,
        job: Callable[[Case], Outcome],
        cases: Sequence[Case],
        folders: Sequence[Path] = (),
    ) -> Iterator[Outcome]:
        """The same from processes here or on a cluster, without a bar."""
        from adn_jax.runtime.cluster import run_jobs

        with self.pool(len(cases)) as client:
            if self.scheduler:
                check_cluster(client, folders)
            for case, result in run_jobs(client, job, cases):
                yield outcome(case.name, result)

    def pool(self, cases: int) -> AbstractContextManager["Client"]:
        """The cluster, or as many processes as cases, processors and memory allow."""
        from distributed.system import MEMORY_LIMIT

        from adn_jax.runtime.cluster import cluster_client, local_client

        if self.scheduler:
            return cluster_client(self.scheduler)
        total = MEMORY_LIMIT / GIB
        count = worker_count(self.workers, cases)
        if self.workers is None:
            each = self.memory_gib or MEMORY_EACH_GIB
            count = max(1, min(count, int(total / each)))
        share = self.memory_gib or max(total / count, LEAST_MEMORY_GIB)
        return local_client(count, int(share * GIB))


def attempt(name: str, work: Callable[[], None]) -> Outcome:
    """Do the work on a case; returns its name and why it failed.

    Raises `UserError` if the disk is full: that is no fault of the case.
    """
    try:
        work()
    except UserError as error:
        if getattr(error.__cause__, "errno", None) in FULL_DISK:
            raise
        return name, str(error)
    except Exception as error:  # whatever a file holds, the other cases go on
        return name, f"unexpected {typed_line(error)}"
    return name, None


def progress_bar(*further: str | ProgressColumn, **options: Any) -> Progress:
    """A bar with title and count, and further columns of rich behind them."""
    title = TextColumn("{task.description}", markup=False)
    return Progress(title, BarColumn(), MofNCompleteColumn(), *further, **options)


def outcome(name: str, result: Outcome | Exception) -> Outcome:
    """The outcome of a case; a full disk, which ends everything, is raised."""
    from dask.distributed import KilledWorker

    if isinstance(result, UserError):
        raise result
    if isinstance(result, KilledWorker):
        return name, (
            "the process that prepared it ended, twice, perhaps for want of memory; "
            "allow each more with --memory-gib, or use fewer with --workers."
        )
    if isinstance(result, Exception):
        return name, f"unexpected {typed_line(result)}"
    return result


def check_cluster(client: "Client", folders: Sequence[Path]) -> None:
    """Raise `UserError` unless every process has this code and sees the folders."""
    try:
        answers = client.run(probe_worker, folders)
    except Exception as error:
        raise UserError(
            f"the cluster's workers cannot run adn_jax ({typed_line(error)}); install "
            "this version of it for all of them."
        ) from error
    here = version("adn-jax")
    for address, (there, missing) in answers.items():
        if there != here:
            raise UserError(
                f"the worker at {address} has another version of adn_jax; install "
                "this one for all of them."
            )
        if missing:
            raise UserError(
                f"the worker at {address} does not see {missing[0]}; use folders that "
                "all machines share under one name."
            )


def probe_worker(folders: Sequence[Path]) -> tuple[str, list[Path]]:
    """Version of the code in this process, and which of the folders it lacks."""
    missing = [folder for folder in folders if not folder.is_dir()]
    return version("adn-jax"), missing


def worker_count(wanted: int | None, jobs: int) -> int:
    """Processes for so many jobs; None: one for each processor that may be used.

    Raises `UserError` if fewer than one is wanted.
    """
    if wanted is not None and wanted < 1:
        raise UserError(f"--workers is {wanted}; at least 1 process is wanted.")
    return max(1, min(wanted or usable_processors(), jobs))


def usable_processors() -> int:
    """Processors that this process may use, if the system tells; else all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def sharing_processors(*batches: int) -> int:
    """The most processors that may be used over which every batch divides."""
    together = math.gcd(*batches)
    return largest_divisor(together, min(together, usable_processors()))


def largest_divisor(number: int, most: int) -> int:
    """The largest number up to `most` that divides one; 1 where `most` is less."""
    return max((n for n in range(1, most + 1) if number % n == 0), default=1)
