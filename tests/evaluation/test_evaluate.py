import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from adn_jax.data.cases import read_case
from adn_jax.data.manifest import read_manifest
from adn_jax.errors import UserError
from adn_jax.evaluation import evaluate as module
from adn_jax.evaluation import report
from adn_jax.evaluation.case import CaseResult
from adn_jax.evaluation.evaluate import evaluate_run
from adn_jax.evaluation.report import Pictures, pictured
from adn_jax.inference.system import infer_case
from adn_jax.io.files import only_one
from adn_jax.metrics.overlap import dice
from adn_jax.prepare.export import pack_dataset
from adn_jax.training.runs import load_run
from tests.evaluation.noted import note


@pytest.fixture
def few_figures(monkeypatch):
    """Pictures have their own tests; here they only take time."""
    monkeypatch.setattr(module, "write_figures", lambda *_: Pictures({}, {}))


@pytest.fixture
def counted(monkeypatch):
    """Names of the cases that were really run."""
    names = []
    original = module.evaluate_case

    def evaluate_case(system, case, *rest):
        names.append(case.name)
        return original(system, case, *rest)

    monkeypatch.setattr(module, "evaluate_case", evaluate_case)
    return names


def test_everything_is_written(tiny_run, tiny_data):
    evaluation = evaluate_run(tiny_run, tiny_data)
    folder = tiny_run / "evaluation" / "test"
    assert evaluation.folder == folder
    assert json.loads((folder / "summary.json").read_text()) == evaluation.summary
    figures = {"overview", "segmentation", "maps", "alignment", "scores"}
    figures |= {"calibration"}
    assert {path.stem for path in (folder / "figures").iterdir()} == figures
    assert (folder / "report.html").read_text().count("data:image/png;base64") == 5
    with (folder / "per_case.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == ["turned", "upright", "healthy"]
    assert {"native_dice", "prepared_hd95_mm", "rotation_deg", "auroc"} <= set(rows[0])
    assert [path.name for path in folder.rglob(".*")] == [".lock"]


@pytest.mark.usefixtures("few_figures")
def test_summary_has_what_readers_need(tiny_run, tiny_data):
    summary = evaluate_run(tiny_run, tiny_data).summary
    assert summary["format"] == module.RESULT_FORMAT
    assert summary["cases"] == 3
    assert summary["grid"] == "native"
    assert summary["label_rule"] == "label values 1, 2, 3, 5 are infarct"
    for score in ("dice", "hd95_mm"):
        assert {"mean", "median", "std", "ci95", "n"} == set(summary[score])
        assert summary[score]["n"] == 3
    assert summary["empty"]["label"] + summary["empty"]["both"] == 1
    assert summary["grids"]["native"]["dice"] == summary["dice"]
    error = summary["alignment_error_deg"]
    assert {"median", "p95", "network_alone", "input"} <= set(error)
    assert error["input"]["max"] == pytest.approx(12.0)
    assert summary["disentanglement"]["auroc"]["n"] == 2
    assert summary["disentanglement"]["truth"] == ["darkening by the infarct"]


@pytest.mark.usefixtures("few_figures")
def test_scores_are_those_of_the_masks(tiny_run, tiny_data):
    evaluate_run(tiny_run, tiny_data)
    path = tiny_run / "evaluation" / "test" / "cases" / "turned.json"
    grids = json.loads(path.read_text())["grids"]
    case = read_case(tiny_data / "turned")
    model = load_run(tiny_run)
    maps, _ = infer_case(model.params, case, model.recipe)
    expected = dice(maps.predicted, case.lesion > 0)
    assert 0 < expected < 1
    assert grids["prepared"]["dice"] == pytest.approx(expected)
    # The native label has the same volume on twice as many slices.
    assert grids["native"]["label_ml"] == pytest.approx(grids["prepared"]["label_ml"])
    assert grids["native"]["dice"] == pytest.approx(expected, abs=0.05)


@pytest.mark.usefixtures("few_figures")
def test_a_second_call_does_only_what_is_missing(tiny_run, tiny_data, counted):
    first = evaluate_run(tiny_run, tiny_data).summary
    assert counted == ["turned", "upright", "healthy"]
    assert evaluate_run(tiny_run, tiny_data).summary == first
    assert len(counted) == 3
    (tiny_run / "evaluation" / "test" / "cases" / "upright.json").unlink()
    assert evaluate_run(tiny_run, tiny_data).summary == first
    assert counted[3:] == ["upright"]


@pytest.mark.usefixtures("few_figures")
def test_new_weights_and_new_rules_redo_the_cases(tiny_run, tiny_data, counted):
    evaluate_run(tiny_run, tiny_data)
    evaluate_run(tiny_run, tiny_data, empty="leave_out")
    assert len(counted) == 6
    stages = json.loads((tiny_run / "stages.json").read_text())
    stages["joint"]["score"] = 0.5
    (tiny_run / "stages.json").write_text(json.dumps(stages))
    evaluate_run(tiny_run, tiny_data, empty="leave_out")
    assert len(counted) == 9


def test_bad_input_is_one_sentence(tiny_run, tiny_data, tmp_path):
    with pytest.raises(UserError, match="is no run"):
        evaluate_run(tmp_path / "absent", tiny_data)
    with pytest.raises(UserError, match=r"drawn heads, or not here.*give --data DIR"):
        evaluate_run(tiny_run)
    with pytest.raises(UserError, match="is no prepared data set"):
        evaluate_run(tiny_run, tmp_path)
    with pytest.raises(
        UserError, match="no cases in split 'tset'; those with cases are: train, test"
    ):
        evaluate_run(tiny_run, tiny_data, "tset")


def test_moved_data_is_named(tiny_run):
    config = json.loads((tiny_run / "config.json").read_text())
    config["data"] = "/nowhere/data"
    (tiny_run / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="/nowhere/data, which is not there any more"):
        evaluate_run(tiny_run)


def test_data_prepared_otherwise_is_refused(tiny_run, tiny_data, tmp_path):
    manifest = read_manifest(tiny_data)
    coarse = replace(manifest.settings, spacing_mm=(10.0, 4.0, 4.0))
    replace(manifest, settings=coarse, folder=tmp_path).write()
    with pytest.raises(UserError, match=r"prepared with spacing_mm \(10.0, 4.0, 4.0\)"):
        evaluate_run(tiny_run, tmp_path)


@pytest.mark.usefixtures("few_figures")
def test_cases_without_label_are_not_scored(tiny_run, tiny_data, monkeypatch):
    def unlabelled(folder):
        return replace(read_case(folder), lesion=None)

    monkeypatch.setattr(module, "read_case", unlabelled)
    with pytest.raises(UserError, match=r"no case of split 'test'.*has a lesion label"):
        evaluate_run(tiny_run, tiny_data)


@pytest.mark.usefixtures("few_figures")
def test_pictured_cases_run_from_best_to_worst(tiny_run, tiny_data):
    evaluate_run(tiny_run, tiny_data)
    cases = (tiny_run / "evaluation" / "test" / "cases").iterdir()
    results = [CaseResult.from_json(json.loads(path.read_text())) for path in cases]
    scores = [result.grids["native"].dice for result in pictured(results, "native")]
    assert scores == sorted(scores, reverse=True)
    assert np.isfinite(scores).all()


@pytest.mark.usefixtures("few_figures")
def test_cases_that_the_run_has_learnt_from_are_refused(tiny_run, tiny_data, tmp_path):
    learnt = read_manifest(tiny_data)
    note(tiny_run, data=str(tiny_data), cases_sha256=learnt.digest)
    assert evaluate_run(tiny_run).summary["cases"] == 3
    other = tmp_path / "other"
    shutil.copytree(tiny_data, other)
    trained, *_ = learnt.splits["train"]
    splits = {**learnt.splits, "test": (trained,)}
    replace(learnt, folder=other, splits=splits).write()
    with pytest.raises(UserError, match=rf"has learnt from {trained}, so that scores"):
        evaluate_run(tiny_run, other)


@pytest.mark.usefixtures("few_figures")
def test_a_data_set_that_changed_since_the_training_is_refused(
    tiny_run, tiny_data, tmp_path, capsys
):
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    known = read_manifest(data)
    note(tiny_run, data=str(data), cases_sha256=known.digest)
    first, *others = known.splits["train"]
    test = (*known.splits["test"], first)
    splits = {"train": tuple(others), "validation": (), "test": test}
    replace(known, splits=splits).write()
    with pytest.raises(UserError, match="has other cases or splits than when"):
        evaluate_run(tiny_run)
    assert evaluate_run(tiny_run, data).summary["cases"] == 4
    assert "has learnt from is not known any more" in capsys.readouterr().err
    note(tiny_run, data="gs://nowhere-at-all/data")
    assert evaluate_run(tiny_run, data).summary["cases"] == 4
    assert "has learnt from is not known any more" in capsys.readouterr().err


@pytest.mark.usefixtures("few_figures")
def test_scores_of_other_data_do_not_replace_the_runs_own(
    tiny_run, tiny_data, tmp_path
):
    own, moved = tmp_path / "own", tmp_path / "moved"
    shutil.copytree(tiny_data, own)
    manifest = replace(read_manifest(own).with_checksums(), folder=own)
    manifest.write()
    note(tiny_run, data=str(own), cases_sha256=manifest.digest)
    evaluate_run(tiny_run)
    shutil.copytree(own, moved)
    assert evaluate_run(tiny_run, moved).summary["own_data"]
    page = tiny_run / "index.html"
    assert "other data than the run's own" not in page.read_text()
    external = tmp_path / "external"
    shutil.copytree(own, external)
    splits = {"test": manifest.splits["test"][:1]}
    replace(manifest, splits=splits, folder=external).with_checksums().write()
    with pytest.raises(UserError, match=rf"scores of run on {moved}; give another fol"):
        evaluate_run(tiny_run, external)
    found = evaluate_run(tiny_run, external, out=tmp_path / "scores")
    assert (found.summary["cases"], found.summary["own_data"]) == (1, False)
    shutil.rmtree(tiny_run / "evaluation")
    evaluate_run(tiny_run, external)
    said = " ".join(page.read_text().split())
    assert f"1 case of {external}, other data than the run's own" in said


@pytest.mark.usefixtures("few_figures")
def test_a_folder_takes_the_scores_of_one_run(tiny_run, twin_run, tiny_data, tmp_path):
    scores = tmp_path / "scores"
    evaluate_run(tiny_run, tiny_data, out=scores)
    with pytest.raises(UserError, match="holds the scores of run on"):
        evaluate_run(twin_run, tiny_data, out=scores)
    with (
        only_one(scores / "test"),
        pytest.raises(UserError, match="another process is writing into"),
    ):
        evaluate_run(tiny_run, tiny_data, out=scores)


def test_checksums_tell_scans_and_labels(tiny_data, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    before = replace(read_manifest(data), folder=data).with_checksums()
    assert before.files_sha256.keys() == before.splits.keys()
    pack_dataset(before_written(before), tmp_path / "packed", cases_per_shard=2)
    packed = read_manifest(tmp_path / "packed")
    assert packed.files_sha256 == before.files_sha256
    assert packed.with_checksums().files_sha256 == before.files_sha256

    def noted(name, file):
        about = data / name / "case.json"
        content = json.loads(about.read_text())
        content["sha256"][file] = "other"
        about.write_text(json.dumps(content))
        return before.with_checksums()

    assert noted(before.splits["train"][0], "tissue.nii.gz") == before
    tested = noted(before.splits["test"][0], "lesion_native.nii.gz")
    assert tested.files_sha256["test"] != before.files_sha256["test"]
    assert tested.learnt_sha256 == before.learnt_sha256
    learnt = noted(before.splits["train"][0], "ct.nii")
    assert learnt.learnt_sha256 != before.learnt_sha256


def before_written(manifest):
    """The folder of a data set with its manifest as it is now."""
    manifest.write()
    return manifest.folder


def test_pages_of_an_earlier_evaluation_go(tiny_run, tiny_data, monkeypatch):
    evaluate_run(tiny_run, tiny_data)
    folder = tiny_run / "evaluation" / "test"
    (folder / "figures" / "own.png").write_bytes(b"mine")
    pages = {path.stem for path in (folder / "scans").iterdir()}
    assert pages == {"turned", "upright", "healthy"}
    monkeypatch.setattr(report, "PICTURED", 1)
    (folder / "figures" / "uncertainty.png").write_bytes(b"of an ensemble")
    evaluate_run(tiny_run, tiny_data)
    (kept,) = (folder / "scans").iterdir()
    figures = {path.stem for path in (folder / "figures").iterdir()}
    assert {"own", "scores"} < figures
    assert "uncertainty" not in figures
    page = (tiny_run / "index.html").read_text()
    assert page.count("/scans/") == page.count(f"/scans/{kept.name}") > 0


def test_an_interrupted_evaluation_leaves_no_older_numbers(
    tiny_run, tiny_data, monkeypatch
):
    folder = evaluate_run(tiny_run, tiny_data).folder
    assert "evaluation/test/" in (tiny_run / "index.html").read_text()

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_figures", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate_run(tiny_run, tiny_data, empty="leave_out")
    for name in ("summary.json", "report.html", "per_case.csv"):
        assert not (folder / name).exists()
    assert "evaluation/test/" not in (tiny_run / "index.html").read_text()


@pytest.mark.usefixtures("few_figures")
def test_what_a_kill_left_half_written_is_removed(tiny_run, tiny_data):
    folder = tiny_run / "evaluation" / "test"
    for name in ("scans/.7.turned.html", ".7.report.html", "cases/.7.turned.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    evaluate_run(tiny_run, tiny_data)
    assert [path.name for path in folder.rglob(".*")] == [".lock"]
