"""A run alone, with dropout samples, and together with other runs."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from adn_jax.config import DeepMedicSettings, UNetSettings
from adn_jax.data.cases import read_case
from adn_jax.data.known_lesions import KnownLesions
from adn_jax.data.manifest import Fold, read_manifest
from adn_jax.errors import UserError
from adn_jax.evaluation import evaluate as module
from adn_jax.evaluation.evaluate import evaluate_run
from adn_jax.evaluation.report import Pictures
from adn_jax.inference import system as system_module
from adn_jax.inference.chain import as_batch, as_map
from adn_jax.inference.maps import MidlineJudgement, Thresholds, Uncertainty
from adn_jax.inference.system import has_dropout, infer_case, load_system
from adn_jax.pipeline.adn import apply_adn
from adn_jax.training.runs import Run, write_run, write_small_run
from tests.evaluation.noted import note


@pytest.fixture(autouse=True)
def few_figures(monkeypatch):
    monkeypatch.setattr(module, "write_figures", lambda *_: Pictures({}, {}))


@pytest.fixture
def case(tiny_data):
    return read_case(tiny_data / "turned")


def test_an_ensemble_scores_the_mean_of_its_members(
    tiny_run, write_tiny_run, tiny_recipe, plain_recipe, case
):
    runs = [tiny_run, write_tiny_run("b", plain_recipe, seed=1)]
    system = load_system(runs[0], ensemble=runs[1:])
    inferred = system.infer(case)
    predictions = [
        infer_case(member.params, case, member.recipe)[0].prediction
        for member in system.members
    ]
    assert np.abs(predictions[0] - predictions[1]).max() > 0.5
    mean = np.mean(predictions, axis=0, dtype=np.float64).astype(np.float32)
    np.testing.assert_array_equal(inferred.maps.prediction, mean)
    assert inferred.uncertainty.mutual_information.max() > 0.1
    assert inferred.maps.aligned_prediction.max() <= mean.max() + 1e-5
    alone, _ = infer_case(system.model.params, case, tiny_recipe)
    np.testing.assert_array_equal(inferred.maps.pathological, alone.pathological)


def test_an_ensemble_of_twins_is_the_run_itself(tiny_run, twin_run, tiny_data, case):
    (alone, _, none) = load_system(tiny_run).infer(case)
    (both, _, uncertainty) = load_system(tiny_run, ensemble=[twin_run]).infer(case)
    np.testing.assert_array_equal(alone.prediction, both.prediction)
    assert none is None
    assert uncertainty.mutual_information.max() == 0.0
    one = evaluate_run(tiny_run, tiny_data)
    two = evaluate_run(tiny_run, tiny_data, ensemble=[twin_run])
    assert two.folder == tiny_run / "evaluation" / "test-ensemble"
    assert one.summary["uncertainty"] is None
    assert two.summary["members"] == ["run", "twin"]
    assert two.summary["uncertainty"]["source"] == "ensemble of 2 runs: run, twin"
    for score in ("dice", "calibration", "disentanglement"):
        assert one.summary[score] == two.summary[score]


def test_samples_are_passes_with_dropout(tiny_run, case):
    system = load_system(tiny_run, samples=3)
    model = system.model
    maps, _, uncertainty = system.infer(case)
    alone, _ = infer_case(model.params, case, model.recipe)
    np.testing.assert_array_equal(maps.prediction, alone.prediction)
    passes = [
        as_map(
            jax.jit(apply_adn, static_argnames="system")(
                model.params, as_batch(case.volume), model.recipe.system, key=key
            ).prediction
        )
        for key in jax.random.split(jax.random.key(model.recipe.seed), 3)
    ]
    for ours, expected in zip(uncertainty, Uncertainty.of(passes), strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-4)
    assert uncertainty.mutual_information.max() > 0.01
    again = system.infer(case).uncertainty
    np.testing.assert_array_equal(again.entropy, uncertainty.entropy)


def test_results_know_where_their_uncertainty_comes_from(tiny_run, tiny_data):
    path = tiny_run / "evaluation" / "test" / "cases" / "turned.json"
    evaluate_run(tiny_run, tiny_data)
    assert json.loads(path.read_text())["uncertainty"] is None
    first = evaluate_run(tiny_run, tiny_data, samples=2).summary
    assert len(json.loads(path.read_text())["uncertainty"]["lesions"]) > 0
    assert first["uncertainty"]["lesions"] >= first["uncertainty"]["false_lesions"] > 0
    path.unlink()
    assert evaluate_run(tiny_run, tiny_data, samples=2).summary == first


def test_what_has_no_uncertainty_is_one_sentence(
    tiny_run, write_tiny_run, tiny_recipe, tmp_path
):
    sure = replace(tiny_recipe.system.segment_net, dropout=0.0)
    dry = tiny_recipe.with_fields(segment_net=sure, disentangle_net=sure)
    run = write_tiny_run("dry", dry)
    with pytest.raises(UserError, match=r"dry has no dropout.*--ensemble"):
        load_system(run, samples=5)
    with pytest.raises(UserError, match="choose one of --samples and --ensemble"):
        load_system(tiny_run, 5, [run])
    with pytest.raises(UserError, match="samples is -1"):
        load_system(tiny_run, -1)
    with pytest.raises(UserError, match="absent is no run"):
        load_system(tiny_run, ensemble=[tmp_path / "absent"])


def test_a_run_counts_once(tiny_run):
    other_way = tiny_run.parent / "absent" / ".." / tiny_run.name
    for again in (tiny_run, other_way):
        with pytest.raises(UserError, match=r"run is in the ensemble twice.*run once"):
            load_system(tiny_run, ensemble=[again])


def test_a_run_has_its_folders_name(tiny_run, monkeypatch):
    monkeypatch.chdir(tiny_run)
    assert load_system(Path()).names == load_system(tiny_run).names == ("run",)


def test_members_learned_from_the_same_cases(tiny_run, twin_run, tiny_data):
    for run, digest in (
        (tiny_run, read_manifest(tiny_data).digest),
        (twin_run, "other"),
    ):
        note(run, data=str(tiny_data), cases_sha256=digest)
    with pytest.raises(UserError, match=r"twin was trained on other cases.*--data DIR"):
        evaluate_run(tiny_run, ensemble=[twin_run])
    assert evaluate_run(tiny_run, tiny_data, ensemble=[twin_run]).summary["cases"]


def test_members_of_other_folds_learned_from_the_same_data(
    tiny_run, twin_run, tiny_data, tmp_path
):
    manifest = read_manifest(tiny_data)
    first, *others = manifest.splits["test"]
    splits = {"train": (*manifest.splits["train"], *others), "test": (first,)}
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    manifest = replace(manifest, folder=data, splits=splits)
    manifest.write()
    one, other = (manifest.with_fold(Fold(index, 2)).digest for index in (0, 1))
    note(tiny_run, data=str(data), cases_sha256=one, fold="0/2")
    note(twin_run, data=str(data), cases_sha256=other, fold="1/2")
    assert evaluate_run(tiny_run, ensemble=[twin_run]).summary["cases"] == 1
    note(twin_run, data="elsewhere", cases_sha256="of other data", fold="1/2")
    with pytest.raises(UserError, match="twin was trained on other cases"):
        evaluate_run(tiny_run, ensemble=[twin_run])


def test_weights_that_are_no_numbers_are_told(tiny_params, tiny_recipe, tiny_data):
    spoilt = jax.tree.map(lambda leaf: leaf * np.nan, tiny_params)
    case = read_case(tiny_data / "turned")
    with pytest.raises(UserError, match=r"no numbers for turned; their weights are"):
        infer_case(spoilt, case, tiny_recipe)


def test_an_ensemble_with_a_spoilt_member_is_told(tiny_run, twin_run, tiny_data):
    system = load_system(tiny_run, ensemble=[twin_run])
    first, second = system.members
    spoilt = jax.tree.map(lambda leaf: leaf * np.nan, second.params)
    system = replace(system, members=(first, replace(second, params=spoilt)))
    with pytest.raises(UserError, match="no numbers for"):
        system.infer(read_case(tiny_data / "turned"))


def test_members_share_a_grid(tiny_run, tiny_recipe, tiny_params, tmp_path):
    coarse = replace(tiny_recipe.system.prepare, spacing_mm=(12.0, 8.0, 8.0))
    write_run(tmp_path / "coarse", tiny_recipe.with_fields(prepare=coarse), tiny_params)
    with pytest.raises(UserError, match=r"coarse works on spacing_mm .*one prepared"):
        load_system(tiny_run, ensemble=[tmp_path / "coarse"])


def test_only_networks_of_whole_scans_sample_dropout(plain_recipe):
    assert has_dropout(plain_recipe)
    for net in (UNetSettings(dropout=0.0), DeepMedicSettings()):
        assert not has_dropout(plain_recipe.with_fields(segment_net=net))


def test_how_often_lesions_are_true_holds_for_the_run_as_it_was_measured(
    tiny_run, twin_run, tmp_path
):
    known = KnownLesions(100, 90, -4.0, 1.0, 3.0, least_ppv=0.3)
    write_small_run(Run.open(tiny_run), tmp_path / "measured", lesions=known)
    measured = load_system(tmp_path / "measured")
    assert measured.known_lesions == known
    assert load_system(tmp_path / "measured", samples=0, tta={}).known_lesions == known
    averaged = load_system(tmp_path / "measured", tta={"mirrored": True})
    assert averaged.known_lesions is None
    together = load_system(tmp_path / "measured", ensemble=[twin_run])
    assert together.known_lesions is None
    chosen = replace(measured, thresholds=Thresholds(0.5, 0.4))
    assert chosen.known_lesions is None


@pytest.mark.parametrize("found", [True, False])
def test_lesions_have_no_ppv_where_no_mid_line_was_found(
    tiny_run, tmp_path, case, monkeypatch, found
):
    known = KnownLesions(100, 90, -4.0, 1.0, 3.0, least_ppv=0.0)
    write_small_run(Run.open(tiny_run), tmp_path / "measured", lesions=known)
    judged = MidlineJudgement(found, found, ())
    monkeypatch.setattr(system_module, "judge_midline", lambda *_: judged)
    maps = load_system(tmp_path / "measured").infer(case).maps
    assert maps.predicted.any()
    assert (maps.ppv is not None) == (maps.known_lesions is not None) == found


def test_lesions_smaller_than_any_measured_one_are_not_left_out_by_their_ppv(
    write_tiny_run, tiny_recipe, tmp_path
):
    run = write_tiny_run("large", replace(tiny_recipe, least_lesion_ml=1.0))
    known = KnownLesions(100, 90, -4.0, 1.0, 3.0, least_ppv=0.3)
    write_small_run(Run.open(run), tmp_path / "measured", lesions=known)
    shown = load_system(tmp_path / "measured", least_lesion_ml=0.0)
    volume_ml, probability = np.array([0.5, 1.5, 50.0]), np.full(3, 0.6)
    assert known.ppv(0.5, 0.6) < known.ppv(1.5, 0.6) < 0.3 < known.ppv(50.0, 0.6)
    counted = shown.counts(volume_ml, probability)
    assert counted.tolist() == [True, False, True]
    usual = load_system(tmp_path / "measured").counts(volume_ml, probability)
    assert usual.tolist() == [False, False, True]
