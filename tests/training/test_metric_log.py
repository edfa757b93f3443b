import json
import subprocess
import sys

import pytest

from adn_jax.training.metric_log import open_logbook, read_metrics


def write(run, stage, start, steps):
    with open_logbook(run, stage, start, steps=9) as log:
        for step in steps:
            log.write(step, "train", {"loss": 1 / step})
        log.show(steps[-1], {"loss": 0.5})
        log.say(f"said [at] {steps[-1]}")
        log.sync()


def test_lines_are_json_with_stage_step_and_split(tmp_path):
    write(tmp_path, "align", 0, [1, 2])
    first = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert first == {"stage": "align", "step": 1, "split": "train", "loss": 1.0}


def test_resume_drops_later_lines_of_its_stage_alone(tmp_path):
    write(tmp_path, "align", 0, [1, 2, 3])
    write(tmp_path, "joint", 0, [1, 2, 3])
    write(tmp_path, "joint", 1, [2])
    found = [(line["stage"], line["step"]) for line in read_metrics(tmp_path)]
    assert found == [
        ("align", 1),
        ("align", 2),
        ("align", 3),
        ("joint", 1),
        ("joint", 2),
    ]


@pytest.mark.parametrize("broken", ['{"stage": "align", "st', "3", '{"a": 1}'])
def test_a_line_that_a_kill_cut_short_goes(tmp_path, broken):
    write(tmp_path, "align", 0, [1])
    path = tmp_path / "metrics.jsonl"
    whole = path.read_text()
    path.write_text(whole + broken)
    assert len(read_metrics(tmp_path)) == 1
    write(tmp_path, "align", 1, [2])
    assert path.read_text().startswith(whole)
    assert len(read_metrics(tmp_path)) == 2


def test_what_is_said_is_printed_as_it_is(tmp_path, capsys):
    write(tmp_path, "align", 0, [1])
    assert "said [at] 1" in capsys.readouterr().out


def test_numbers_that_json_has_no_word_for_are_refused(tmp_path):
    with (
        pytest.raises(ValueError, match="Out of range"),
        open_logbook(tmp_path, "align", 0, 1) as log,
    ):
        log.write(1, "train", {"loss": float("nan")})


def test_tensorboard_has_the_same_values(tmp_path):
    write(tmp_path, "align", 0, [1, 2])
    (file,) = (tmp_path / "tensorboard" / "align").iterdir()
    assert b"train/loss" in file.read_bytes()


def test_predicting_and_evaluating_do_without_tensorboardx():
    """It would bring PyTorch along where that is installed."""
    program = (
        "import sys, adn_jax.evaluation.evaluate, adn_jax.inference.predict; "
        "print({'tensorboardX', 'torch'} & sys.modules.keys())"
    )
    said = subprocess.check_output([sys.executable, "-c", program], text=True)
    assert said == "set()\n"
