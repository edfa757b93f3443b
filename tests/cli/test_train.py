import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from adn_jax.cli import train
from adn_jax.cli.main import main
from adn_jax.config import ReadSettings
from adn_jax.config.recipe_file import load_recipe
from adn_jax.config.sizes import demo_size
from adn_jax.data.manifest import Fold
from tests.training.tiny import write_heads

CONFIG = str(Path(__file__).parents[1] / "training" / "tiny_config.py")


@pytest.fixture(autouse=True)
def no_page(monkeypatch):
    """There is no run to write one of."""
    monkeypatch.setattr(train.Run, "open", lambda folder: folder)
    monkeypatch.setattr("adn_jax.evaluation.index.write_index", lambda _: None)


@pytest.fixture
def calls(monkeypatch):
    made = []

    def called(*arguments):
        made.append(arguments)
        return 0

    monkeypatch.setattr(train, "train", called)
    return made


def test_arguments_reach_the_training(calls, capsys):
    given = ["--workers", "2", "--seed", "5", "--hu-range", "-17", "80"]
    train.main([CONFIG, "--data", "heads", "--run", "there", *given])
    ((recipe, data, run, workers, pretrained, space, fold, dry_run, reading),) = calls
    assert (recipe.name, recipe.seed) == ("tiny", 5)
    assert (data, run, workers) == (Path("heads"), Path("there"), 2)
    assert (pretrained, space, fold, dry_run) == ({}, 1, None, False)
    assert reading == ReadSettings(hu_range=(-17.0, 80.0))
    assert "adn evaluate there\n" in capsys.readouterr().out


def test_a_run_on_drawn_heads_names_no_cases_to_score(calls, capsys):
    train.main([CONFIG, "--run", "there"])
    assert calls[0][1] is None
    assert "adn evaluate there --data DIR\n" in capsys.readouterr().out


def test_a_dry_run_says_how_far_it_could_look(calls, tmp_path, capsys):
    write_heads(tmp_path / "data", train=1, validation=0)
    for data, said in ((tmp_path / "data", "training."), (tmp_path, "is prepared.")):
        train.main([CONFIG, "--data", str(data), "--run", "there", "--dry-run"])
        assert calls.pop()[7] is True
        out = capsys.readouterr().out
        assert out.startswith("Nothing stands in the way of this training")
        assert out.endswith(f"{said}\n")


def test_networks_of_other_runs(calls):
    given = ["--data", "heads", "--run", "there", "--tissue-run", "phantoms"]
    train.main([CONFIG, *given, "--align-run", "first"])
    assert calls[0][4] == {"align": Path("first"), "tissue": Path("phantoms")}


@pytest.mark.parametrize("given", [["--size", "demo"], ["--size=demo"]])
def test_a_recipe_at_demo_size(calls, given):
    resunet = str(Path(__file__).parents[2] / "configs" / "resunet.py")
    there = ["--data", "heads", "--run", "there", "--joint.batch", "4"]
    train.main([resunet, *given, *there])
    recipe = calls[0][0]
    assert recipe == replace(
        demo_size(load_recipe(Path(resunet))),
        joint=replace(recipe.joint, batch=4),
    )
    assert recipe.system.prepare.shape == (16, 64, 64)
    train.main([resunet, *there])
    assert calls[1][0].system.prepare.shape == (40, 256, 256)


def test_devices_that_share_each_case(calls):
    train.main([CONFIG, "--data", "heads", "--run", "there", "--spatial-shards", "2"])
    assert calls[0][5] == 2


def test_a_fold_of_the_cases(calls, capsys):
    there = [CONFIG, "--data", "heads", "--run", "there", "--fold"]
    train.main([*there, "0/5"])
    assert calls[0][6] == Fold(0, 5)
    with pytest.raises(SystemExit) as end:
        main(["train", *there, "5/5"])
    assert end.value.code == 2
    assert "the fold is '5/5'" in capsys.readouterr().err


def test_the_same_bits_are_demanded_of_gpus(calls, monkeypatch):
    chosen = "--xla_force_host_platform_device_count=2"
    monkeypatch.setenv("XLA_FLAGS", chosen)
    train.main([CONFIG, "--data", "heads", "--run", "there", "--deterministic"])
    assert os.environ["XLA_FLAGS"] == f"{chosen} --xla_gpu_deterministic_ops=true"
    assert len(calls) == 1


def test_a_signal_becomes_the_exit_code(monkeypatch, capsys):
    monkeypatch.setattr(train, "train", lambda *_: signal.SIGTERM)
    with pytest.raises(SystemExit) as end:
        train.main([CONFIG, "--data", "heads", "--run", "there"])
    assert end.value.code == 143
    assert "the same command continues" in capsys.readouterr().out


def test_missing_data_is_one_sentence_and_exit_code_2(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["train", CONFIG, "--data", str(tmp_path / "no"), "--run", str(tmp_path)])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("adn: the data folder")
    assert said.count("\n") == 1
