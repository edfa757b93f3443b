from pathlib import Path

import pytest
from rich.console import Console

from adn_jax.cli import evaluate as module
from adn_jax.cli.main import main
from adn_jax.errors import UserError
from adn_jax.evaluation.evaluate import Evaluation
from adn_jax.training.runs import BUNDLED

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
        "threshold": 0.5,
        "empty": {"label": 0, "prediction": 0, "both": 0, "decided": 0},
        **dict.fromkeys(scores, STATISTICS),
        "grids": {"prepared": {"dice": STATISTICS, "empty": {"label_lost": 2}}},
        "midline_not_found": 0,
        "alignment_error_deg": {**ERROR, "network_alone": {"median": 4.25}},
        "disentanglement": {
            "auroc": STATISTICS,
            "auroc_asymmetry": NONE,
            "mass_share": STATISTICS,
            "mass_share_asymmetry": STATISTICS,
        },
        "calibration": {"ece": 0.0123, "ece_near": 0.0789, "brier": 0.0456},
        "uncertainty": None,
        **more,
    }


def printed(table):
    console = Console(width=120)
    with console.capture() as capture:
        console.print(table)
    return " ".join(capture.get().split())


@pytest.fixture(autouse=True)
def no_run_is_read(monkeypatch):
    monkeypatch.setattr(module, "spread_scans", lambda _: None)


def test_arguments_reach_the_evaluation(monkeypatch, tmp_path, capsys):
    calls, asked = [], []

    def evaluate_run(*arguments):
        *first, ensemble, tta, threshold, out, least, ppv = arguments
        assert least == (3.0 if out else None)
        assert ppv == (0.6 if out else None)
        assert out == (Path("O") if len(calls) == 4 else None)
        places = " ".join(map(str, ensemble)) or "()"
        calls.append((*map(str, first), places))
        asked.append((tta, threshold))
        return Evaluation(summary(), tmp_path / "evaluation" / "test")

    monkeypatch.setattr(module, "evaluate_run", evaluate_run)
    main(["evaluate", "RUN"])
    main(["evaluate", "RUN", "--split", "train", "--data", "D", "--empty", "leave_out"])
    main(["evaluate", "RUN", "--samples", "20"])
    main(["evaluate", "RUN", "--ensemble", "RUN2", "RUN3"])
    assert calls == [
        ("RUN", "None", "test", "penalise", "0", "()"),
        ("RUN", "D", "train", "leave_out", "0", "()"),
        ("RUN", "None", "test", "penalise", "20", "()"),
        ("RUN", "None", "test", "penalise", "0", "RUN2 RUN3"),
    ]
    assert asked == [({}, "recipe")] * 4
    both = ["--tta.mirrored", "--tta.copies", "4"]
    main(["evaluate", "RUN", *both, "--threshold", "auto", "--out", "O",
          "--least-lesion-ml", "3", "--least-ppv", "0.6"])  # fmt: skip
    main(["evaluate", "RUN", "--tta.mirrored"])
    main(["evaluate", "RUN", "--tta.no-mirrored", "--tta.copies=0"])
    main(["evaluate", "RUN", "--tta.turn-deg", "5"])
    assert asked[4:] == [
        ({"mirrored": True, "copies": 4}, "auto"),
        ({"mirrored": True}, "recipe"),
        ({"mirrored": False, "copies": 0}, "recipe"),
        ({"turn_deg": 5.0}, "recipe"),
    ]
    main(["evaluate", "--model", "bundled", "--data", "D"])
    assert calls[-1][:2] == (str(BUNDLED), "D")
    assert f"report: {tmp_path}/evaluation/test/report.html" in capsys.readouterr().out


def test_former_options_are_read_and_the_present_ones_told(
    monkeypatch, tmp_path, capsys
):
    asked = []

    def evaluate_run(*arguments):
        asked.append(arguments[-5])
        return Evaluation(summary(), tmp_path)

    monkeypatch.setattr(module, "evaluate_run", evaluate_run)
    main(["evaluate", "RUN", "--mirrored", "--poses", "4"])
    main(["evaluate", "RUN", "--mirrored"])
    main(["evaluate", "RUN", "--no-averaging"])
    main(["evaluate", "RUN", "--poses=2"])
    assert asked == [
        {"mirrored": True, "copies": 4},
        {"mirrored": True},
        {"mirrored": False, "copies": 0},
        {"copies": 2},
    ]
    said = capsys.readouterr().err
    assert "adn: --mirrored is now called --tta.mirrored.\n" in said
    assert "adn: --poses is now called --tta.copies.\n" in said
    assert (
        "adn: --no-averaging is now called --tta.no-mirrored --tta.copies=0.\n" in said
    )


