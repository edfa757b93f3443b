"""Runs that average over poses: what is scored, written and kept apart."""

import json
from dataclasses import replace

import numpy as np
import pytest

from adn_jax.config import AlignmentSettings, DeepMedicSettings, TtaSettings
from adn_jax.data.cases import read_case
from adn_jax.errors import UserError
from adn_jax.evaluation import evaluate as module
from adn_jax.evaluation.evaluate import evaluate_run
from adn_jax.evaluation.report import Pictures
from adn_jax.inference.chain import as_batch, as_map, run_chain, warp
from adn_jax.inference.predict import predict_scans
from adn_jax.inference.system import infer_case, load_system
from adn_jax.pipeline.tta import averaged_prediction

ASKED = {"mirrored": True, "copies": 1}

SETTINGS = TtaSettings(mirrored=True, copies=1)


@pytest.fixture(autouse=True)
def few_figures(monkeypatch):
    monkeypatch.setattr(module, "write_figures", lambda *_: Pictures({}, {}))


@pytest.fixture
def case(tiny_data):
    return read_case(tiny_data / "turned")


def test_a_run_is_averaged_without_training_it_again(tiny_run, case):
    system = load_system(tiny_run, tta=ASKED)
    model = system.model
    assert model.recipe.tta == SETTINGS
    maps, outputs, _ = system.infer(case)
    volume = as_batch(case.volume)
    expected = averaged_prediction(
        model.params, volume, model.recipe.system, model.recipe.tta, predict=run_chain
    )
    np.testing.assert_array_equal(maps.prediction, as_map(expected))
    aligned = warp(outputs.alignment, expected)
    np.testing.assert_array_equal(maps.aligned_prediction, as_map(aligned))
    alone = load_system(tiny_run).infer(case)
    assert np.abs(maps.prediction - alone.maps.prediction).max() > 0.05
    np.testing.assert_array_equal(maps.pathological, alone.maps.pathological)
    np.testing.assert_array_equal(outputs.prediction, alone.outputs.prediction)


def test_a_recipe_averages_by_itself_and_can_be_told_not_to(
    write_tiny_run, tiny_recipe, case
):
    run = write_tiny_run("averaging", replace(tiny_recipe, tta=SETTINGS))
    plain = load_system(write_tiny_run("plain")).infer(case).maps
    system = load_system(run)
    assert system.tta == (SETTINGS,)
    assert (system.infer(case).maps.prediction != plain.prediction).any()
    off = load_system(run, tta={"mirrored": False, "copies": 0})
    assert off.tta is None
    maps = off.infer(case).maps
    np.testing.assert_array_equal(maps.prediction, plain.prediction)
    with pytest.raises(UserError, match=r"tta\.copies is -1"):
        load_system(run, tta={"copies": -1})
    for name in ("turn_deg", "shift"):
        with pytest.raises(UserError, match=rf"tta\.{name} is given, but .* no turned"):
            load_system(run, tta={name: 0.5, "copies": 0})
        assert load_system(run, tta={name: 0.5, "copies": 2}).model.recipe.tta.copies


def test_members_average_by_their_own_recipes(tiny_run, write_tiny_run, plain_recipe):
    other = write_tiny_run("b", replace(plain_recipe, tta=SETTINGS), seed=1)
    assert load_system(tiny_run, ensemble=[other]).tta == (None, SETTINGS)


def test_an_ensemble_is_the_mean_of_averaged_members(tiny_run, twin_run, case):
    one = load_system(tiny_run, tta=ASKED).infer(case).maps
    two = load_system(tiny_run, 0, [twin_run], ASKED).infer(case).maps
    np.testing.assert_array_equal(one.prediction, two.prediction)


def test_windows_and_heads_as_they_lie_are_averaged(write_tiny_run, plain_recipe, case):
    windows = plain_recipe.with_fields(
        tta=TtaSettings(mirrored=True),
        alignment=AlignmentSettings(network=False),
        segment_net=DeepMedicSettings(
            widths=(2, 2),
            steps=(1, 3),
            residual=(),
            joined_widths=(2,),
            joined_kernels=(1,),
            joined_residual=(),
            dropout=(0.0, 0.0),
            side=5,
            tile=15,
        ),
    )
    model = load_system(write_tiny_run("windows", windows)).model
    maps, outputs = infer_case(model.params, case, model.recipe)
    volume = as_batch(case.volume)
    mirrored = run_chain(model.params, volume[:, :, :, ::-1], model.recipe.system)
    expected = (outputs.prediction + mirrored[:, :, :, ::-1]) / 2
    np.testing.assert_allclose(maps.prediction, as_map(expected), atol=1e-6)
    np.testing.assert_array_equal(maps.prediction, maps.aligned_prediction)


def test_results_of_other_poses_are_not_mixed(tiny_run, tiny_data):
    path = tiny_run / "evaluation" / "test" / "cases" / "turned.json"
    plain = evaluate_run(tiny_run, tiny_data).summary
    key = json.loads(path.read_text())["key"]
    mirrored = evaluate_run(tiny_run, tiny_data, tta=ASKED, samples=1)
    assert json.loads(path.read_text())["key"] != key
    assert plain["tta"] is None
    settings = {"mirrored": True, "copies": 1, "turn_deg": 10.0, "shift": 0.02}
    assert mirrored.summary["tta"] == [settings]
    assert mirrored.summary["dice"] != plain["dice"]
    page = (mirrored.folder / "report.html").read_text()
    assert (
        "the scan itself, its mirror image, 1 further copy turned by up to 10.0°"
        in page
    )
    again = evaluate_run(tiny_run, tiny_data).summary
    assert again == plain
    assert "Test-time augmentation" not in (mirrored.folder / "report.html").read_text()


@pytest.mark.parametrize("name", ["turn_deg", "shift"])
def test_a_turn_or_shift_of_no_copies_is_refused(tiny_run, name):
    with pytest.raises(UserError, match=rf"tta\.{name} is given, but .* no turned"):
        load_system(tiny_run, tta={name: 0.01})
    assert load_system(tiny_run, tta={name: 0.01, "copies": 1}).tta is not None


def test_scans_are_predicted_from_the_mean(tiny_run, raw_head, tmp_path):
    out = tmp_path / "out"
    assert predict_scans(tiny_run, [raw_head], out, tta=ASKED) == {}
    (folder,) = out.iterdir()
    facts = json.loads((folder / "scan.json").read_text())
    assert facts["model"]["tta"]["mirrored"]
