"""The real `train.py`, killed at several moments, ends as an undisturbed one does."""

import signal
import time

import jax
import numpy as np
import pytest

from adn_jax.runtime.logbook import read_metrics
from adn_jax.training.runs import load_run, read_finished


def wait_for(happened, process, patience=120.0):
    """Return as soon as `happened()` holds or the process has ended."""
    end = time.monotonic() + patience
    while process.poll() is None and not happened():
        assert time.monotonic() < end, "the training makes no progress"
        time.sleep(0.02)


def has_line(run, stage, step):
    """Whether metrics.jsonl has a line of the stage from that step on."""
    path = run / "metrics.jsonl"
    return path.exists() and any(
        line["stage"] == stage and line["step"] >= step for line in read_metrics(run)
    )


def is_saving(run, stage):
    """Whether a save of the stage is under way."""
    return any((run / "checkpoints" / stage).glob("*tmp*"))


def assert_same_run(one, other):
    assert (one / "metrics.jsonl").read_text() == (other / "metrics.jsonl").read_text()
    assert read_finished(one) == read_finished(other)
    first, second = load_run(one), load_run(other)
    leaves = zip(
        jax.tree.leaves(first.params), jax.tree.leaves(second.params), strict=True
    )
    for a, b in leaves:
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_killed_training_ends_bit_equal(whole_run, start_training, tmp_path):
    run = tmp_path / "killed"
    blows = [
        (signal.SIGKILL, lambda: is_saving(run, "align")),
        (signal.SIGTERM, lambda: has_line(run, "joint", 1)),
        (signal.SIGKILL, lambda: is_saving(run, "joint")),
    ]
    for number, moment in blows:
        process = start_training(run)
        wait_for(moment, process)
        process.send_signal(number)
        output, _ = process.communicate()
        if number == signal.SIGTERM:
            assert process.returncode == 128 + signal.SIGTERM, output
            assert "the same command continues" in output
            assert "joint" not in read_finished(run)
        else:
            assert process.returncode == -signal.SIGKILL, output
    process = start_training(run)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert f"python evaluate.py {run}" in output.replace("\n", "")
    assert_same_run(whole_run, run)
