import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from adn_jax.comparison import work
from adn_jax.comparison.work import (
    RunJob,
    complete,
    do_runs,
    is_scored,
    missing_sentences,
    name_failures,
    plan_runs,
    prepared_data,
    time_left,
)
from adn_jax.config import ReadSettings
from adn_jax.errors import UserError
from adn_jax.prepare import dataset
from tests.comparison.made_up import LEVELS, made_up_rows, make_system, write_scored
from tests.training.tiny import tiny_recipe


@pytest.fixture
def job(data, tmp_path):
    return RunJob(data, "test", "full", tmp_path / "logs")


def change_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def children(monkeypatch, data, runs):
    """What each child is asked; a training makes the run, unless it is to fail."""
    asked = []
    by_folder = {str(run.folder): run for run in runs}

    def run_child(arguments, log):
        asked.append((arguments[0], log.stem))
        if arguments[0] == "train":
            run = by_folder[arguments[arguments.index("--run") + 1]]
            if run.system.name == "unet":
                return "it broke."
            write_scored(run, data, made_up_rows(LEVELS[run.system.name], run.seed))
        return ""

    monkeypatch.setattr(work, "run_child", run_child)
    return asked


def test_finished_runs_are_not_done_again(runs, job, children, capsys):
    assert do_runs(runs, job) == {}
    assert children == []
    assert capsys.readouterr().out.strip() == ""


def test_one_failing_run_does_not_stop_the_others(runs, job, children, capsys):
    for run in runs[:3]:
        shutil.rmtree(run.folder)
    failures = do_runs(runs, job)
    assert failures == {"unet-seed0": "it broke."}
    assert [name for verb, name in children if verb == "evaluate"] == [
        "resunet_aligned-seed0",
        "adn-seed0",
    ]
    said = capsys.readouterr().out
    assert "1 of 3: unet-seed0 failed: it broke." in said
    assert "2 of 3: resunet_aligned-seed0 trained and scored (about 1 min left)" in said
    assert missing_sentences(runs, runs[1:], failures) == ["unet-seed0: it broke."]
    name_failures(failures, job)
    assert capsys.readouterr().err == "adn: unet-seed0 is missing: it broke.\n"


def test_scores_are_made_again_where_they_are_old(runs, job, children):
    summary = runs[1].folder / "evaluation" / "test" / "summary.json"
    assert is_scored(runs[1], job)
    for old in (
        {"format": None},
        {"format": 3},
        {"data": "/elsewhere"},
        {"steps": {"align": 2, "joint": 1}},
        {"files_sha256": "of other labels"},
        {"cases": 3},
        {"empty": {"rule": "other"}},
        {"threshold": {"large": 0.3, "small": 0.2}},
        {"tta": [{"mirrored": True}]},
        {"least_lesion_ml": 1.0},
    ):
        before = summary.read_text()
        change_json(summary, **old)
        assert not is_scored(runs[1], job)
        summary.write_text(before)
    change_json(runs[1].folder / "stages.json", joint={"best_step": 4})
    assert do_runs(runs, job) == {}
    assert children == [("evaluate", "resunet_aligned-seed0")]


def test_a_run_on_other_labels_is_not_taken(runs, job):
    assert work.stranger(runs[0], job) == ""
    change_json(runs[0].folder / "config.json", learnt_sha256="before")
    assert "trained with other scans or labels than" in work.stranger(runs[0], job)


def test_a_run_on_other_cases_is_not_taken(runs, job, children):
    change_json(runs[0].folder / "config.json", cases_sha256="other")
    with pytest.raises(UserError, match=r"unet-seed0: .*other cases or splits than"):
        complete(runs, job)
    assert children == []


def test_t_is_not_taken_from_a_stranger(runs, job, monkeypatch):
    """As where a peer's config file changed after the command had begun."""
    asked = []
    monkeypatch.setattr(work, "run_child", lambda given, _: asked.append(given) or "no")
    shutil.rmtree(runs[1].folder)
    do_runs(runs[:2], job)
    change_json(runs[0].folder / "config.json", cases_sha256="other")
    do_runs(runs[:2], job)
    before, after = asked
    assert before[before.index("--align-run") + 1] == str(runs[0].folder)
    assert "--align-run" not in after


@pytest.mark.usefixtures("runs")
def test_a_run_of_another_recipe_is_not_taken(job, children, tmp_path):
    changed = make_system("adn", threshold=0.4)
    (other,) = plan_runs([changed], (0,), tmp_path / "out" / "runs")
    with pytest.raises(UserError) as error:
        complete([other], job)
    said = "was trained with other settings (threshold 0.5 -> 0.4); choose another OUT"
    assert said in str(error.value)
    assert children == []


def test_a_system_that_cannot_be_trained_is_named_before_any_is(runs, job, monkeypatch):
    """Each system is tried once, whatever its seeds; what is finished is not."""
    for run in runs[1:3] + runs[4:]:
        shutil.rmtree(run.folder)
    asked = []

    def run_child(arguments, _):
        run = arguments[arguments.index("--run") + 1]
        asked.append((arguments[0], Path(run).name, "--dry-run" in arguments))
        bad = "adn" in Path(run).name
        return "set --joint.batch 4 or --no-soft-labels." if bad else ""

    monkeypatch.setattr(work, "run_child", run_child)
    with pytest.raises(UserError) as error:
        complete(runs, replace(job, by_pairs=True))
    assert str(error.value) == (
        "adn-seed0 cannot be trained: give --set joint.batch=4 or --set "
        "soft_labels=false."
    )
    assert asked == [
        ("train", "resunet_aligned-seed0", True),
        ("train", "adn-seed0", True),
    ]


def test_raw_data_is_prepared_into_the_comparison(data, tmp_path, monkeypatch):
    settings = tiny_recipe().system.prepare
    assert prepared_data(data, tmp_path, settings, None).folder == data
    with pytest.raises(UserError, match="--hu-range is of raw data"):
        prepared_data(data, tmp_path, settings, None, (0.0, 80.0))
    with pytest.raises(UserError, match="--workers is of raw data"):
        prepared_data(data, tmp_path, settings, 2)
    asked = []

    def prepare_dataset(*arguments, learnt_by):
        assert learnt_by == ""
        asked.append(arguments)
        return prepared_data(data, tmp_path, settings, None)

    monkeypatch.setattr(dataset, "prepare_dataset", prepare_dataset)
    prepared_data(tmp_path / "raw", tmp_path, settings, 2, (-17.0, 80.0))
    reading = ReadSettings(
        aisd_unpack=str(tmp_path / "unpacked"), hu_range=(-17.0, 80.0)
    )
    assert asked == [(tmp_path / "raw", tmp_path / "prepared", settings, 2, reading)]


def test_missing_raw_data_is_a_mistake(tmp_path):
    with pytest.raises(UserError):
        prepared_data(tmp_path / "no", tmp_path, tiny_recipe().system.prepare, 1)


def test_time_left():
    assert time_left([], 3) == time_left([60.0], 0) == ""
    assert time_left([60.0, 180.0], 3) == "(about 6 min left)"
    assert time_left([7200.0], 3) == "(about 6.0 h left)"
