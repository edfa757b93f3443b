"""Times of repeated calls."""

import time
from collections.abc import Callable

LEAST_SECONDS = 1.0
"""Short calls are repeated for at least so long."""

MOST_CALLS = 200


def time_call(call: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def time_calls(call: Callable[[], object], repeats: int) -> tuple[float, ...]:
    """Seconds of each of `repeats` calls, or more where they are short."""
    times: list[float] = []
    while len(times) < repeats or (
        sum(times) < LEAST_SECONDS and len(times) < MOST_CALLS
    ):
        times.append(time_call(call))
    return tuple(times)


def time_pipelined(
    dispatch: Callable[[], object], wait: Callable[[object], object], count: int
) -> float:
    """Seconds a call where `count` calls are handed over and only the last is awaited.

    `dispatch` may return before its work is done.
    """

    def calls() -> None:
        for _ in range(count - 1):
            dispatch()
        wait(dispatch())

    return time_call(calls) / count
