"""The real `train.py`, killed at several moments, ends where an undisturbed one does."""

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
        lambda: has_line(run, "joint", 1),
        lambda: is_saving(run, "joint"),
    ]
    for moment in moments:
        process = start_training(run)
        wait_for(moment, process)
        time.sleep(random.Random(0).uniform(0, 0.02))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    process = start_training(run)
    output, _ = process.communicate()
    assert process.returncode == 0, output
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


def test_finished_run_has_nothing_left_to_do(whole_run, start_training):
    before = (whole_run / "metrics.jsonl").read_text()
    process = start_training(whole_run)
    output, _ = process.communicate()
    assert process.returncode == 0
    assert f"python evaluate.py {whole_run}" in output.replace("\n", " ")
    assert (whole_run / "metrics.jsonl").read_text() == before


def test_second_training_in_one_folder_is_refused(start_training, tmp_path):
    run = tmp_path / "shared"
    first = start_training(run)
    wait_for(lambda: (run / "config.json").exists(), first)
    second = start_training(run)
    output, _ = second.communicate()
    first.kill()
    first.communicate()
    assert second.returncode == 2
    assert "another training is at work" in output.replace("\n", " ")
