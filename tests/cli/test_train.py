import os
import signal
from pathlib import Path

import pytest

from adn_jax.cli import train
from adn_jax.cli.main import main

CONFIG = str(Path(__file__).parents[1] / "training" / "tiny_config.py")


@pytest.fixture
def calls(monkeypatch):
    made = []

    def called(*arguments):
        made.append(arguments)
        return 0

    monkeypatch.setattr(train, "train", called)
    return made


def test_arguments_reach_the_training(calls, capsys):
    train.main(
        [CONFIG, "--data", "heads", "--run", "there", "--workers", "2", "--seed", "5"]
    )
    ((recipe, data, run, workers, tissue_run, space),) = calls
    assert (recipe.name, recipe.seed) == ("tiny", 5)
    assert (data, run, workers) == (Path("heads"), Path("there"), 2)
    assert (tissue_run, space) == (None, 1)
    assert "python evaluate.py there" in capsys.readouterr().out


def test_tissue_net_of_another_run(calls):
    given = ["--data", "heads", "--run", "there", "--tissue-run", "phantoms"]
    train.main([CONFIG, *given])
    assert calls[0][4] == Path("phantoms")


def test_devices_that_share_each_case(calls):
    train.main([CONFIG, "--data", "heads", "--run", "there", "--space", "2"])
    assert calls[0][5] == 2


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
