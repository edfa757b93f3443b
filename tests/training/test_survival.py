"""The real `train.py`, killed at several moments, ends as an undisturbed one does."""

import os
import random
import shutil
import signal
import subprocess
import time
from contextlib import suppress

import jax
import numpy as np
import pytest

from adn_jax.training.metric_log import read_metrics
from adn_jax.training.runs import load_run, read_finished
from tests.hold import wait_until
from tests.training.tiny import small_recipe


def held(hold, moment, stage, step):
    """A program like `train.py` that waits there."""
    return "-m", "tests.training.held", hold.folder, moment, stage, step


def last_step(run, stage):
    """Newest step of a stage in metrics.jsonl; 0: none."""
    path = run / "metrics.jsonl"
    lines = read_metrics(run) if path.exists() else []
    return max((line["step"] for line in lines if line["stage"] == stage), default=0)


def is_saving(run, stage):
    """Whether a save of the stage is under way."""
    return any((run / "checkpoints" / stage).glob("*tmp*"))


def move_clock_back(run):
    """Make all that was written so far date from tomorrow."""
    tomorrow = time.time() + 86_400
    for path in run.rglob("*"):
        os.utime(path, (tomorrow, tomorrow))


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
def test_killed_training_ends_bit_equal(whole_run, start_training, new_hold, tmp_path):
    run = tmp_path / "killed"
    blows = [
        (signal.SIGKILL, "saving", "align"),
        (signal.SIGTERM, "logged", "joint"),
        (signal.SIGKILL, "saving", "joint"),
    ]
    for number, moment, stage in blows:
        hold = new_hold()
        process = start_training(run, program=held(hold, moment, stage, 1))
        hold.until_arrived(process)
        assert is_saving(run, stage) == (moment == "saving")
        process.send_signal(number)
        hold.release()
        output, _ = process.communicate()
        if number == signal.SIGTERM:
            assert process.returncode == 128 + signal.SIGTERM, output
            assert "the same command continues" in output
            assert "joint" not in read_finished(run)
            move_clock_back(run)
        else:
            assert process.returncode == -signal.SIGKILL, output
    process = start_training(run)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert f"adn evaluate {run}" in output.replace("\n", "")
    assert_same_run(whole_run, run)


INTERVAL = small_recipe().joint.validate_every
"""Steps between two saves."""

KILLS = int(os.environ.get("ADN_KILLS", "2"))
"""How often a training is killed at random; ADN_KILLS=30 for a thorough look."""


def checkpoints_of(run):
    """Stage -> step of its newest whole checkpoint, and the finished stages."""
    folders = run.glob("checkpoints/*/*")
    steps = [(f.parent.name, int(f.name)) for f in folders if f.name.isdecimal()]
    return dict(sorted(steps)), set(read_finished(run))


@pytest.mark.slow
def test_killed_at_random_moments_nothing_is_lost(whole_run, start_training, tmp_path):
    run, moments = tmp_path / "killed", random.Random(7)
    duration = float((whole_run.parent / "seconds").read_text())
    saved, finished = {}, set()
    killed = 0
    while killed < KILLS:
        process = start_training(run)
        try:
            process.communicate(timeout=moments.uniform(0.2, 1.0) * duration)
        except subprocess.TimeoutExpired:
            process.kill()
        output, _ = process.communicate()
        assert process.returncode in {0, -signal.SIGKILL}, output
        killed += process.returncode != 0
        now_saved, now_finished = checkpoints_of(run)
        for stage in {"align", "joint"} - now_finished:
            repeated = last_step(run, stage) - now_saved.get(stage, 0)
            assert (
                repeated <= 2 * INTERVAL
            )  # the second is under way while one is saved
        assert all(now_saved[stage] >= step for stage, step in saved.items())
        assert now_finished >= finished
        saved, finished = now_saved, now_finished
        if "joint" in finished:  # begin again: every kill has to meet a training
            assert_same_run(whole_run, run)
            shutil.rmtree(run)
            saved, finished = {}, set()
    output, _ = start_training(run).communicate()
    assert_same_run(whole_run, run)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of eight megabytes; skips where none can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no disk can be mounted here: {error}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def fill(disk):
    """Leave no room on a disk; returns what takes it."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass
    return filler


@pytest.mark.slow
def test_a_full_disk_ends_the_training_and_loses_nothing(
    whole_run, start_training, new_hold, small_disk
):
    run, hold = small_disk / "run", new_hold()
    process = start_training(run, program=held(hold, "logged", "joint", INTERVAL + 1))
    hold.until_arrived(process)
    wait_until(lambda: "joint" in checkpoints_of(run)[0], process)
    filler = fill(small_disk)
    hold.release()
    output, _ = process.communicate()
    assert process.returncode == 2, output
    assert "Traceback" not in output
    assert "free space" in output
    saved, finished = checkpoints_of(run)
    filler.unlink()
    process = start_training(run)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert (set(saved), finished) == ({"align", "joint"}, {"align"})
    assert_same_run(whole_run, run)
