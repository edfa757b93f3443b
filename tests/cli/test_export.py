from pathlib import Path

import pytest

from adn_jax.cli import export as module
from adn_jax.cli.main import main
from adn_jax.prepare.export import Export

SPLITS = {"train": ("a", "b"), "validation": ("c",), "test": ("d",)}


@pytest.fixture
def calls(monkeypatch):
    """Arguments of each call; the export itself is made up."""
    made = []

    def called(*arguments):
        made.append(arguments)
        folder = Path("out") / "Dataset501_ADN"
        return Export(
            folder, SPLITS, {}, {"e": "it has no lesion label to learn from."}
        )

    monkeypatch.setattr(module, "export_dataset", called)
    return made


def test_arguments_reach_the_export(calls, capsys):
    main(["export", "made", "out", "--raw", "scans", "--layout", "bids"])
    main(["export", "made", "out", "--grid", "prepared", "--dataset-id", "7"])
    first, second = calls
    assert first[:6] == (Path("made"), Path("out"), Path("scans"), None, 501, "ADN")
    assert first[6].layout == "bids"
    assert second[2:5] == (None, "prepared", 7)
    said = capsys.readouterr()
    assert "exported cases (2 train, 1 validation, 1 test) are in out/Data" in said.out
    assert "nnUNet_preprocessed/Dataset501_ADN: its fold 0 is this split" in said.out
    assert "adn: e is left out: it has no lesion label to learn from." in said.err


def test_a_failed_case_is_exit_code_2(monkeypatch, capsys):
    failed = Export(Path("out"), {**SPLITS, "validation": ()}, {"b": "it broke."}, {})
    monkeypatch.setattr(module, "export_dataset", lambda *_: failed)
    with pytest.raises(SystemExit) as end:
        main(["export", "made", "out"])
    assert end.value.code == 2
    said = capsys.readouterr()
    assert "adn: b is left out: it broke." in said.err
    assert "splits_final" not in said.out


def test_a_mistake_is_one_sentence_and_exit_code_2(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["export", str(tmp_path), "out"])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"adn: {tmp_path} is no prepared data set")
    assert said.count("\n") == 1
