"""The phantom verb, from its arguments to its files."""

import json
from dataclasses import replace

import pytest

from adn_jax.cli import phantom
from adn_jax.cli.main import main
from adn_jax.phantom.settings import EASY, HARD


@pytest.fixture
def small(monkeypatch):
    presets = {
        name: replace(preset, in_plane=48, slice_mm=(9.0, 10.0))
        for name, preset in (("easy", EASY), ("hard", HARD))
    }
    monkeypatch.setattr(phantom, "PRESETS", presets)


@pytest.mark.usefixtures("small")
def test_phantoms_are_made_and_announced(tmp_path, capsys):
    out = tmp_path / "heads"
    call = ["phantom", str(out), "--cases", "3", "--seed", "4", "--workers", "1"]
    main([*call, "--difficulty", "hard", "--validation", "1", "--test", "1"])
    assert sorted(path.name for path in out.iterdir()) == [
        "phantom_0000",
        "phantom_0001",
        "phantom_0002",
        "phantoms.json",
        "splits.json",
    ]
    assert json.loads((out / "phantoms.json").read_text())["seed"] == 4
    expected = "3 hard phantoms (seed 4; 1 train, 1 validation, 1 test) are in"
    assert expected in " ".join(capsys.readouterr().out.split())


def test_no_cases_is_one_sentence_and_code_2(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["phantom", str(tmp_path / "heads"), "--cases", "0"])
    assert stop.value.code == 2
    assert "0 cases with 0 for validation" in capsys.readouterr().err
    assert not (tmp_path / "heads").exists()


@pytest.mark.parametrize("option", [("--difficulty", "easy"), ("--workers", "2")])
def test_what_a_stream_has_not_is_refused(tmp_path, capsys, option):
    stream = ["--stream", "configs/bundled.py", *option]
    with pytest.raises(SystemExit) as stop:
        main(["phantom", str(tmp_path / "heads"), "--cases", "1", *stream])
    assert stop.value.code == 2
    assert f"{option[0]} is given with --stream" in capsys.readouterr().err
    assert not (tmp_path / "heads").exists()


def test_a_mistyped_option_is_code_2(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["phantom", str(tmp_path), "--cases", "1", "--difficulti", "hard"])
    assert stop.value.code == 2
    assert "--difficulty" in capsys.readouterr().err
