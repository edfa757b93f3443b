"""Joining other processes: what does not go together is refused before jax starts."""

import jax
import pytest

from adn_jax.distributed import hosts
from adn_jax.errors import UserError


@pytest.fixture
def initialized(monkeypatch):
    """What `jax.distributed.initialize` is called with."""
    calls = []
    monkeypatch.setattr(
        jax.distributed, "initialize", lambda **options: calls.append(options)
    )
    return calls


def test_alone_nothing_is_joined(initialized):
    hosts.join_processes("", None, None)
    assert initialized == []


def test_by_address(initialized):
    hosts.join_processes("node1:1234", 4, 2)
    assert initialized == [
        {"coordinator_address": "node1:1234", "num_processes": 4, "process_id": 2}
    ]


def test_by_what_jax_finds(initialized):
    hosts.join_processes("auto", None, None)
    assert initialized == [{"num_processes": None, "process_id": None}]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("", 2, None), "need --coordinator HOST:PORT"),
        (("node1:1234", 2, None), "needs --processes and --process-id"),
        (("auto", 2, 0), "auto needs neither"),
        (("node1:1234", 2, 2), "--process-id is 2; .* has to be 0 to 1"),
        (("node1:1234", 0, 0), "--processes is 0"),
    ],
)
def test_what_does_not_go_together(initialized, given, message):
    with pytest.raises(UserError, match=message):
        hosts.join_processes(*given)
    assert initialized == []


def test_who_cannot_be_reached_is_said_in_one_sentence(monkeypatch):
    def fail(**_):
        raise RuntimeError("DEADLINE_EXCEEDED: barrier timed out\nmore")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    message = r"not reached \(DEADLINE_EXCEEDED: barrier timed out\); check --coord"
    with pytest.raises(UserError, match=message):
        hosts.join_processes("node1:1234", 2, 0)


def test_shares_of_a_batch_cover_it_once(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    cases = list(range(6))
    shares = []
    for number in range(3):
        monkeypatch.setattr(jax, "process_index", lambda number=number: number)
        shares += cases[hosts.own_share(6)]
    assert shares == cases


def test_updates_are_counted_over_all_stages(monkeypatch):
    """jax names the update after which all end: it has to come yet in every process."""
    asked = []
    monkeypatch.setattr(
        hosts.multihost_utils,
        "reached_preemption_sync_point",
        lambda number: asked.append(number) or len(asked) == 5,
    )
    one, other = hosts.SharedStop(), hosts.SharedStop()
    heard = [stop.after_update() for stop in (one, one, one, other, other)]
    assert heard == [0, 0, 0, 0, 15]
    assert asked == [*range(asked[0], asked[0] + 5)]
