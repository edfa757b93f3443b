"""Links in raw data sets: to nothing (DataLad, git-annex), to folders, in loops."""

import json
import shutil
from pathlib import Path

import pytest

from adn_jax.config import PrepareSettings, ReadSettings
from adn_jax.datasets.recognise import find_dataset
from adn_jax.errors import UserError
from adn_jax.prepare.dataset import input_fingerprint
from adn_jax.scans.read import read_scan
from tests.datasets.test_bids import touch

ABOUT = json.dumps(
    {"channel_names": {"0": "CT"}, "labels": {"background": 0, "infarct": 1}}
)

PLAIN = ("p/ct.nii.gz", "p/lesion.nii.gz", "p/brain.nii.gz", "p/tissue/grey.nii.gz")

BIDS = (
    "rawdata/sub-1/ses-1/sub-1_ses-1_ct.nii.gz",
    "derivatives/masks/sub-1/sub-1_lesion-mask.nii.gz",
)

NNUNET = ("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")

AISD = (
    *("image/0073410/000.png", "mask/0073410/000.png"),
    *("dicom-0/0073410/CT/001", "dicom-0/0073410/CT/002"),
)

LAYOUTS = {"plain": PLAIN, "bids": BIDS, "nnunet": NNUNET, "aisd": AISD}

EVERY_FILE = [(layout, file) for layout, files in LAYOUTS.items() for file in files]


def write_data(root: Path, layout: str) -> Path:
    """Empty files of one case."""
    touch(root, *LAYOUTS[layout])
    if layout == "nnunet":
        (root / "dataset.json").write_text(ABOUT)
    return root


def take_away(path: Path) -> None:
    """Leave a link to nothing in place of a file or folder."""
    path.unlink() if path.is_file() else shutil.rmtree(path)
    (path).symlink_to(f"/absent/{path.name}")


def refusal(root: Path, layout: str) -> str:
    """Why the only case fails."""
    (case,) = find_dataset(root, layout).cases
    with pytest.raises(UserError) as error:
        input_fingerprint(case, PrepareSettings(), ReadSettings())
    return str(error.value)


@pytest.mark.parametrize(("layout", "file"), EVERY_FILE)
def test_a_file_that_was_not_fetched_fails_its_case_by_name(tmp_path, layout, file):
    root = write_data(tmp_path / "data", layout)
    take_away(root / file)
    said = refusal(root, layout)
    assert f"{root / file} is a link whose target is missing" in said
    assert "datalad get" in said


def test_a_dicom_label_that_was_not_fetched_fails_its_case_by_name(tmp_path):
    touch(tmp_path, "p/ct.nii.gz")
    (tmp_path / "p/lesion.dcm").symlink_to("/absent/lesion.dcm")
    assert "lesion.dcm is a link whose target is missing" in refusal(tmp_path, "plain")


@pytest.mark.parametrize(
    ("layout", "folder"),
    [
        *(("plain", folder) for folder in ("p", "p/tissue", "p/dicom")),
        *(("bids", f"rawdata/sub-1{more}") for more in ("", "/ses-1")),
        *(("aisd", f"{part}/0073410") for part in ("image", "mask", "dicom-0")),
        ("aisd", "dicom-0/0073410/CT"),
    ],
)
def test_a_folder_that_is_not_there_fails_its_case_by_name(tmp_path, layout, folder):
    root = write_data(tmp_path / "data", layout)
    if folder == "p/dicom":
        (root / "p" / "ct.nii.gz").unlink()
        (root / folder).mkdir()
    take_away(root / folder)
    assert f"{root / folder} is a link whose target is missing" in refusal(root, layout)


