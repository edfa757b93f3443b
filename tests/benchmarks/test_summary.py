import json
from dataclasses import astuple

import pytest

from adn_jax.benchmarks.job import ObservedMemory
from adn_jax.benchmarks.record import (
    compare_with_peers,
    summarise_systems,
    summary_json,
)
from adn_jax.models.cost import step_bytes, step_flops
from tests.benchmarks.records import RECIPE, full_record, ours, record, result, torch


def test_rounds_are_pooled():
    jit, eager = summarise_systems(full_record())
    assert jit.calls == 4
    assert astuple(jit.step) == pytest.approx((0.275, 0.35, 0.4))
    assert jit.volumes_a_second == pytest.approx(2 / 0.35)
    assert (jit.compile_cold_s, jit.compile_warm_s) == (10.0, 2.0)
    assert jit.flops == pytest.approx(step_flops(RECIPE, "joint", 2) / 0.35)
    assert jit.peak_share == pytest.approx(jit.flops / 2e11)
    traffic = step_bytes(RECIPE, "joint", 2)
    assert jit.copy_share == pytest.approx(traffic / 0.35 / 3e10)
    assert eager.step.median == pytest.approx(0.65)
    assert eager.memory == ObservedMemory(5 * 10**8, 4 * 10**9, 5 * 10**8)
    assert (eager.first_s, eager.first_warm_s) == (7.0, 6.0)
    assert (eager.compile_cold_s, eager.compile_warm_s) == (None, None)


def test_one_round_has_no_warm_compilation():
    (line,) = summarise_systems(record(result(ours(0.2, pipelined_s=0.1))))
    assert (line.compile_warm_s, line.first_warm_s) == (None, None)
    assert line.pipelined_s == 0.1


def test_the_fastest_peer_comes_first():
    lines = summarise_systems(
        record(
            result(ours(1.0)),
            result(torch(4.0), form="eager"),
            result(torch(2.0, peak=10**9), form="compiled"),
            result(torch(3.0), form="eager", what="inference"),
        )
    )
    fastest, slowest = compare_with_peers(lines)
    assert (fastest.form, fastest.time, fastest.memory) == ("compiled", 0.5, 2.0)
    assert (slowest.form, slowest.time, slowest.memory) == ("eager", 0.25, 0.5)


def test_a_summary_is_json():
    content = json.loads(json.dumps(summary_json(full_record()), allow_nan=False))
    assert content["summary"][0]["step"]["median"] == pytest.approx(0.35)
    assert content["comparisons"][0]["form"] == "eager"
