import gc
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from adn_jax.distributed.preemption import (
    catch_stop,
    interrupt_on_sigterm,
    keep_interrupts,
)


@pytest.fixture(autouse=True)
def handlers_of_python():
    """A shell that runs its tests in the background lets them ignore Ctrl-C."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_is_noted_and_handlers_return(number):
    former = signal.getsignal(number)
    with catch_stop() as stop:
        assert stop.signal == 0
        os.kill(os.getpid(), number)
        assert stop.signal == number
        assert signal.getsignal(number) == former
    assert signal.getsignal(number) == former


def test_second_interrupt_ends_at_once():
    with catch_stop():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_other_threads_are_left_alone():
    former = signal.getsignal(signal.SIGTERM)
    seen = []

    def work():
        with catch_stop() as stop:
            seen.append((stop.signal, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(0, former)]


def test_sigterm_interrupts():
    former = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt) as caught, interrupt_on_sigterm():
        os.kill(os.getpid(), signal.SIGTERM)
    assert caught.value.args == (signal.SIGTERM,)
    assert signal.getsignal(signal.SIGTERM) is former


def test_other_threads_keep_their_signals():
    former = signal.getsignal(signal.SIGTERM)

    def enter():
        with interrupt_on_sigterm():
            return signal.getsignal(signal.SIGTERM)

    with ThreadPoolExecutor() as threads:
        assert threads.submit(enter).result() is former


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupt_that_python_drops_comes_again(number):
    former, armed = sys.unraisablehook, []

    def hook(phase, _):
        if phase == "start" and armed:
            armed.clear()
            signal.raise_signal(number)

    def wait():
        with keep_interrupts(), interrupt_on_sigterm():
            armed.append(True)  # a collection may begin at any moment
            gc.collect()
            time.sleep(30)

    gc.callbacks.append(hook)
    try:
        with pytest.raises(KeyboardInterrupt):
            wait()
    finally:
        gc.callbacks.remove(hook)
    assert not armed
    assert sys.unraisablehook is former


def test_other_dropped_errors_are_told_as_ever(monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)

    class Odd:
        def __del__(self):
            raise ValueError("odd")

    with keep_interrupts():
        Odd()
    assert [str(one.exc_value) for one in told] == ["odd"]