@pytest.mark.parametrize(
    ("layout", "name"),
    [
        ("plain", "splits.json"),
        *(("bids", name) for name in ("participants.tsv", "rawdata", "derivatives")),
        ("bids", "derivatives/masks"),
        *(("nnunet", f"{name}Tr") for name in ("images", "labels")),
        *(("nnunet", name) for name in ("imagesTs", "splits_final.json")),
        *(("aisd", f"dicom{more}") for more in ("", "-0", "-1")),
        *(("aisd", name) for name in ("mask", "test.txt")),
    ],
)
def test_what_concerns_every_case_is_named_at_once(tmp_path, layout, name):
    root = write_data(tmp_path / "data", layout)
    if (root / name).is_dir():
        take_away(root / name)
    else:
        (root / name).symlink_to(f"/absent/{name}")
    with pytest.raises(UserError, match=f"{name} is a link whose target is missing"):
        find_dataset(root, layout)


@pytest.mark.parametrize("name", ["README", "LICENSE", "CHANGES", "fmriprep", "sub-2"])
def test_what_holds_no_label_of_other_cases_does_not_concern_them(tmp_path, name):
    touch(tmp_path, *BIDS, *(file.replace("sub-1", "sub-2") for file in BIDS))
    lost = tmp_path / "derivatives" / name
    lost.symlink_to(f"/absent/{name}")
    first, second = find_dataset(tmp_path, "bids").cases
    assert first.lesion == tmp_path / BIDS[1]
    if name == "sub-2":
        with pytest.raises(UserError, match=f"{lost} is a link whose target is missi"):
            input_fingerprint(second, PrepareSettings(), ReadSettings())
    else:
        assert second.lesion is not None


@pytest.mark.parametrize(
    ("labels", "name"), [(False, "fmriprep"), (True, "Lesion_new"), (True, "manual")]
)
def test_derivatives_that_may_hold_labels_are_named(tmp_path, labels, name):
    touch(tmp_path, BIDS[0], *(BIDS[1:] if labels else ("derivatives/README",)))
    (tmp_path / "derivatives" / name).symlink_to(f"/absent/{name}")
    with pytest.raises(UserError, match=f"{name} is a link whose target is missing"):
        find_dataset(tmp_path, "bids")


def test_a_text_beside_derivatives_is_not_missed(tmp_path):
    touch(tmp_path, BIDS[0])
    (tmp_path / "derivatives").mkdir()
    (tmp_path / "derivatives" / "README").symlink_to("/absent/README")
    assert len(find_dataset(tmp_path, "bids").cases) == 1


def test_an_archive_that_was_not_fetched_is_named(tmp_path):
    root = write_data(tmp_path / "data", "aisd")
    (root / "dicom-1.tar.gz").symlink_to("/absent/dicom-1.tar.gz")
    reading = ReadSettings(aisd_unpack=str(tmp_path / "unpacked"))
    with pytest.raises(UserError, match=r"dicom-1\.tar\.gz is a link whose target"):
        find_dataset(root, "aisd", reading)


def test_files_beside_the_cases_are_no_cases(tmp_path):
    root = write_data(tmp_path / "data", "plain")
    for name, target in (
        ("README.md", "/absent/README.md"),
        ("README", ".git/annex/objects/ab/README"),
        (".lock", "/absent/lock"),
    ):
        (root / name).symlink_to(target)
    assert [case.name for case in find_dataset(root).cases] == ["p"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_linked_folders_are_searched_and_loops_end(tmp_path, layout):
    root = write_data(tmp_path / "data", layout)
    deepest = root / LAYOUTS[layout][0]
    folder = deepest.parent
    moved = tmp_path / "store"
    folder.rename(moved)
    (folder).symlink_to(moved)
    (moved / "loop").symlink_to(moved)
    (case,) = find_dataset(root, layout).cases
    names = {Path(file).name for file in LAYOUTS[layout]}
    assert names == {file.name for file in case.files()} & names


def test_a_scan_that_was_not_fetched(tmp_path):
    for name in ("ct.nii.gz", "dicom", "scan.zip"):
        (tmp_path / name).symlink_to(f"/absent/{name}")
        with pytest.raises(UserError, match=f"{name} is a link whose target is missin"):
            read_scan(tmp_path / name)
    with pytest.raises(UserError, match=r"ct\.nii\.gz is a link whose target"):
        read_scan(tmp_path)
