import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from adn_jax.config import PrepareSettings, ReadSettings
from adn_jax.datasets.plain import find_plain, looks_like_plain
from adn_jax.datasets.raw import (
    TISSUES,
    FileCase,
    RawCase,
    RefusedCase,
    _open_tissue,
    given_splits,
    read_label,
    unlabelled_input,
    unread_flags,
)
from adn_jax.errors import UserError
from adn_jax.scans.read import onto_scan, read_scan
from tests.datasets.test_bids import touch
from tests.scans.dicom.files import head_of_blocks, write_series

SETTINGS, READING = PrepareSettings(), ReadSettings()


def test_what_is_loaded_and_recorded(head, tmp_path):
    head.ct.to_filename(tmp_path / "scan.nii.gz")
    head.lesion.to_filename(tmp_path / "lesion.nii.gz")
    head.brain.to_filename(tmp_path / "brain.nii.gz")
    case = FileCase(
        name="a",
        scan=tmp_path / "scan.nii.gz",
        lesion=tmp_path / "lesion.nii.gz",
        brain=tmp_path / "brain.nii.gz",
        choice={"other_scans": ["later.nii.gz"]},
    )
    assert isinstance(case, RawCase)
    given = case.load(SETTINGS, READING)
    assert given.scan.source["other_scans"] == ["later.nii.gz"]
    assert given.scan.source["file"] == "scan.nii.gz"
    np.testing.assert_array_equal(given.lesion.voxels, head.lesion.dataobj)
    np.testing.assert_array_equal(given.brain.voxels, head.brain.dataobj)
    assert given.tissue is None


def test_prediction_takes_the_brain_mask_of_a_case_folder(head, tmp_path):
    head.ct.to_filename(tmp_path / "ct.nii.gz")
    scan = read_scan(tmp_path)
    assert unlabelled_input(scan, tmp_path).brain is None
    head.brain.to_filename(tmp_path / "brain.nii.gz")
    given = unlabelled_input(scan, tmp_path)
    assert given.brain is not None
    np.testing.assert_array_equal(given.brain.voxels, head.brain.get_fdata())
    assert given.scan.source["brain_mask"] == "brain.nii.gz"
    assert unlabelled_input(scan, tmp_path / "ct.nii.gz").brain is None
    head.brain.to_filename(tmp_path / "brain.nii")
    with pytest.raises(UserError, match=r"both brain\.nii and brain\.nii\.gz"):
        unlabelled_input(scan, tmp_path)


def test_labels_of_which_none_counts_are_flagged(head, tmp_path):
    head.ct.to_filename(tmp_path / "scan.nii")
    case = FileCase("a", tmp_path / "scan.nii", lesion=tmp_path / "lesion.nii")
    empty = np.zeros(head.lesion.shape, np.uint8)
    nib.Nifti1Image(empty, head.lesion.affine).to_filename(case.lesion)
    others = PrepareSettings(infarct_labels=(2, 3))
    given = case.load(others, READING)
    assert given.scan.flags == ("the label is empty: it marks no infarct",)
    head.lesion.to_filename(case.lesion)
    assert case.load(SETTINGS, READING).scan.flags == ()
    given = case.load(others, READING)
    assert given.scan.flags == ("no voxel of the label counts as infarct (2, 3)",)
    assert not given.lesion.voxels.any()


