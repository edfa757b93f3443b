import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from adn_jax.config import ReadSettings
from adn_jax.data.cases import read_case, read_native_lesion
from adn_jax.data.manifest import SPLITS, Manifest, read_manifest
from adn_jax.datasets.recognise import find_dataset
from adn_jax.errors import UserError
from adn_jax.io.files import only_one
from adn_jax.prepare import dataset
from adn_jax.prepare.dataset import log_manifest, odd_splits, prepare_dataset
from adn_jax.runtime.jobs import Processes


def contents(folder):
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder): path.read_bytes() for path in files}


def test_every_case_is_prepared(raw, small_grid, tmp_path):
    manifest = prepare_dataset(raw, tmp_path / "out", small_grid, workers=1)
    assert read_manifest(tmp_path / "out") == manifest
    assert manifest.cases == ("a", "b")
    assert manifest.failed == {}
    assert sorted(name for names in manifest.splits.values() for name in names) == [
        "a",
        "b",
    ]
    case = read_case(tmp_path / "out" / "a")
    assert case.volume.shape == small_grid.shape
    assert case.spacing_mm == pytest.approx(small_grid.spacing_mm)
    assert case.lesion.any()
    label = nib.load(raw / "a" / "lesion.nii.gz")
    native = read_native_lesion(tmp_path / "out" / "a")
    np.testing.assert_array_equal(native.voxels, label.dataobj)
    np.testing.assert_array_equal(native.affine, label.affine)
    assert read_native_lesion(tmp_path / "out" / "b") is None
    assert read_case(tmp_path / "out" / "b").lesion is None
    assert (tmp_path / "out" / "quality" / "b.png").is_file()
    table = (tmp_path / "out" / "quality.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in table] == ["case", "a", "b"]


def test_one_scan_in_two_splits_is_flagged(raw, small_grid, tmp_path):
    shutil.copytree(raw / "a", raw / "copy")
    splits = {"train": ["a"], "test": ["copy"]}
    (raw / "splits.json").write_text(json.dumps(splits))
    manifest = prepare_dataset(raw, tmp_path / "out", small_grid, workers=1)
    (flag,) = manifest.flags["copy"]
    assert flag == "the same scan is a, in the split train"
    assert read_manifest(tmp_path / "out").flags == manifest.flags


def test_what_a_run_has_learnt_from_stays(raw, small_grid, tmp_path):
    out, kinds = tmp_path / "out", "other scans, labels, options of reading or version"
    shutil.copytree(raw / "b", raw / "c")
    splits = {"train": ["a"], "validation": ["b"], "test": ["c"]}
    (raw / "splits.json").write_text(json.dumps(splits))
    prepare_dataset(raw, out, small_grid, workers=1)
    before = contents(out)

    def prepare(settings=small_grid, **options):
        return prepare_dataset(raw, out, settings, 1, learnt_by="RUN", **options)

    def assert_kept(change, *given, **options):
        with pytest.raises(UserError, match=rf"which RUN has learnt.*\({change}"):
            prepare(*given, **options)
        assert contents(out) == before

    prepare()
    assert contents(out) == before
    assert_kept(
        f"{kinds} of adn-jax: a, b", reading=ReadSettings(hu_range=(0.0, 500.0))
    )
    assert_kept("prepare.window_hu", replace(small_grid, window_hu=(0.0, 70.0)))
    swapped = {"train": ["b"], "validation": ["a"], "test": ["c"]}
    (raw / "splits.json").write_text(json.dumps(swapped))
    assert_kept("other splits")
    (raw / "splits.json").write_text(json.dumps(splits))
    (raw / "a" / "lesion.nii.gz").rename(raw / "label.nii.gz")
    assert_kept(f"{kinds} of adn-jax: a")
    (raw / "label.nii.gz").rename(raw / "a" / "lesion.nii.gz")
    shutil.copytree(raw / "b", raw / "d")
    assert_kept("other cases: d")
    shutil.rmtree(raw / "d")
    shutil.copy(raw / "a" / "lesion.nii.gz", raw / "c")  # which nothing has learnt
    assert (
        prepare().files_sha256
        != json.loads(before[Path("manifest.json")])["files_sha256"]
    )


def test_a_case_that_had_failed_does_not_join_what_a_run_has_learnt_from(
    raw, small_grid, tmp_path
):
    shutil.copytree(raw / "b", raw / "c")
    whole = (raw / "c" / "ct.nii.gz").read_bytes()
    (raw / "c" / "ct.nii.gz").write_bytes(whole[: len(whole) // 2])
    splits = {"train": ["a", "c"], "validation": ["b"]}
    (raw / "splits.json").write_text(json.dumps(splits))
    manifest = prepare_dataset(raw, tmp_path / "out", small_grid, workers=1)
    assert [*manifest.failed] == ["c"]
    (raw / "c" / "ct.nii.gz").write_bytes(whole)
    with pytest.raises(UserError, match="failed before does not"):
        prepare_dataset(raw, tmp_path / "out", small_grid, 1, learnt_by="RUN")
    assert read_manifest(tmp_path / "out") == manifest


def test_a_case_may_not_be_called_as_the_folder_of_pictures(raw, small_grid, tmp_path):
    (raw / "a").rename(raw / "quality")
    with pytest.raises(UserError, match="a case is called quality"):
        prepare_dataset(raw, tmp_path / "out", small_grid, workers=1)


def test_named_values_of_labels_are_told_before_any_work(
    raw, small_grid, tmp_path, monkeypatch, capsys
):
    named = replace(find_dataset(raw), label_names={1: "bleeding", 4: "infarct"})
    monkeypatch.setattr(dataset, "find_dataset", lambda *_: named)
    prepare_dataset(raw, tmp_path / "out", small_grid, workers=1)
    sentence = "the label values are 1 bleeding, 4 infarct; as infarct count 1"
    assert sentence in capsys.readouterr().err
    assert sentence in (tmp_path / "out" / "report.md").read_text()


def test_two_processes_write_the_same_bytes(raw, small_grid, tmp_path):
    out = tmp_path / "out"
    prepare_dataset(raw, out, small_grid, workers=1)
    out.rename(tmp_path / "one")
    prepare_dataset(raw, out, small_grid, workers=2)
    assert contents(tmp_path / "one") == contents(out)


def test_an_overview_of_all_cases_is_written(raw, small_grid, tmp_path, monkeypatch):
    found = find_dataset(raw)
    odd = replace(
        found,
        layout="bids",
        left_out={"z": "no CT"},
        splits={"test": ["a"], "train": ["b"]},
    )
    monkeypatch.setattr(dataset, "find_dataset", lambda *_: odd)
    out = tmp_path / "out"
    manifest = prepare_dataset(raw, out, small_grid, workers=1)
    assert read_manifest(out) == manifest
    assert manifest.left_out == {"z": "no CT"}
    assert manifest.layout == "bids"
    assert manifest.splits == {"train": ("b",), "validation": (), "test": ("a",)}
    page = (out / "quality.html").read_text()
    assert "no CT" in page
    assert 'src="quality/a.png"' in page
    assert "no CT" in (out / "report.md").read_text()


def test_finished_cases_need_no_processes(raw, small_grid, tmp_path, monkeypatch):
    prepare_dataset(raw, tmp_path / "out", small_grid, workers=1)
    started = []
    monkeypatch.setattr(Processes, "outcomes", lambda *_: started.append(1) or [])
    prepare_dataset(raw, tmp_path / "out", small_grid, workers=2)
    assert started == []


def test_a_folder_in_use_is_refused(raw, small_grid, tmp_path):
    with only_one(tmp_path / "out"):
        said = refuse(raw, tmp_path / "out", small_grid)
    assert "another process is writing into" in said


def test_a_folder_that_cannot_be_written(raw, small_grid, tmp_path):
    (tmp_path / "file").write_text("")
    said = refuse(raw, tmp_path / "file" / "out", small_grid)
    assert "file/out could not be written" in said


def count_preparations(monkeypatch) -> list[str]:
    done, prepare = [], dataset.prepare_and_write

    def counted(case, *rest):
        done.append(case.name)
        prepare(case, *rest)

    monkeypatch.setattr(dataset, "prepare_and_write", counted)
    return done


def test_a_second_run_does_what_is_missing_or_changed(
    raw, small_grid, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    prepare_dataset(raw, out, small_grid, workers=1)
    before = contents(out)
    done = count_preparations(monkeypatch)
    prepare_dataset(raw, out, small_grid, workers=1)
    assert done == []

    (out / "b" / "ct.nii").unlink()
    prepare_dataset(raw, out, small_grid, workers=1)
    assert done == ["b"]
    assert contents(out) == before

    content = bytearray((out / "a" / "ct.nii").read_bytes())
    content[-1] ^= 255
    (out / "a" / "ct.nii").write_bytes(content)
    prepare_dataset(raw, out, small_grid, workers=1)
    assert done == ["b", "a"]
    assert contents(out) == before

    shutil.copy(raw / "a" / "lesion.nii.gz", raw / "b" / "lesion.nii.gz")
    prepare_dataset(raw, out, small_grid, workers=1)
    assert done == ["b", "a", "b"]
    assert read_case(out / "b").lesion.any()


def test_other_settings_prepare_again(raw, small_grid, tmp_path, monkeypatch):
    prepare_dataset(raw, tmp_path / "out", small_grid, workers=1)
    done = count_preparations(monkeypatch)
    wider = replace(small_grid, window_hu=(0.0, 100.0))
    manifest = prepare_dataset(raw, tmp_path / "out", wider, workers=1)
    assert done == ["a", "b"]
    assert manifest.settings == wider


def test_what_a_killed_run_left_is_removed(raw, small_grid, tmp_path):
    half = tmp_path / "out" / ".4711.a"
    half.mkdir(parents=True)
    (half / "ct.nii").write_bytes(b"half")
    prepare_dataset(raw, tmp_path / "out", small_grid, workers=1)
    assert not half.exists()


def test_a_bad_case_does_not_stop_the_rest(raw, small_grid, tmp_path):
    (raw / "a" / "ct.nii.gz").write_bytes(b"damaged")
    (raw / "splits.json").write_text('{"train": ["a"], "test": ["b"]}')
    manifest = prepare_dataset(raw, tmp_path / "out", small_grid, workers=1)
    assert manifest.cases == ("b",)
    assert manifest.splits == {"train": (), "validation": (), "test": ("b",)}
    assert "is not a readable NIfTI file" in manifest.failed["a"]
    assert not (tmp_path / "out" / "a").exists()


def test_an_unexpected_error_is_named(raw, small_grid, tmp_path, monkeypatch):
    strip = dataset.strip_scan

    def broken(given):
        if given.scan.name == "a":
            raise ZeroDivisionError("in the middle")
        return strip(given)

    monkeypatch.setattr(dataset, "strip_scan", broken)
    manifest = prepare_dataset(raw, tmp_path / "out", small_grid, workers=1)
    assert manifest.failed == {"a": "unexpected ZeroDivisionError: in the middle"}


def test_nothing_prepared_is_an_error(raw, small_grid, tmp_path):
    for name in ("a", "b"):
        (raw / name / "ct.nii.gz").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"no case of .* could be prepared; a: "):
        prepare_dataset(raw, tmp_path / "out", small_grid, workers=1)


def test_a_full_disk_ends_it_without_a_half_file(
    raw, small_grid, tmp_path, monkeypatch
):
    written = nib.Nifti1Image.to_filename

    def full(image, path):
        if "b" in path.parent.name:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        written(image, path)

    monkeypatch.setattr(nib.Nifti1Image, "to_filename", full)
    with pytest.raises(UserError, match="No space left on device"):
        prepare_dataset(raw, tmp_path / "out", small_grid, workers=1)
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left == {"a", "quality", ".lock"}
    read_case(tmp_path / "out" / "a")


def refuse(raw, out, settings) -> str:
    with pytest.raises(UserError) as caught:
        prepare_dataset(raw, out, settings, workers=1)
    return str(caught.value)


def test_what_is_no_raw_data_set(tmp_path, small_grid):
    out = tmp_path / "out"
    assert "is no folder" in refuse(tmp_path / "nothing", out, small_grid)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "is empty; a raw data set has" in refuse(empty, out, small_grid)
    (empty / "case").mkdir()
    assert "holds no case; a raw data set has" in refuse(empty, out, small_grid)
    assert not out.exists()


def test_output_over_the_input_is_refused(raw, small_grid):
    assert "both input and output" in refuse(raw, raw, small_grid)


@pytest.mark.parametrize("name", ["scan.nii.gz", "CT.nii"])
def test_a_case_whose_scan_has_another_name_is_named(raw, small_grid, tmp_path, name):
    (raw / "c").mkdir()
    (raw / "c" / name).touch()
    (raw / "notes").mkdir()
    manifest = prepare_dataset(raw, tmp_path / "out", small_grid, workers=1)
    assert list(manifest.failed) == ["c"]
    assert f"it has {name} but no ct.nii.gz" in manifest.failed["c"]


def test_nothing_but_prepared_cases_is_ever_replaced(raw, small_grid, tmp_path):
    (tmp_path / "out" / "a").mkdir(parents=True)
    (tmp_path / "out" / "a" / "mask.png").write_bytes(b"mine")
    assert "would replace it" in refuse(raw, tmp_path / "out", small_grid)
    assert (tmp_path / "out" / "a" / "mask.png").read_bytes() == b"mine"


def test_an_atlas_that_is_none_or_not_asked_for(raw, small_grid, tmp_path):
    reading = ReadSettings(atlas=str(tmp_path / "nowhere"))
    for tissue, message in (("auto", "add --tissue atlas"), ("atlas", "is no folder")):
        settings = replace(small_grid, tissue=tissue)
        with pytest.raises(UserError, match=message):
            prepare_dataset(raw, tmp_path / "out", settings, 1, reading)
    assert not (tmp_path / "out").exists()


def test_other_raw_cases_are_never_replaced(raw, small_grid, tmp_path):
    shutil.copytree(raw, tmp_path / "other")
    before = contents(tmp_path / "other")
    said = refuse(raw, tmp_path / "other", small_grid)
    assert "other/a is no prepared case, and one of that name would replace it" in said
    assert contents(tmp_path / "other") == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v[:-1], "lesion label has 63 x 72 x 24 voxels"),
        (lambda v: v * 7, "holds the value 7"),
    ],
)
def test_a_bad_label_is_that_case_alone(raw, small_grid, tmp_path, change, message):
    path = raw / "a" / "lesion.nii.gz"
    label = nib.load(path)
    values = change(np.asarray(label.dataobj))
    nib.Nifti1Image(values, label.affine).to_filename(path)
    manifest = prepare_dataset(raw, tmp_path / "out", small_grid, workers=1)
    assert message in manifest.failed["a"]
    assert manifest.cases == ("b",)


