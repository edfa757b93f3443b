import pytest

from adn_jax.benchmarks import machine as timing


@pytest.fixture
def clock(monkeypatch):
    """A clock that only moves when told to."""
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def advance(seconds):
        now[0] += seconds

    return advance


def test_long_calls_are_made_as_often_as_asked(clock):
    lengths = iter([3.0, 1.0, 2.0])
    assert timing.time_calls(lambda: clock(next(lengths)), 3) == (3.0, 1.0, 2.0)


def test_short_calls_fill_a_second_at_least(clock):
    assert len(timing.time_calls(lambda: clock(0.125), 2)) == 8
    assert len(timing.time_calls(lambda: clock(1e-9), 2)) == timing.MOST_CALLS


def test_a_row_is_awaited_once(clock):
    awaited = []

    def dispatch():
        clock(1.0)
        return "result"

    def wait(result):
        clock(6.0)
        awaited.append(result)

    assert timing.time_pipelined(dispatch, wait, 3) == pytest.approx(3.0)
    assert awaited == ["result"]
