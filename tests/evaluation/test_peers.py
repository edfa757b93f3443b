"""Predictions of other tools, scored as our own."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from adn_jax.cli.main import main
from adn_jax.data.cases import read_case, read_native_lesion
from adn_jax.errors import UserError
from adn_jax.evaluation.evaluate import evaluate_predictions, evaluate_run
from adn_jax.evaluation.peers import comparable, find_files, onto_both, read_values
from adn_jax.inference.system import infer_case
from adn_jax.io.files import write_json
from adn_jax.io.image import Image, write_image
from adn_jax.training.runs import load_run

CASES = ("turned", "upright", "healthy")


def case_summary(folder, name, split="test"):
    content = json.loads((folder / "evaluation" / split / "cases" / name).read_text())
    return {key: value for key, value in content.items() if key != "key"}


@pytest.fixture
def write_masks(tmp_path, tiny_data):
    """Write a mask of each case on its own grid: the label moved by some voxels."""

    def write(folder=tmp_path / "tool", shift=1, ending=".nii.gz"):
        for name in CASES:
            lesion = read_native_lesion(tiny_data / name)
            moved = lesion.holding(np.roll(lesion.voxels, shift, 0), "mask")
            folder.mkdir(exist_ok=True)
            write_image(folder / f"{name}{ending}", moved)
        return folder

    return write


def test_our_own_probabilities_give_our_own_scores(tiny_run, tiny_data, tmp_path):
    """On the prepared grid as a tool that was trained there would write them."""
    model = load_run(tiny_run)
    for name in CASES:
        case = read_case(tiny_data / name)
        maps, _ = infer_case(model.params, case, model.recipe)
        image = Image(maps.prediction.transpose(2, 1, 0), case.affine, "probability")
        (tmp_path / "peer").mkdir(exist_ok=True)
        write_image(tmp_path / "peer" / f"{name}.nii.gz", image)
    own = evaluate_run(tiny_run, tiny_data).summary
    peer = evaluate_predictions(tmp_path / "peer", tiny_data).summary
    same = ("format", "grids", "calibration", "cases", "label_rule", "hd95_convention")
    for key in same:
        assert peer[key] == own[key], key
    assert own["grids"]["native"]["dice"]["mean"] > 0
    for name in CASES:
        mine, theirs = (
            case_summary(folder, f"{name}.json")
            for folder in (tiny_run, tmp_path / "peer")
        )
        assert theirs["grids"] == mine["grids"]


@pytest.mark.parametrize(("threshold", "wanted"), [(0.5, 0.5), (0.35, 1.0)])
def test_a_prediction_by_another_threshold_counts_by_its_mask(
    tmp_path, threshold, wanted
):
    folder = tmp_path / "a"
    folder.mkdir()
    voxels = np.full((2, 3, 4), 0.5, np.float32)
    for name, values in (("probability", voxels), ("lesion", np.ones_like(voxels))):
        write_image(folder / f"{name}.nii.gz", Image(values, np.eye(4), name))
    write_json(folder / "scan.json", {"threshold": threshold})
    found = find_files(tmp_path, ["a"], ["a"])
    assert read_values(found["a"]).voxels.max() == wanted


def test_a_mask_is_scored_as_it_lies(write_masks, tiny_data):
    folder = write_masks(shift=2)
    evaluation = evaluate_predictions(folder, tiny_data, name="a tool")
    assert evaluation.folder == folder / "evaluation" / "test"
    assert evaluation.summary["recipe"] == "a tool"
    assert evaluation.summary["calibration"] is None
    lesion = read_native_lesion(tiny_data / "turned").voxels > 0
    moved = np.roll(lesion, 2, 0)
    dice = 2 * (lesion & moved).sum() / (lesion.sum() + moved.sum())
    found = case_summary(folder, "turned.json")["grids"]["native"]["dice"]
    assert 0 < dice < 1
    assert found == pytest.approx(dice)
    pictures = {path.stem for path in (evaluation.folder / "figures").iterdir()}
    assert pictures == {"segmentation", "scores"}
    report = (evaluation.folder / "report.html").read_text()
    assert "Predictions of <strong>a tool</strong>, 3 cases" in report
    assert "Asymmetry" not in report


def test_a_perfect_mask_is_perfect_on_both_grids(write_masks, tiny_data):
    grids = evaluate_predictions(write_masks(shift=0), tiny_data).summary["grids"]
    assert {name: grid["dice"]["mean"] for name, grid in grids.items()} == {
        "native": 1.0,
        "prepared": 1.0,
    }
    assert grids["native"]["empty"]["both"] == 1


def test_a_file_turned_otherwise_scores_the_same(write_masks, tiny_data):
    folder = write_masks(shift=2)
    before = evaluate_predictions(folder, tiny_data).summary["grids"]
    for name in CASES:
        image = nib.load(folder / f"{name}.nii.gz")
        turned = nib.as_closest_canonical(image)
        assert not np.allclose(turned.affine, image.affine)
        turned.to_filename(folder / f"{name}.nii.gz")
    assert evaluate_predictions(folder, tiny_data).summary["grids"] == before


def test_only_what_changed_is_scored_again(write_masks, tiny_data):
    folder = write_masks(shift=2)
    evaluate_predictions(folder, tiny_data)
    results = folder / "evaluation" / "test" / "cases"
    times = {path.name: path.stat().st_mtime_ns for path in results.iterdir()}
    evaluate_predictions(folder, tiny_data)
    assert times == {path.name: path.stat().st_mtime_ns for path in results.iterdir()}
    shutil.copy(folder / "healthy.nii.gz", folder / "turned.nii.gz")
    assert evaluate_predictions(folder, tiny_data).summary["empty"]["prediction"] == 1
    again = {path.name: path.stat().st_mtime_ns for path in results.iterdir()}
    changed = [name for name, time in again.items() if time != times[name]]
    assert changed == ["turned.json"]


def test_masks_among_probabilities_are_not_calibrated(write_masks, tiny_data, capsys):
    folder = write_masks()
    path = folder / "turned.nii.gz"
    image = nib.load(path)
    soft = 0.75 * image.get_fdata(dtype=np.float32)
    nib.Nifti1Image(soft, image.affine).to_filename(path)
    evaluation = evaluate_predictions(folder, tiny_data)
    assert evaluation.summary["calibration"] is None
    assert evaluation.summary["masks"] == ["upright"]
    said = f"{folder} has masks of upright and probabilities of others"
    assert said in capsys.readouterr().err
    report = (evaluation.folder / "report.html").read_text()
    assert "for these cases have masks, others probabilities: upright" in report
    pages = {
        case: (evaluation.folder / "scans" / f"{case}.html").read_text()
        for case in ("turned", "upright")
    }
    assert 'id="volume-probability"' in pages["turned"]
    assert 'id="volume-probability"' not in pages["upright"]


def test_predictions_of_several_models_are_told(write_masks, tiny_data, capsys):
    folder = write_masks()
    for case, model in (("turned", "a"), ("upright", "a"), ("healthy", "b")):
        (folder / case).mkdir()
        (folder / f"{case}.nii.gz").rename(folder / case / "lesion.nii.gz")
        write_json(folder / case / "scan.json", {"model": {"run": model}})
    evaluate_predictions(folder, tiny_data)
    said = "has predictions of 2 models or options (those of turned, healthy differ)"
    assert said in capsys.readouterr().err
    written_since = {"run_folder": "/elsewhere/a", "stages_sha256": "sum"}
    model = {"run": "a", **written_since}
    write_json(folder / "healthy" / "scan.json", {"model": model})
    evaluate_predictions(folder, tiny_data)
    assert "models or options" not in capsys.readouterr().err


def test_models_differ_in_what_all_predictions_tell():
    told = {
        "a": {"run": "r", "run_folder": "/a/r", "stages_sha256": "one"},
        "b": {"run": "r", "run_folder": "/b/r", "stages_sha256": "one"},
        "c": {"run": "r", "run_folder": "/b/r", "stages_sha256": "two"},
    }
    alike = comparable(told)
    assert alike["a"] == alike["b"] != alike["c"]
    older = comparable({**told, "d": {"run": "r"}})
    assert older["a"] == older["c"] == older["d"]
    mixed = comparable({**told, "d": None})
    assert mixed == {**alike, "d": None}


def test_scores_go_elsewhere_where_they_are_asked_to(
    write_masks, tiny_data, tmp_path, capsys
):
    folder, out = write_masks(), tmp_path / "out"
    (folder / "evaluation").touch()  # a file: nobody can write into it as a folder
    before = sorted(folder.rglob("*"))
    options = ["--data", str(tiny_data), "--out", str(out)]
    main(["evaluate", "--predictions", str(folder), *options])
    assert (out / "test" / "report.html").is_file()
    assert sorted(folder.rglob("*")) == before
    other = shutil.copytree(folder, tmp_path / "other")
    for predictions, data in (
        (other, tiny_data),
        (folder, shutil.copytree(tiny_data, tmp_path / "data")),
    ):
        options = ["--data", str(data), "--out", str(out)]
        with pytest.raises(SystemExit):
            main(["evaluate", "--predictions", str(predictions), *options])
        assert f"{out}/test holds the scores of {folder}" in capsys.readouterr().err


def ramp(shape, affine):
    """Values from 0 to 1 that rise by the place in the patient."""
    places = affine[:3, :3] @ np.indices(shape).reshape(3, -1) + affine[:3, 3:]
    return (0.5 + places.T @ [1e-3, 2e-3, 3e-3]).reshape(shape).astype(np.float32)


def test_a_value_stays_at_its_place_on_the_other_grid(tiny_data):
    case = read_case(tiny_data / "turned")
    lesion = read_native_lesion(tiny_data / "turned")
    on_prepared = ramp(case.volume.shape[::-1], case.affine)
    on_native = ramp(lesion.shape, lesion.affine)
    within = (slice(4, -4),) * 2 + (slice(2, -2),)
    for values in (
        Image(on_prepared, case.affine, "prediction"),
        lesion.holding(on_native, "prediction"),
    ):
        prepared, native = onto_both(values, case.geometry, lesion)
        there = prepared.transpose(2, 1, 0)[within], native[within]
        np.testing.assert_allclose(there[0], on_prepared[within], atol=1e-4)
        np.testing.assert_allclose(there[1], on_native[within], atol=1e-4)


def test_files_are_found_as_tools_name_them(tmp_path):
    known = ("a", "a_1", "b", "c", "d")
    for name in (
        *("a.nii.gz", "a_1.nii", "b_0000/b_0000_seg.nii.gz", "c/probability.nii.gz"),
        *("c/lesion.nii.gz", "c/ct.nii.gz", "d_seg.nii.gz", "other.nii.gz", "a.json"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_files(tmp_path, known, known)
    assert {case: str(path.relative_to(tmp_path)) for case, path in found.items()} == {
        "a": "a.nii.gz",
        "a_1": "a_1.nii",
        "b": "b_0000/b_0000_seg.nii.gz",
        "c": "c/probability.nii.gz",
        "d": "d_seg.nii.gz",
    }
    (tmp_path / "b.nii.gz").touch()
    with pytest.raises(UserError, match=r"2 predictions of b \(b.nii.gz, b_0000/"):
        find_files(tmp_path, known, known)
    (tmp_path / "d_seg.nii.gz").unlink()
    with pytest.raises(UserError, match=r"no prediction of 1 of 2 cases \(d\)"):
        find_files(tmp_path, ("a", "d"), known)


def refused(folder, data, match):
    with pytest.raises(UserError, match=match):
        evaluate_predictions(folder, data)
    assert not (folder / "evaluation").exists()


def test_what_cannot_be_scored_is_refused(write_masks, tiny_data, tmp_path):
    folder = write_masks()
    path = folder / "upright.nii.gz"
    whole = nib.load(path)
    voxels, affine = np.asarray(whole.dataobj), whole.affine
    shifted = affine.copy()
    shifted[:3, 3] += 20
    for values, match in (
        (voxels * 5.0, r"holds values from 0 to 5 \(labels, logits, per cent\?\)"),
        (voxels - 0.5, "holds values from -0.5 to 0.5"),
        (np.where(voxels > 0, np.nan, 0), "holds values that are no numbers"),
        (np.stack([voxels] * 2, -1), "4 dimensions"),
    ):
        nib.Nifti1Image(values.astype(np.float32), affine).to_filename(path)
        refused(folder, tiny_data, match)
    for values, place, match in (
        (voxels[:-1], affine, r"has 39 x 48 x 16 voxels where .* has 40 x 48 x 16"),
        (voxels, affine @ np.diag([1, 1, 2, 1]), r"and the scan, .* of 4 x 4 x 6 mm"),
        (voxels, shifted, r"lies beside .* prepared grid of 40"),
    ):
        nib.Nifti1Image(values, place).to_filename(path)
        refused(folder, tiny_data, match)
    path.unlink()
    refused(folder, tiny_data, r"no prediction of 1 of 3 cases \(upright\); give one")
    refused(tmp_path / "absent", tiny_data, "absent is no folder")


def test_probabilities_may_be_off_by_their_rounding(tmp_path):
    values = np.array([-1e-6, 0.5, 1 + 1e-6], np.float32).reshape(3, 1, 1)
    nib.Nifti1Image(values, np.eye(4)).to_filename(tmp_path / "mean.nii")
    read = read_values(tmp_path / "mean.nii").voxels
    np.testing.assert_array_equal(read.ravel(), np.float32([0, 0.5, 1]))


def test_the_verb_prints_the_headline(write_masks, tiny_data, capsys):
    folder, data = str(write_masks()), str(tiny_data)
    main(["evaluate", "--predictions", folder, "--data", data])
    said = capsys.readouterr().out
    assert "tool, test: 3 cases, native grid" in said
    assert "calibration" not in said
    assert f"report: {folder}/evaluation/test/report.html" in said


def test_pages_of_masks_tell_no_probability(write_masks, tiny_data):
    folder = write_masks()
    evaluate_predictions(folder, tiny_data)
    page = (folder / "evaluation/test/scans/turned.html").read_text()
    shown = page.partition('<script type="text/plain"')[0]
    assert "Go to lesion 1" in shown
    assert "the mask as it was given" in shown
    for word in ("prob.", "probability"):
        assert word not in shown
    assert 'id="volume-probability"' not in page


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "nothing to score was given"),
        (["--predictions", "P"], "needs the prepared data set"),
        (["RUN", "--predictions", "P", "--data", "D"], "RUN belongs to a run"),
        (["--predictions", "P", "--samples", "3"], "--samples belongs to a run"),
        (["--predictions", "P", "--tta.mirrored"], "--tta belongs to a run"),
        (["--predictions", "P", "--threshold", "auto"], "--threshold auto belongs"),
    ],
)
def test_mixed_up_options_are_one_sentence(arguments, words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", *arguments])
    assert stop.value.code == 2
    assert words in capsys.readouterr().err
