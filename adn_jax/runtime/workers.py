"""How many processes, or devices of a CPU, work side by side."""

import math
import os

from adn_jax.errors import UserError


def worker_count(wanted: int | None, jobs: int) -> int:
    """Processes for so many jobs; None: one for each processor that may be used.

    Raises `UserError` where fewer than one is wanted.
    """
    if wanted is not None and wanted < 1:
        raise UserError(f"--workers is {wanted}; at least 1 process is wanted.")
    return max(1, min(wanted or usable_processors(), jobs))


def sharing_processors(*batches: int) -> int:
    """The most processors that may be used over which every batch divides."""
    together = math.gcd(*batches)
    counts = range(1, min(together, usable_processors()) + 1)
    return max((count for count in counts if together % count == 0), default=1)


def usable_processors() -> int:
    """Processors that this process may use, where the system tells; else all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
