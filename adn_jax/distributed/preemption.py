"""Signals that ask a long work to end: noted, so that the work can save first."""

import os
import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)

AGAIN_AFTER_S = 0.01
"""An interrupt that got lost is sent once more this much later."""


@dataclass
class StopRequest:
    """Number of the signal that came; 0 before one comes."""

    signal: int = 0

    def after_update(self) -> int:
        """Ask once after every update."""
        return self.signal


@contextmanager
def catch_stop() -> Generator[StopRequest]:
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
def interrupt_on_sigterm() -> Generator[None]:
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


@contextmanager
def keep_interrupts() -> Generator[None]:
    """Send a signal again whose `KeyboardInterrupt` was raised where Python drops it.

    jax adds a hook of its own to every garbage collection, and what is raised within
    such a hook is printed and forgotten: Ctrl-C would have no effect.
    """
    former = sys.unraisablehook

    def again(dropped: "sys.UnraisableHookArgs") -> None:
        error = dropped.exc_value
        if not isinstance(error, KeyboardInterrupt):
            return former(dropped)
        number = error.args[0] if error.args else signal.SIGINT
        threading.Timer(AGAIN_AFTER_S, os.kill, (os.getpid(), number)).start()
        return None

    sys.unraisablehook = again
    try:
        yield
    finally:
        sys.unraisablehook = former
