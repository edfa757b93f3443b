import json
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from adn_jax.config import PrepareSettings, ReadSettings
from adn_jax.data.cases import read_case, read_native_lesion
from adn_jax.data.manifest import read_manifest
from adn_jax.errors import UserError
from adn_jax.prepare.dataset import prepare_dataset
from adn_jax.prepare.export import Target, export_dataset, pack_dataset

SETTINGS = PrepareSettings(
    shape=(24, 48, 40), spacing_mm=(6.0, 4.0, 4.0), window_hu=(-10.0, 90.0)
)
SPLITS = {"train": ["a", "b", "e"], "validation": ["c"], "test": ["d", "f"]}
EXPORTED = {"train": ("a", "b"), "validation": ("c",), "test": ("d", "f")}
LABELLED = ("a", "b", "c", "d")
ORIENTATIONS = {"a": "RAS", "b": "LPS", "c": "RAS", "d": "LAS", "e": "RAS", "f": "RAS"}


@pytest.fixture(scope="module")
def data(tmp_path_factory, make_head):
    """Six heads, raw and prepared; `e` and `f` have no label, `g` is in no split."""
    folder = tmp_path_factory.mktemp("data")
    heads = {codes: make_head(codes=codes) for codes in set(ORIENTATIONS.values())}
    for name, codes in (*ORIENTATIONS.items(), ("g", "RAS")):
        case = folder / "raw" / name
        case.mkdir(parents=True)
        heads[codes].ct.to_filename(case / "ct.nii.gz")
        if name in LABELLED:
            heads[codes].lesion.to_filename(case / "lesion.nii.gz")
    (folder / "raw" / "splits.json").write_text(json.dumps(SPLITS))
    prepare_dataset(folder / "raw", folder / "prepared", SETTINGS, workers=1)
    return folder


@pytest.fixture
def copy(data, tmp_path):
    """The same, free to change."""
    shutil.copytree(data, tmp_path / "data")
    return tmp_path / "data"


def export(data, out, **more):
    return export_dataset(data / "prepared", out, data / "raw", workers=1, **more)


def contents(folder):
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder): path.read_bytes() for path in files}


def check_as_nnunet_does(folder):
    """What nnU-Net's `verify_dataset_integrity` asks of a data set."""
    about = json.loads((folder / "dataset.json").read_text())
    assert about["file_ending"] == ".nii.gz"
    assert about["channel_names"] == {"0": "CT"}
    values = set(about["labels"].values())
    assert values == set(range(len(values)))
    images = sorted(path.name for path in (folder / "imagesTr").glob("*"))
    labels = sorted(path.name for path in (folder / "labelsTr").glob("*"))
    assert len(images) == about["numTraining"]
    assert [name.replace("_0000.nii.gz", ".nii.gz") for name in images] == labels
    for part in ("Tr", "Ts"):
        for path in (folder / f"labels{part}").glob("*"):
            label = nib.load(path)
            image = nib.load(
                folder / f"images{part}" / path.name.replace(".nii", "_0000.nii")
            )
            assert image.shape == label.shape
            np.testing.assert_array_equal(image.affine, label.affine)
            assert image.header.get_zooms() == label.header.get_zooms()
            assert np.isfinite(image.get_fdata()).all()
            assert set(np.unique(label.dataobj)) <= values
    return about


def test_scans_and_labels_on_their_own_grid(data, tmp_path):
    done = export(data, tmp_path / "out")
    assert done.folder == tmp_path / "out" / "Dataset501_ADN"
    assert done.failed == {}
    assert done.left_out == {
        "e": "it has no lesion label to learn from.",
        "g": "it is in none of the splits.",
    }
    assert done.splits == EXPORTED
    about = check_as_nnunet_does(done.folder)
    assert about["numTraining"] == 3
    assert "native grid; infarct is what [1, 2, 3, 5] mark" in about["description"]
    folds = json.loads((done.folder / "splits_final.json").read_text())
    assert folds == [{"train": ["a", "b"], "val": ["c"]}]
    for name, part in (("a", "Tr"), ("b", "Tr"), ("c", "Tr"), ("d", "Ts"), ("f", "Ts")):
        image = nib.load(done.folder / f"images{part}" / f"{name}_0000.nii.gz")
        scan = nib.load(data / "raw" / name / "ct.nii.gz")
        assert image.get_data_dtype() == np.int16
        np.testing.assert_array_equal(image.dataobj, scan.dataobj)
        np.testing.assert_array_equal(image.affine, scan.affine)
        label = done.folder / f"labels{part}" / f"{name}.nii.gz"
        native = read_native_lesion(data / "prepared" / name)
        assert label.is_file() == (native is not None)
        if native is not None:
            np.testing.assert_array_equal(nib.load(label).dataobj, native.voxels)


