import os
import signal
import threading

import pytest

from adn_jax.runtime.stop import catch_stop


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
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


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