@pytest.mark.parametrize("names", [("grey", "white", "csf"), ("c1ct", "c2ct", "c3ct")])
def test_tissue_maps_under_either_name(raw, small_grid, tmp_path, head, names):
    (raw / "a" / "tissue").mkdir()
    for name in names:
        head.brain.to_filename(raw / "a" / "tissue" / f"{name}.nii.gz")
    prepare_dataset(raw, tmp_path / "out", small_grid, workers=1)
    assert read_case(tmp_path / "out" / "a").tissue.any()
    assert read_case(tmp_path / "out" / "b").tissue is None


def test_two_of_three_tissue_maps_are_refused(raw, small_grid, tmp_path, head):
    (raw / "a" / "tissue").mkdir()
    for name in ("grey", "csf"):
        head.brain.to_filename(raw / "a" / "tissue" / f"{name}.nii.gz")
    manifest = prepare_dataset(raw, tmp_path / "out", small_grid, workers=1)
    assert "none of white; give all of" in manifest.failed["a"]


def test_truth_of_a_phantom_travels_along(raw, small_grid, tmp_path, head):
    (raw / "a" / "truth").mkdir()
    head.lesion.to_filename(raw / "a" / "truth" / "pathological.nii.gz")
    pose = {"head_to_world": np.eye(4).tolist()}
    (raw / "a" / "truth" / "pose.json").write_text(json.dumps(pose))
    prepare_dataset(raw, tmp_path / "out", small_grid, workers=1)
    case = read_case(tmp_path / "out" / "a")
    assert case.truth == pose
    assert case.pathological.max() == pytest.approx(1 / 80, rel=0.02)


