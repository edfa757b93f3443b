import pytest
from rich.console import Console

from adn_jax.cli import evaluate as module
from adn_jax.cli.main import main
from adn_jax.errors import UserError
from adn_jax.evaluation.evaluate import Evaluation

STATISTICS = {"mean": 0.7123, "median": 0.75, "std": 0.1, "ci95": [0.6, 0.8], "n": 9}
NONE = {"mean": None, "median": None, "std": None, "ci95": None, "n": 0}
ERROR = {"mean": 1.0, "median": 0.9, "p95": 2.5, "max": 3.0, "n": 9}


def summary(**more):
    scores = ("dice", "hd95_mm", "hd95_pooled_mm", "lesion_f1")
    return {
        "recipe": "tiny",
        "split": "test",
        "cases": 9,
        "grid": "native",
        **dict.fromkeys(scores, STATISTICS),
        "grids": {"prepared": {"dice": STATISTICS}},
        "alignment_error_deg": {**ERROR, "network_alone": {"median": 4.25}},
        "disentanglement": {
            "auroc": STATISTICS,
            "auroc_asymmetry": NONE,
            "mass_share": STATISTICS,
            "mass_share_asymmetry": STATISTICS,
        },
        **more,
    }


def printed(table):
    console = Console(width=120)
    with console.capture() as capture:
        console.print(table)
    return " ".join(capture.get().split())


def test_arguments_reach_the_evaluation(monkeypatch, tmp_path, capsys):
    calls = []

    def evaluate_run(*arguments):
        calls.append(tuple(map(str, arguments)))
        return Evaluation(summary(), tmp_path / "evaluation" / "test")

    monkeypatch.setattr(module, "evaluate_run", evaluate_run)
    main(["evaluate", "RUN"])
    main(["evaluate", "RUN", "--split", "train", "--data", "D", "--empty", "leave_out"])
    assert calls == [
        ("RUN", "None", "test", "penalise"),
        ("RUN", "D", "train", "leave_out"),
    ]
    assert f"report: {tmp_path}/evaluation/test/report.html" in capsys.readouterr().out


def test_headline_shows_scores_and_what_stands_beside_them():
    text = printed(module.headline(summary()))
    for expected in (
        "tiny, test: 9 cases, native grid",
        "0.712",
        "0.600 to 0.800",
        "network alone 4.25",
        "p95 2.50",
        "of A –",
    ):
        assert expected in text


def test_headline_without_truth():
    text = printed(
        module.headline(summary(alignment_error_deg=None, disentanglement=None))
    )
    assert "Dice" in text
    assert "AUROC" not in text
    assert "mid-line" not in text


def test_mistakes_end_with_code_2(monkeypatch, capsys):
    def evaluate_run(*_):
        raise UserError("there is no run; train one.")

    monkeypatch.setattr(module, "evaluate_run", evaluate_run)
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", "RUN"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == "adn: there is no run; train one.\n"
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", "RUN", "--empty", "ignore"])
    assert stop.value.code == 2
