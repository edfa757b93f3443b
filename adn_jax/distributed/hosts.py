"""Several processes, on one host or many, that train as one.

All of them compute; process 0 alone prepares data and writes logs and notes.
"""

import signal
from collections.abc import Generator
from contextlib import contextmanager
from itertools import count
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from adn_jax.distributed.preemption import StopRequest, catch_stop
from adn_jax.errors import UserError


def join_processes(
    coordinator: str, processes: int | None, process_id: int | None
) -> None:
    """Join the other processes; call it before jax is used. An empty address: alone.

    Args:
        coordinator: host:port of process 0, or "auto": jax asks SLURM, Open MPI,
            Kubernetes or the TPU pod, which then also tells the two numbers.
        processes: how many there are.
        process_id: number of this one, from 0.

    Raises:
        UserError: the three do not go together, or the others are not reached.
    """
    numbers = processes, process_id
    if not coordinator:
        if numbers != (None, None):
            raise UserError(
                "--processes and --process-id need --coordinator HOST:PORT, the "
                "address of process 0."
            )
        return
    automatic = coordinator == "auto"
    if automatic != (numbers == (None, None)) or (None in numbers and not automatic):
        raise UserError(
            "--coordinator HOST:PORT needs --processes and --process-id, and "
            "--coordinator auto needs neither."
        )
    if processes is not None and processes < 1:
        raise UserError(f"--processes is {processes}; it has to be at least 1.")
    if processes and process_id is not None and not 0 <= process_id < processes:
        raise UserError(
            f"--process-id is {process_id}; with {processes} processes it has to be "
            f"0 to {processes - 1}."
        )
    address: dict[str, Any] = {} if automatic else {"coordinator_address": coordinator}
    try:
        jax.distributed.initialize(
            **address, num_processes=processes, process_id=process_id
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"the other processes were not reached ({reason}); check --coordinator "
            f"{coordinator} and that every process was started."
        ) from error


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def wait_for_all(what: str) -> None:
    """Return when every process has come as far as this call."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


@contextmanager
def sync_errors() -> Generator[None]:
    """All wait at the end of the block for each other.

    Raises `UserError` if the block failed in another process.
    """

    def failed_processes(here: bool) -> list[str]:
        if jax.process_count() == 1:
            return []
        answers = multihost_utils.process_allgather(np.bool_(here))
        return [str(number) for number in np.flatnonzero(answers)]

    try:
        yield
    except BaseException:
        failed_processes(True)
        raise
    if failed := failed_processes(False):
        which = " and ".join(failed)
        raise UserError(f"process {which} cannot go on; look at what it says.")


def share_size(batch: int) -> int:
    """How many cases of a batch each process reads."""
    return batch // jax.process_count()


def own_share(batch: int) -> slice:
    """Which cases of a batch this process reads."""
    share = share_size(batch)
    return slice(jax.process_index() * share, (jax.process_index() + 1) * share)


_UPDATES = count()
"""Counted over all stages: jax names the update after which all end by its number, so
that numbers may not begin again."""


class SharedStop:
    """A notice to end that came to any of several processes (SIGTERM, or a cloud's).

    jax's own handler notes it, and tells all of them to end after the same update.
    """

    def after_update(self) -> int:
        """Ask once after every update, in every process."""
        notice = multihost_utils.reached_preemption_sync_point(next(_UPDATES))
        return signal.SIGTERM if notice else 0


@contextmanager
def catch_stop_of_any() -> Generator[StopRequest | SharedStop]:
    """As `catch_stop`; of several processes each hears of what came to any of them."""
    if jax.process_count() > 1:
        yield SharedStop()
    else:
        with catch_stop() as request:
            yield request