def test_what_is_odd_is_said_by_its_kind(tmp_path, small_grid, capsys):
    outside = "{} % of the brain lies outside the prepared grid"
    names = tuple(f"c{index:02}" for index in range(12))
    manifest = Manifest(
        settings=small_grid,
        cases=names,
        splits={"train": names},
        folder=tmp_path,
        left_out=dict.fromkeys(names, "artefacts"),
        flags={name: (outside.format(1.5 + i),) for i, name in enumerate(names)}
        | {"c00": ("the label is empty",)},
        lacking={"lesion": ("c03",), "infarct": ("c00", "c03")},
    )
    log_manifest(manifest)
    assert capsys.readouterr().out.splitlines() == [
        "left out on purpose, for reasons in report.md: c00, c01, c02, c03, c04, c05, "
        "c06, c07, c08, c09 and 2 more",
        "without a label, and so not to train on: c03",
        f"flag: {outside.format(2.5)}, in c01 (the first of 11 such cases)",
        "flag: the label is empty, in c00",
    ]
    assert [*odd_splits(manifest)] == [
        "no case is in the splits validation and test (12 cases in all); training "
        "needs train and validation, evaluation the split that it scores."
    ]
    unused = replace(manifest, splits=dict.fromkeys(SPLITS, ("c00",)))
    assert [*odd_splits(unused)] == [
        "11 cases of 12 in none of the splits, and so not used: c01, c02, c03, c04, "
        "c05, c06, c07, c08, c09, c10 and 1 more."
    ]


def test_cases_without_infarct_are_listed(raw, small_grid, tmp_path):
    label = nib.load(raw / "a" / "lesion.nii.gz")
    empty = nib.Nifti1Image(np.zeros(label.shape, np.uint8), label.affine)
    empty.to_filename(raw / "b" / "lesion.nii.gz")
    manifest = prepare_dataset(raw, tmp_path / "out", small_grid, workers=1)
    assert manifest.lacking["infarct"] == ("b",)
    assert "the label is empty: it marks no infarct" in manifest.flags["b"]
    assert read_manifest(tmp_path / "out") == manifest
