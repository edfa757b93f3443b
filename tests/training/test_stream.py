"""Training on drawn heads, by the real `train.py`, killed and not."""

import json
import signal

import pytest

from adn_jax.config import StreamSettings
from adn_jax.data.manifest import Fold
from adn_jax.errors import UserError
from adn_jax.training.metric_log import read_metrics
from adn_jax.training.runs import read_finished
from adn_jax.training.train import train
from tests.training.test_survival import assert_same_run, held
from tests.training.tiny import small_recipe, tiny_recipe

OPTIONS = ("--stream.validation-heads", "2")


@pytest.mark.slow
def test_a_killed_training_on_drawn_heads_ends_bit_equal(
    start_training, new_hold, tmp_path
):
    whole, run = tmp_path / "whole", tmp_path / "killed"
    process = start_training(whole, *OPTIONS, data=None)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    content = json.loads((whole / "config.json").read_text())
    assert content["data"] is None
    assert content["recipe"]["stream"]["validation_heads"] == 2
    hold = new_hold()
    program = held(hold, "logged", "joint", 3)
    process = start_training(run, *OPTIONS, data=None, program=program)
    hold.until_arrived(process)
    process.send_signal(signal.SIGKILL)
    hold.release()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert "joint" not in read_finished(run)
    process = start_training(run, *OPTIONS, data=None)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert_same_run(whole, run)


def test_a_training_is_judged_by_healthy_heads_too(tmp_path):
    run = tmp_path / "run"
    stream = StreamSettings(infarcts=(0.5, 0.5), validation_heads=8)
    recipe = small_recipe(score_healthy=True, stream=stream, threshold=0.99)
    assert train(recipe, None, run) == 0
    facts = read_finished(run)["joint"]
    lines = [
        line
        for line in read_metrics(run)
        if (line["stage"], line["split"]) == ("joint", "validation")
    ]
    scores = [line["score"] for line in lines]
    assert facts["score"] == max(scores)
    assert {"dice", "unmarked"} <= lines[-1].keys()
    assert all(line["dice"] < line["score"] < line["unmarked"] for line in lines)


def test_drawn_heads_have_no_folds(tmp_path):
    with pytest.raises(UserError, match=r"--fold is 0/5.*leave --fold out"):
        train(tiny_recipe(), None, tmp_path / "run", fold=Fold(0, 5))
    assert not (tmp_path / "run").exists()


def test_a_dry_run_needs_no_data(tmp_path):
    assert train(tiny_recipe(), None, tmp_path / "run", dry_run=True) == 0
    assert not (tmp_path / "run").exists()
