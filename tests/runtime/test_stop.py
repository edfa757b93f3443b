import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from adn_jax.runtime.stop import catch_stop, interrupt_on_sigterm


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
