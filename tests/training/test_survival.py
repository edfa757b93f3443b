"""The real `train.py`, killed at several moments, ends as an undisturbed one does."""

import random
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
    moments = [
        lambda: (run / "config.json").exists(),
        lambda: is_saving(run, "align"),
        lambda: is_saving(run, "joint"),
    ]
    for moment in moments:
        process = start_training(run)
        wait_for(moment, process)
        time.sleep(random.Random(0).uniform(0, 0.02))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    for _ in ("continues", "has nothing left to do"):
        process = start_training(run)
        output, _ = process.communicate()
        assert process.returncode == 0, output
        assert f"python evaluate.py {run}" in output.replace("\n", "")
        assert_same_run(whole_run, run)


@pytest.mark.slow
def test_sigterm_saves_and_the_same_command_continues(
    whole_run, start_training, tmp_path
):
    run = tmp_path / "stopped"
    process = start_training(run)
    wait_for(lambda: has_line(run, "align", 2), process)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM, output
    assert "the same command continues" in output
    second = start_training(run)
    output, _ = second.communicate()
    assert second.returncode == 0, output
    assert_same_run(whole_run, run)
