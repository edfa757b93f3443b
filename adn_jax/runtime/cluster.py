"""Many jobs side by side with Dask: in processes of this machine, or on a cluster."""

import asyncio
import logging
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import dask
from dask.distributed import (
    Client,
    KilledWorker,
    LocalCluster,
    Worker,
    WorkerPlugin,
    as_completed,
)
from distributed.comm import connect
from distributed.core import coerce_to_address

from adn_jax.errors import UserError, one_line

Item = TypeVar("Item")

LOCAL_CONFIG = {
    "distributed.comm.timeouts.connect": "300s",
    # A process that dies takes along the one job that it was doing, no other.
    "distributed.scheduler.allowed-failures": 0,
    "distributed.scheduler.worker-saturation": 1.0,
    # A long computation must not pass for a dead process.
    "distributed.scheduler.worker-ttl": None,
    # Beyond its memory a process is ended, not stopped until memory comes back.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 1.0,
    # The processes are the parallelism; each of them stays on one core, and quiet.
    "distributed.nanny.pre-spawn-environ": {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1",
        "DASK_LOGGING__DISTRIBUTED": "critical",
    },
}
"""Dask's settings for processes of this machine."""

CONNECT_SECONDS = 20
"""How long a cluster's scheduler, and then its first worker, may take to answer."""


class IgnoreInterrupts(WorkerPlugin):
    """Leaves Ctrl-C, which reaches every process of a terminal, to the main one."""

    def setup(self, worker: Worker) -> None:  # noqa: ARG002
        """Run once in each process, in its main thread."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def local_client(workers: int, memory_bytes: int) -> Generator[Client]:
    """Processes of this machine; one that takes more memory than allowed is ended."""
    _silence()
    with dask.config.set(LOCAL_CONFIG), ExitStack() as stack:
        try:
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                memory_limit=memory_bytes,
                dashboard_address="127.0.0.1:0",  # any free port
            )
            client = stack.enter_context(Client(stack.enter_context(cluster)))
        except (RuntimeError, OSError) as error:
            raise UserError(
                f"the processes that prepare did not start ({one_line(error)}); run "
                "the command again, or do without them by --workers 1."
            ) from error
        client.register_plugin(IgnoreInterrupts())
        yield client


@contextmanager
def cluster_client(address: str) -> Generator[Client]:
    """The Dask cluster with this scheduler; `UserError` if it does not answer."""
    _silence()
    try:
        asyncio.run(check_reachable(address))
    except (OSError, ValueError) as error:
        raise UserError(
            f"no Dask scheduler answers at {address!r} "
            f"({one_line(error)}); start one with "
            "`dask scheduler` and give the address that it prints."
        ) from error
    with Client(address) as client:
        try:
            client.wait_for_workers(1, timeout=CONNECT_SECONDS)
        except TimeoutError as error:
            raise UserError(
                f"the Dask scheduler at {address} has no workers; start some with "
                f"`dask worker {address}`."
            ) from error
        yield client


async def check_reachable(address: str) -> None:
    """Connect once; `OSError` or `ValueError` if that fails."""
    comm = await connect(coerce_to_address(address), timeout=CONNECT_SECONDS)
    await comm.close()


def _silence() -> None:
    """Leave what happens to jobs to our own words.

    Tornado logs whatever a callback of Dask's raises, such as its cancelling of a call
    that had not begun when Ctrl-C came.
    """
    for name in ("distributed", "distributed.client", "tornado.application"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def run_jobs(
    client: Client, job: Callable[[Item], Any], items: Sequence[Item]
) -> Iterator[tuple[Item, Any]]:
    """Each item with the job's result, or the exception in its place, as they come in.

    An item whose process ended is tried once more at the end, with no other beside it:
    one that brings processes down takes no neighbour along. If it fails again, its
    exception is a `KilledWorker`.
    """
    lost = []
    for item, result in _run_once(client, job, items):
        if isinstance(result, KilledWorker):
            lost.append(item)
        else:
            yield item, result
    for item in lost:
        yield from _run_once(client, job, [item])


def _run_once(
    client: Client, job: Callable[[Item], Any], items: Sequence[Item]
) -> Iterator[tuple[Item, Any]]:
    """Each item with the job's result or its exception, as they come in."""
    futures = dict(zip(client.map(job, items, pure=False), items, strict=True))
    for future in as_completed(futures):
        error = future.exception()
        try:
            result = future.result() if error is None else error
        except (CancelledError, OSError) as lost:  # the job's own error is above
            raise UserError(
                "the Dask scheduler went away; run the command again, what is done is "
                "kept."
            ) from lost
        yield futures[future], result