def test_every_file_that_matters_in_a_fixed_order(tmp_path):
    folder = tmp_path / "case"
    for name in ("dicom/b/2", "dicom/a/1", "lesion.nii", "tissue/csf.nii", "notes.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (case,) = find_plain(tmp_path).cases
    files = [str(path.relative_to(folder)) for path in case.files()]
    assert files == ["dicom/a/1", "dicom/b/2", "lesion.nii", "tissue/csf.nii"]


def test_tissue_maps_that_are_not_three(head, tmp_path):
    head.ct.to_filename(tmp_path / "scan.nii")
    maps = {"grey": tmp_path / "grey.nii", "csf": tmp_path / "csf.nii"}
    case = FileCase("a", tmp_path / "scan.nii", tissue=maps)
    with pytest.raises(UserError, match="a has tissue maps but none of white; give"):
        case.load(SETTINGS, READING)


def test_a_refused_case_says_why():
    case = RefusedCase("a", "two scans could be meant; keep one.")
    assert isinstance(case, RawCase)
    assert case.files() == []
    with pytest.raises(UserError, match="two scans could be meant; keep one"):
        case.load(SETTINGS, READING)


def test_splits_beside_the_cases(tmp_path):
    assert given_splits(tmp_path) is None
    (tmp_path / "splits.json").write_text(json.dumps({"train": ["a"]}))
    assert given_splits(tmp_path) == {"train": ["a"]}


def test_plain_cases(tmp_path):
    assert not looks_like_plain(tmp_path)
    for name in ("b/ct.nii", "a/dicom/1", "c/other.nii", ".hidden/ct.nii"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    assert looks_like_plain(tmp_path)
    dataset = find_plain(tmp_path)
    assert [case.name for case in dataset.cases] == ["a", "b", "c"]
    with pytest.raises(UserError, match=r"it has other.nii but no ct.nii.gz"):
        dataset.cases[2].load(SETTINGS, READING)
    assert dataset.splits is None


@pytest.mark.parametrize("file", ["ct.nii", "lesion.nii", "lesion.dcm", "brain.nii"])
def test_two_files_of_which_either_could_be_meant_are_refused(tmp_path, file):
    touch(tmp_path, "p/ct.nii.gz", "p/lesion.nii.gz", "p/brain.nii.gz", f"p/{file}")
    (case,) = find_plain(tmp_path).cases
    with pytest.raises(UserError, match=f"it has both .*{file}.*; keep the one"):
        case.load(SETTINGS, READING)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("lesion.seg.nrrd", "lesion"),  # as 3D Slicer writes labels
        ("lesion.img", "lesion"),
        ("Lesion.nii.gz", "lesion"),
        ("brain.mha", "brain"),
    ],
)
def test_what_is_meant_to_be_read_and_cannot_be_is_refused(tmp_path, file, name):
    touch(tmp_path, "p/ct.nii.gz", f"p/{file}")
    (case,) = find_plain(tmp_path).cases
    with pytest.raises(UserError, match=f"{file} is not read; save it as {name}.nii"):
        unread_flags(case.unread)


def test_volumes_of_other_names_are_told(tmp_path):
    others = [f"p/{name}" for name in ("label.nii.gz", "a.hdr", "b.nii", "c.nrrd")]
    touch(tmp_path, "p/ct.nii.gz", "p/lesion.nii.gz", "p/notes.txt", *others)
    touch(tmp_path, "p/._lesion.nii.gz", "p/._a.hdr")
    (case,) = find_plain(tmp_path).cases
    (flag,) = unread_flags(case.unread)
    assert flag.startswith(
        "not read, for a label is called lesion.nii.gz: a.hdr, b.nii"
    )
    assert flag.endswith("c.nrrd and 1 more")
    assert unread_flags(()) == ()


def test_folders_that_are_no_case_are_named(tmp_path, head):
    (tmp_path / "good").mkdir()
    head.ct.to_filename(tmp_path / "good" / "ct.nii")
    shutil.copytree(tmp_path / "good", tmp_path / "site1" / "a")
    for name in ("other", "slices", "notes"):
        (tmp_path / name).mkdir()
    (tmp_path / "other" / "ct.nrrd").touch()
    (tmp_path / "notes" / "read.txt").touch()
    write_series(tmp_path / "slices", head_of_blocks())
    write_series(tmp_path / "capitals" / "DICOM", head_of_blocks())
    found = find_plain(tmp_path)
    refused = {c.name: c.reason for c in found.cases if isinstance(c, RefusedCase)}
    assert {case.name for case in found.cases} - refused.keys() == {"good", "capitals"}
    assert refused.keys() == {"other", "slices"}
    assert "ct.nrrd but no ct.nii.gz" in refused["other"]
    assert "DICOM files, but no folder dicom/" in refused["slices"]
    (remark,) = found.remarks
    assert remark.startswith("site1/ has scans or volumes in folders of its own")