def test_headline_shows_scores_and_what_stands_beside_them():
    text = printed(module.headline(summary()))
    for expected in (
        "tiny, test: 9 cases, native grid",
        "0.712",
        "0.600 to 0.800",
        "network alone 4.25",
        "p95 2.50",
        "of A –",
        "label lost in 2 cases",
    ):
        assert expected in text


def test_headline_says_how_many_scores_come_from_the_rule_for_empty_masks():
    assert "by rule" not in printed(module.headline(summary()))
    others = {"dice_of_others": {"mean": 0.61}, "hd95_mm_of_others": {"mean": 12.34}}
    empty = {"label": 0, "prediction": 1, "both": 2, "decided": 3, **others}
    assert module.empty_row(empty, 9) == (
        *("  by rule", "3 of 9", "empty: prediction 1, both 2", ""),
        "the others 0.610, 12.3 mm",
    )
    empty |= {
        "both": 8,
        "decided": 9,
        "dice_of_others": NONE,
        "hd95_mm_of_others": NONE,
    }
    text = printed(module.headline(summary(empty=empty)))
    assert "9 of 9" in text
    assert "the others –, – mm" in text


def test_headline_says_what_is_not_over_all_cases():
    text = printed(module.headline(summary()))
    assert "over" not in text
    assert "none found" not in text
    few = {**STATISTICS, "n": 6}
    parts = {**summary()["disentanglement"], "auroc": few}
    error = {**ERROR, "n": 8, "network_alone": {"median": 4.25}}
    text = printed(
        module.headline(
            summary(
                disentanglement=parts, alignment_error_deg=error, midline_not_found=1
            )
        )
    )
    assert "AUROC of P over 6 cases" in text
    assert "share of min(P, A) │" in text
    assert "mid-line error ° over 8 cases" in text
    assert "network alone 4.25; none found in 1 of 9" in text


def test_headline_without_truth():
    text = printed(
        module.headline(summary(alignment_error_deg=None, disentanglement=None))
    )
    assert "Dice" in text
    assert "AUROC" not in text
    assert "mid-line" not in text


def test_headline_shows_calibration_and_uncertainty():
    uncertainty = {"error_auroc": STATISTICS, "false_lesion_auroc": 0.654}
    uncertainty |= {"false_lesions": 4, "lesions": 17}
    text = printed(module.headline(summary(uncertainty=uncertainty)))
    assert "near lesions 0.0789" in text
    assert "Brier 0.0456" in text
    assert "false lesions 0.654 (4 of 17)" in text
    assert "uncertainty" not in printed(module.headline(summary()))


def test_chosen_thresholds_are_printed(tmp_path, capsys):
    threshold = {"general": 0.35, "in_words": "0.35, below 10 mL 0.20 (chosen)"}
    module.print_evaluation(Evaluation(summary(threshold=threshold), tmp_path))
    assert "threshold 0.35, below 10 mL 0.20 (chosen)" in capsys.readouterr().out


def test_brackets_of_a_name_are_printed(tmp_path, capsys):
    folder = tmp_path / "adn[v2]" / "[b]"
    named = summary(recipe="adn[/b]", threshold={"in_words": "0.35 [i]"})
    module.print_evaluation(Evaluation(named, folder))
    said = capsys.readouterr().out
    for words in (f"report: {folder}", "threshold 0.35 [i]", "adn[/b], test"):
        assert words in said


def test_mistakes_end_with_code_2(monkeypatch, capsys):
    def evaluate_run(*_):
        raise UserError("there is no run; train one.")

    monkeypatch.setattr(module, "evaluate_run", evaluate_run)
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", "RUN"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == "adn: there is no run; train one.\n"
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", "RUN", "--model", "bundled"])
    assert stop.value.code == 2
    assert "are two runs; give one of them" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", "RUN", "--empty", "ignore"])
    assert stop.value.code == 2
