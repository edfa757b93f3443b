"""Signals that ask a long work to end: noted, so that the work can save first."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@dataclass
class StopRequest:
    """Number of the signal that came; 0 before one comes."""

    signal: int = 0

    def after_update(self) -> int:
        """Ask once after every update."""
        return self.signal


@contextmanager
def catch_stop() -> Iterator[StopRequest]:
    """Note SIGTERM and Ctrl-C instead of ending at once; a second one ends at once.

    Outside the main thread, where Python allows no signal handlers, nothing changes.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    former = {number: signal.getsignal(number) for number in SIGNALS}

    def note(number: int, _: FrameType | None) -> None:
        request.signal = number
        restore()

    def restore() -> None:
        for number, handler in former.items():
            signal.signal(number, handler)

    for number in SIGNALS:
        signal.signal(number, note)
    try:
        yield request
    finally:
        restore()


@contextmanager
def interrupt_on_sigterm() -> Iterator[None]:
    """Raise `KeyboardInterrupt` at SIGTERM, too, with the signal as its argument.

    Outside the main thread nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, _: FrameType | None) -> None:
        raise KeyboardInterrupt(signal.Signals(number))

    former = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)