def test_reading_it_back_gives_the_same_lesions_and_splits(data, tmp_path):
    folder = export(data, tmp_path / "out").folder
    again = prepare_dataset(folder.parent, tmp_path / "again", SETTINGS, workers=1)
    assert again.layout == "nnunet"
    assert again.splits == EXPORTED
    for name in LABELLED:
        first = read_case(data / "prepared" / name)
        second = read_case(tmp_path / "again" / name)
        np.testing.assert_array_equal(first.volume, second.volume)
        np.testing.assert_array_equal(first.lesion, second.lesion)
        own = read_native_lesion(data / "prepared" / name)
        back = read_native_lesion(tmp_path / "again" / name)
        np.testing.assert_array_equal(own.voxels, back.voxels)


def test_the_prepared_grid_in_hu(data, tmp_path):
    done = export_dataset(
        data / "prepared", tmp_path, workers=1, dataset_id=7, name="X"
    )
    assert done.folder == tmp_path / "Dataset007_X"
    check_as_nnunet_does(done.folder)
    case = read_case(data / "prepared" / "b")
    image = nib.load(done.folder / "imagesTr" / "b_0000.nii.gz")
    hu = np.asarray(image.dataobj).transpose(2, 1, 0)
    np.testing.assert_allclose(hu, -10 + 100 * case.volume, atol=1e-4)
    np.testing.assert_array_equal(image.affine, case.affine)
    brain = case.brain.astype(bool)
    assert np.median(hu[brain]) == pytest.approx(35, abs=1)
    assert (hu[~brain] == -10).all()
    label = np.asarray(nib.load(done.folder / "labelsTr" / "b.nii.gz").dataobj)
    np.testing.assert_array_equal(label.transpose(2, 1, 0), case.lesion >= 0.5)