def test_no_scan_goes_missing_without_a_word(tmp_path, head):
    for name in ("both", "packed"):
        (tmp_path / name).mkdir()
    head.ct.to_filename(tmp_path / "both" / "ct.nii")
    write_series(tmp_path / "both" / "dicom", head_of_blocks())
    (tmp_path / "packed" / "dicom.zip").touch()
    write_series(tmp_path / "deep" / "STUDY" / "SER", head_of_blocks(), name="IM{:04d}")
    (tmp_path / "case7.nii.gz").touch()
    found = find_plain(tmp_path)
    cases = {case.name: case for case in found.cases}
    assert cases["both"].scan.name == "ct.nii"
    assert "it has dicom.zip but no dicom/" in cases["packed"].reason
    assert "DICOM files in STUDY/SER/, but no folder dicom/" in cases["deep"].reason
    loose, second = found.remarks
    assert loose.startswith("case7.nii.gz beside the folders of cases is not read")
    assert second == "dicom/ is not read where there is ct.nii.gz: both"


def test_folders_of_other_things_are_no_failed_cases(tmp_path, head):
    (tmp_path / "good").mkdir()
    head.ct.to_filename(tmp_path / "good" / "ct.nii")
    touch(tmp_path, "code/venv/lib/x.zip", "downloads/.git/y.tar.gz", "code/run.py")
    for patient in ("a", "b"):
        write_series(tmp_path / "sourcedata" / patient, head_of_blocks())
    found = find_plain(tmp_path)
    assert [case.name for case in found.cases] == ["good"]


def test_a_value_that_does_not_count_is_flagged(tmp_path, head):
    values = np.zeros(head.ct.shape, np.uint8)
    values[4, 4, :3] = 1
    values[5, 5, :2] = 4
    label = nib.Nifti1Image(values, head.ct.affine)
    for name, image in (("ct", head.ct), ("lesion", label)):
        image.to_filename(tmp_path / f"{name}.nii")
    scan = read_scan(tmp_path / "ct.nii")
    lesion, flags = read_label(tmp_path / "lesion.nii", scan, (1, 2, 3, 5))
    assert np.count_nonzero(lesion.voxels) == 3
    assert flags == (
        "the value 4 of the label (2 voxels) does not count as infarct (1, 2, 3, 5)",
    )


def test_of_two_maps_of_spm_the_one_not_used_is_told(tmp_path):
    maps = ("c1old.nii", "c1scan.nii", "c2scan.nii", "c3scan.nii")
    touch(tmp_path, "p/ct.nii.gz", *(f"p/tissue/{name}" for name in maps))
    (case,) = find_plain(tmp_path).cases
    assert case.tissue["grey"].name == "c1old.nii"
    (flag,) = case.flags
    assert flag.startswith("not used of tissue/: c1scan.nii; a tissue has one map")


@pytest.mark.parametrize(
    "names",
    [
        ("tissue/GM.nii.gz", "tissue/WM.nii.gz", "tissue/CSF.nii.gz"),
        ("Tissue/Grey.nii.gz", "Tissue/White.nii.gz", "Tissue/Csf.nii"),
        ("tissue/ct_gray.nii", "tissue/ct_white.nii", "tissue/ct_csf.nii"),
    ],
)
def test_tissue_maps_by_other_names(tmp_path, names):
    touch(tmp_path, "p/ct.nii.gz", *(f"p/{name}" for name in names))
    (case,) = find_plain(tmp_path).cases
    assert [case.tissue[name] for name in TISSUES] == [
        tmp_path / "p" / name for name in names
    ]
    assert case.flags == ()


def test_volumes_that_are_no_map_of_a_tissue_are_told(tmp_path):
    """On a CT the classes of FAST have another order than on an MRI."""
    maps = ("ct_pve_0.nii.gz", "ct_pve_1.nii.gz", "ct_pve_2.nii.gz", "c4ct.nii")
    touch(tmp_path, "p/ct.nii.gz", *(f"p/tissue/{name}" for name in maps))
    (case,) = find_plain(tmp_path).cases
    assert case.tissue is None
    (flag,) = case.flags
    assert flag.startswith("not used of tissue/: ct_pve_0.nii.gz, ct_pve_1.nii.gz")
    assert "c4ct" not in flag


