"""Thresholds of runs, chosen on the cases that validated them."""

import json
from dataclasses import replace

import numpy as np
import pytest

from adn_jax.data.cases import read_case
from adn_jax.data.manifest import (
    Fold,
    read_manifest,
)
from adn_jax.errors import UserError
from adn_jax.evaluation import evaluate as module
from adn_jax.evaluation import thresholds as validation
from adn_jax.evaluation.case import evaluate_case
from adn_jax.evaluation.evaluate import evaluate_run
from adn_jax.evaluation.report import Pictures
from adn_jax.evaluation.source import find_data
from adn_jax.evaluation.thresholds import CANDIDATES
from adn_jax.inference.maps import Thresholds
from adn_jax.inference.system import load_system
from adn_jax.metrics.overlap import dice
from tests.evaluation.noted import note


@pytest.fixture(autouse=True)
def few_figures(monkeypatch):
    monkeypatch.setattr(module, "write_figures", lambda *_: Pictures({}, {}))


@pytest.fixture
def data(tiny_data, tmp_path):
    """The same cases, two of which validate."""
    folder = tmp_path / "data"
    folder.mkdir()
    for case in tiny_data.iterdir():
        (folder / case.name).symlink_to(case)
    (folder / "manifest.json").unlink()
    manifest = replace(read_manifest(tiny_data), folder=folder)
    splits = {"train": (), "validation": ("upright", "tilted"), "test": ("turned",)}
    splits["train"] = ("healthy",)
    replace(manifest, splits=splits).write()
    return folder


@pytest.fixture
def measured(monkeypatch):
    """Who was asked about which validation case."""
    asked = []
    original = validation.measure_case

    def measure_case(system, manifest, name):
        asked.append((system.names, name))
        return original(system, manifest, name)

    monkeypatch.setattr(validation, "measure_case", measure_case)
    return asked


def test_thresholds_are_chosen_among_all_lesions(tiny_run, data):
    note(tiny_run, data=str(data))
    every, none = (
        evaluate_run(tiny_run, threshold="auto", least_lesion_ml=least).summary
        for least in (0.0, 1e4)
    )
    assert none["predicted_ml"] != every["predicted_ml"]
    assert none["threshold"] == every["threshold"]


def test_thresholds_are_chosen_once_and_used(tiny_run, data, measured):
    note(tiny_run, data=str(data))
    plain = evaluate_run(tiny_run).summary
    assert plain["threshold"] == 0.5
    chosen = evaluate_run(tiny_run, threshold="auto")
    assert [name for _, name in measured] == ["upright", "tilted"]
    threshold = chosen.summary["threshold"]
    assert threshold["fixed"] == 0.5
    assert threshold["validation"]["grid"] == "native"
    assert threshold["validation"]["cases"] == 2
    curve = threshold["validation"]["dice"]
    assert max(curve) == curve[CANDIDATES.index(threshold["general"])]
    assert "a weak choice" in threshold["in_words"]
    assert threshold["in_words"] in (chosen.folder / "report.html").read_text()
    # Used on the test case.
    pair = Thresholds(threshold["general"], threshold["small"])
    system = replace(load_system(tiny_run), thresholds=pair)
    case = read_case(data / "turned")
    maps = system.infer(case).maps
    assert maps.threshold in {pair.general, pair.small}
    assert chosen.summary["grids"]["prepared"]["dice"]["mean"] == pytest.approx(
        dice(maps.prediction >= maps.threshold, case.lesion >= 0.5)
    )
    # Another call, and another rule for empty masks, need no new predictions.
    evaluate_run(tiny_run, threshold="auto", empty="leave_out")
    assert evaluate_run(tiny_run, threshold="auto").summary == chosen.summary
    assert len(measured) == 2
    assert evaluate_run(tiny_run).summary == plain
    seen = evaluate_run(tiny_run, split="validation", threshold="auto").summary
    assert "the scored cases are among them" in seen["threshold"]["in_words"]


def test_the_curve_is_dice_on_the_native_grid(tiny_run, data):
    """At the recipe's threshold it is the Dice of an ordinary evaluation."""
    note(tiny_run, data=str(data))
    plain = evaluate_run(tiny_run, split="validation").summary
    curve = evaluate_run(tiny_run, threshold="auto").summary["threshold"]["validation"]
    ours = curve["dice"][CANDIDATES.index(0.5)]
    assert ours == pytest.approx(plain["dice"]["mean"])


def test_folds_are_asked_about_their_own_cases(
    tiny_run, write_tiny_run, data, measured
):
    manifest = read_manifest(data)
    runs = [tiny_run, write_tiny_run("b", seed=1)]
    for index, run in enumerate(runs):
        digest = manifest.with_fold(Fold(index, 2)).digest
        note(run, data=str(data), fold=f"{index}/2", cases_sha256=digest)
    own = [
        find_data(load_system(run).model.run, None).splits["validation"] for run in runs
    ]
    assert sorted(own[0] + own[1]) == ["healthy", "tilted", "upright"]
    first = evaluate_run(runs[0], split="validation").summary
    assert first["cases"] == len(own[0])
    evaluate_run(runs[0], ensemble=runs[1:], threshold="auto")
    expected = [(("run",), name) for name in own[0]]
    assert measured == expected + [(("b",), name) for name in own[1]]
    with pytest.raises(UserError, match="have different folds"):
        evaluate_run(runs[0], split="validation", ensemble=runs[1:])


def test_members_that_share_their_cases_are_asked_together(
    tiny_run, twin_run, data, measured
):
    evaluate_run(tiny_run, data, ensemble=[twin_run], threshold="auto")
    assert [names for names, _ in measured] == [("run", "twin")] * 2
    folder = tiny_run / "evaluation"
    known = json.loads((folder / "validation-thresholds-ensemble.json").read_text())
    assert [record["case"] for record in known["cases"]] == ["upright", "tilted"]
    assert np.shape(known["cases"][0]["dice"]["native"]) == (len(CANDIDATES),)


def test_a_label_that_the_prepared_grid_loses_tells_nothing_there(
    tiny_run, twin_run, data, monkeypatch
):
    system = load_system(tiny_run, ensemble=[twin_run])
    case = read_case(data / "upright")
    scored = evaluate_case(system, case, data / "upright", "penalise")
    assert scored.calibration
    assert scored.uncertainty is not None
    lost = replace(case, lesion=0.2 * np.asarray(case.lesion))
    scored = evaluate_case(system, lost, data / "upright", "penalise")
    assert scored.has_lost_label
    assert scored.calibration == {}
    assert scored.uncertainty is None
    monkeypatch.setattr(validation, "read_case", lambda _: lost)
    record = validation.measure_case(system, read_manifest(data), "upright")
    assert record["dice"].keys() == {"native"}


def test_without_validation_cases_nothing_can_be_chosen(tiny_run, tiny_data):
    with pytest.raises(UserError, match="no cases in split 'validation'"):
        evaluate_run(tiny_run, tiny_data, threshold="auto")
    with pytest.raises(UserError, match="leave out --threshold auto"):
        validation.choose_from([], 0.5, "penalise")