def test_two_processes_write_the_same_bytes(data, tmp_path):
    export(data, tmp_path / "one")
    export_dataset(data / "prepared", tmp_path / "two", data / "raw", workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def count_exports(monkeypatch):
    done, write = [], Target.write

    def counted(target, source):
        done.append(source.name)
        write(target, source)

    monkeypatch.setattr(Target, "write", counted)
    return done


def test_a_second_run_does_what_is_missing_or_changed(copy, tmp_path, monkeypatch):
    folder = export(copy, tmp_path / "out").folder
    before = contents(folder)
    done = count_exports(monkeypatch)
    export(copy, tmp_path / "out")
    assert done == []
    (folder / "labelsTr" / "b.nii.gz").unlink()
    (folder / "imagesTr" / "a_0000.nii.gz").write_bytes(b"damaged")
    (folder / "imagesTr" / ".4711.a_0000.nii.gz").write_bytes(b"half")
    export(copy, tmp_path / "out")
    assert done == ["a", "b"]
    assert contents(folder) == before

    (copy / "raw" / "splits.json").write_text(
        json.dumps({"train": ["a", "c"], "test": ["b"]})
    )
    prepare_dataset(copy / "raw", copy / "prepared", SETTINGS, workers=1)
    export(copy, tmp_path / "out")
    assert done == ["a", "b", "b"]
    check_as_nnunet_does(folder)
    names = {path.name for path in folder.glob("*T*/*")}
    assert names == {
        *(f"{name}_0000.nii.gz" for name in "abc"),
        *(f"{name}.nii.gz" for name in "abc"),
    }


def test_what_was_cut_short_is_removed_where_it_is_not_wanted(
    copy, tmp_path, monkeypatch
):
    def cut(image, path):
        if path.parent.name == "labelsTr":
            raise KeyboardInterrupt
        written(image, path)

    written = nib.Nifti1Image.to_filename
    with monkeypatch.context() as patch:
        patch.setattr(nib.Nifti1Image, "to_filename", cut)
        with pytest.raises(KeyboardInterrupt):
            export(copy, tmp_path / "out")
    folder = tmp_path / "out" / "Dataset501_ADN"
    assert (folder / "imagesTr" / "a_0000.nii.gz").is_file()
    assert not (folder / "dataset.json").exists()
    manifest = read_manifest(copy / "prepared")
    splits = {**manifest.splits, "train": ("b",)}
    replace(manifest, splits=splits).write()
    export(copy, tmp_path / "out")
    assert not (folder / "imagesTr" / "a_0000.nii.gz").exists()
    assert check_as_nnunet_does(folder)["numTraining"] == 2


def test_without_validation_cases_there_are_no_folds(copy, tmp_path):
    folder = export(copy, tmp_path / "out").folder
    manifest = read_manifest(copy / "prepared")
    splits = {**manifest.splits, "validation": ()}
    replace(manifest, splits=splits).write()
    export(copy, tmp_path / "out")
    assert not (folder / "splits_final.json").exists()


def test_a_case_that_changed_since_fails_alone(copy, tmp_path):
    folder = export(copy, tmp_path / "out").folder
    shutil.rmtree(copy / "raw" / "b")
    shutil.copy(copy / "raw" / "a" / "ct.nii.gz", copy / "raw" / "d" / "ct.nii.gz")
    shutil.rmtree(tmp_path / "out")
    done = export(copy, tmp_path / "out")
    assert done.failed == {
        "b": "the raw data set does not hold it; give the one it is from.",
        "d": "its raw files, or the options that say how they are read, are not those "
        "that it was prepared with; give the same ones, or prepare it again.",
    }
    assert done.splits == {"train": ("a",), "validation": ("c",), "test": ("f",)}
    assert check_as_nnunet_does(folder)["numTraining"] == 2


def test_other_reading_options_are_noticed(data, tmp_path):
    reading = ReadSettings(series="bone")
    with pytest.raises(
        UserError, match=r"no training case of .*; a: its raw files, or"
    ):
        export(data, tmp_path / "out", reading=reading)


def test_values_beyond_whole_numbers_stay_as_they_are(copy, tmp_path):
    path = copy / "raw" / "a" / "ct.nii.gz"
    scan = nib.load(path)
    values = np.asarray(scan.dataobj).astype(np.float32) + np.float32(0.25)
    nib.Nifti1Image(values, scan.affine).to_filename(path)
    prepare_dataset(copy / "raw", copy / "prepared", SETTINGS, workers=1)
    folder = export(copy, tmp_path / "out").folder
    image = nib.load(folder / "imagesTr" / "a_0000.nii.gz")
    assert image.get_data_dtype() == np.float32
    np.testing.assert_array_equal(image.dataobj, values)


def test_what_is_not_its_own_is_never_touched(data, tmp_path):
    folder = tmp_path / "Dataset501_ADN"
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "imagesTr" / "a_0000.nii.gz").write_bytes(b"precious")
    before = contents(folder)
    with pytest.raises(UserError, match="exists and was not exported from prepared"):
        export(data, tmp_path)
    assert contents(folder) == before
    export(data, tmp_path, dataset_id=502)
    with pytest.raises(UserError, match=r"holds the export of .* on the native grid"):
        export_dataset(data / "prepared", tmp_path, grid="prepared", dataset_id=502)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"grid": "prepared", "raw": Path("raw")},
            r"leave out --raw, or --grid prepared",
        ),
        ({"grid": "native"}, r"native grid needs the scans themselves; give the raw"),
        ({"reading": ReadSettings(series="7")}, r"reading raw data .* without --raw"),
        ({"dataset_id": 0}, r"--dataset-id is 0; give a number from 1 to 999"),
        ({"dataset_id": 1000}, r"--dataset-id is 1000"),
        ({"name": "a b"}, r"--name is 'a b'; use letters, digits"),
    ],
)
def test_arguments_that_cannot_be(data, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        export_dataset(data / "prepared", tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_no_prepared_data_set(tmp_path):
    with pytest.raises(UserError, match="is no prepared data set"):
        export_dataset(tmp_path, tmp_path / "out")


def test_a_packed_data_set(copy, tmp_path):
    pack_dataset(copy / "prepared", tmp_path / "packed")
    with pytest.raises(UserError, match="packed is packed; give the prepared data"):
        export_dataset(tmp_path / "packed", tmp_path / "out")


def test_no_training_case(copy, tmp_path):
    manifest = read_manifest(copy / "prepared")
    splits = {"train": ("e",), "validation": (), "test": ("d",)}
    replace(manifest, splits=splits).write()
    with pytest.raises(UserError, match=r"no training case .* exported; a: it is in"):
        export(copy, tmp_path / "out")