def test_tissue_maps_of_spm_have_no_number_beside_the_head(tmp_path):
    for name in TISSUES:
        values = np.full((4, 4, 4), np.nan, np.float32)
        values[1:3] = 0.5
        nib.Nifti1Image(values, np.eye(4)).to_filename(tmp_path / f"{name}.nii.gz")
    paths = {name: tmp_path / f"{name}.nii.gz" for name in TISSUES}
    maps, flags = _open_tissue("a", paths)
    assert flags == ()
    for image in maps.values():
        assert np.isfinite(image.voxels).all()
        assert image.voxels.sum() == 16
    nib.Nifti1Image(values - 1, np.eye(4)).to_filename(paths["csf"])
    with pytest.raises(UserError, match=r"csf\.nii\.gz has values down to -0\.5; give"):
        _open_tissue("a", paths)


def tissue_paths(folder, *tops):
    """Files of the three maps, each up to its value."""
    paths = {}
    for name, top in zip(TISSUES, tops, strict=True):
        values = np.linspace(0, top, 64, dtype=np.float32).reshape(4, 4, 4)
        paths[name] = folder / f"{name}.nii.gz"
        nib.Nifti1Image(values, np.eye(4)).to_filename(paths[name])
    return paths


@pytest.mark.parametrize("whole", [100, 255])
def test_tissue_maps_of_another_scale_are_divided_by_it(tmp_path, whole):
    tops = (whole, 0.9 * whole, 1.1 * whole)
    maps, flags = _open_tissue("a", tissue_paths(tmp_path, *tops))
    found = [image.voxels.max() for image in maps.values()]
    np.testing.assert_allclose(found, (1, 0.9, 1.1), rtol=1e-6)
    assert flags == (f"the tissue maps go up to {whole}; they were divided by it",)


@pytest.mark.parametrize("tops", [(255, 1, 1), (255, 100, 100), (1000, 1000, 1000)])
def test_tissue_maps_of_different_scales_are_refused(tmp_path, tops):
    with pytest.raises(UserError, match=rf"odd values \(grey.nii.gz to {tops[0]},"):
        _open_tissue("a", tissue_paths(tmp_path, *tops))


def test_a_label_is_not_infarct_where_it_is_no_number(tmp_path, head):
    values = np.full(head.ct.shape, np.nan, np.float32)
    values[2:] = 0
    values[4, 4, :3] = 1
    label = nib.Nifti1Image(values, head.ct.affine)
    for name, image in (("ct", head.ct), ("lesion", label)):
        image.to_filename(tmp_path / f"{name}.nii")
    scan = read_scan(tmp_path / "ct.nii")
    lesion, (flag,) = read_label(tmp_path / "lesion.nii", scan, (1,))
    assert np.count_nonzero(lesion.voxels) == 3
    count = 2 * np.prod(head.ct.shape[1:])
    assert flag == f"voxels of the label that are NaN, taken for 0: {count}"


@pytest.mark.parametrize("form", ["itk", "nibabel"])
def test_what_is_drawn_on_a_scan_without_place_lies_on_its_voxels(tmp_path, head, form):
    """ITK lays such a scan otherwise than nibabel, and writes that into a label."""
    unplaced = nib.Nifti1Image(np.asarray(head.ct.dataobj), None)
    unplaced.header.set_zooms(head.ct.header.get_zooms()[:3])
    (tmp_path / "p").mkdir()
    unplaced.to_filename(tmp_path / "p" / "ct.nii")
    steps = np.diag([*head.ct.header.get_zooms()[:3], 1.0])
    affine = steps * [[-1], [-1], [1], [1]] if form == "itk" else head.ct.affine
    drawn = np.asarray(head.lesion.dataobj).astype(np.uint8)
    inside = np.asarray(head.brain.dataobj).astype(np.uint8)
    for name, values in (("lesion", drawn), ("brain", inside)):
        nib.Nifti1Image(values, affine).to_filename(tmp_path / "p" / f"{name}.nii")
    (case,) = find_plain(tmp_path).cases
    given = case.load(PrepareSettings(infarct_labels=(1,)), ReadSettings())
    np.testing.assert_array_equal(given.lesion.voxels, drawn)
    np.testing.assert_array_equal(onto_scan(given.brain, given.scan).voxels, inside)
    assert [flag for flag in given.scan.flags if "voxel by voxel" in flag] == [
        f"the scan does not say where its voxels lie, but the {meaning} does: laid on "
        "it voxel by voxel, in the order of the files"
        for meaning in ("lesion label", "brain mask")
    ]
