import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from adn_jax.data.cases import (
    PreparedCase,
    check_sums,
    read_case,
    read_native_lesion,
    write_case,
)
from adn_jax.errors import UserError
from adn_jax.io.image import Image

SHAPE = (4, 5, 6)
AFFINE = np.diag([1.2, 1.3, 5.0, 1.0])


@pytest.fixture
def case() -> PreparedCase:
    rng = np.random.default_rng(0)
    return PreparedCase(
        name="a",
        volume=rng.random(SHAPE, np.float32),
        brain=np.ones(SHAPE, np.uint8),
        affine=AFFINE,
        geometry={"shape": [6, 5, 4], "affine": AFFINE.tolist()},
        lesion=rng.random(SHAPE, np.float32),
        tissue=rng.integers(0, 4, SHAPE, np.uint8),
        pathological=rng.random(SHAPE, np.float32),
        quality={"brain_ml": 1300.0},
        flags=("a sentence",),
        source={"file": "ct.nii.gz"},
        truth={"head_to_world": np.eye(4).tolist()},
    )


@pytest.fixture
def folder(case, tmp_path):
    write_case(tmp_path / "a", case)
    return tmp_path / "a"


def edit_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_what_is_written_is_read(case, folder):
    again = read_case(folder)
    for name in ("volume", "brain", "lesion", "tissue", "pathological", "affine"):
        ours, theirs = getattr(again, name), getattr(case, name)
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype
    for name in ("name", "geometry", "quality", "flags", "source", "truth"):
        assert getattr(again, name) == getattr(case, name)
    assert again.spacing_mm == pytest.approx((5.0, 1.3, 1.2))


def test_the_volume_is_a_memory_map(folder):
    volume = read_case(folder).volume
    assert isinstance(volume, np.memmap)
    assert volume.flags.c_contiguous


def test_viewers_see_the_same_grid(case, folder):
    image = nib.load(folder / "ct.nii")
    assert image.shape == SHAPE[::-1]
    assert image.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_allclose(image.affine, AFFINE)
    assert image.dataobj[5, 3, 1] == case.volume[1, 3, 5]


def test_what_a_case_lacks_stays_none(case, tmp_path):
    plain = replace(case, lesion=None, tissue=None, pathological=None)
    write_case(tmp_path / "plain", plain)
    again = read_case(tmp_path / "plain")
    assert again.lesion is again.tissue is again.pathological is None
    assert read_native_lesion(tmp_path / "plain") is None


def test_writing_again_replaces_everything(case, folder):
    write_case(folder, replace(case, lesion=None), record={"input": "x"})
    assert not (folder / "lesion.nii.gz").exists()
    assert json.loads((folder / "case.json").read_text())["input"] == "x"
    assert [path.name for path in folder.parent.iterdir()] == ["a"]


def test_same_case_same_bytes(case, folder, tmp_path):
    write_case(tmp_path / "b", case)
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_native_lesion_keeps_its_own_grid(case, tmp_path):
    label = Image(np.ones((7, 8, 9), np.uint8), np.diag([1, 2, 3, 1.0]), "label")
    write_case(tmp_path / "a", case, label)
    again = read_native_lesion(tmp_path / "a")
    np.testing.assert_array_equal(again.voxels, label.voxels)
    np.testing.assert_array_equal(again.affine, label.affine)


@pytest.mark.parametrize("file", ["ct.nii", "lesion.nii.gz", "brain.nii.gz"])
def test_a_missing_file_is_named(folder, file):
    (folder / file).unlink()
    with pytest.raises(UserError, match=f"{file} does not exist"):
        read_case(folder)
    with pytest.raises(UserError, match=f"{file} is missing or has changed"):
        check_sums(folder)


@pytest.mark.parametrize("file", ["ct.nii", "tissue.nii.gz"])
def test_a_truncated_file_is_named(folder, file):
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=rf"{file} is .*(truncated|not a readable)"):
        read_case(folder)


def test_a_file_of_another_shape_is_named(folder):
    other = nib.Nifti1Image(np.zeros((6, 5, 3), np.uint8), AFFINE)
    other.to_filename(folder / "brain.nii.gz")
    with pytest.raises(
        UserError, match=r"brain.nii.gz holds uint8 \(3, 5, 6\) instead"
    ):
        read_case(folder)


def test_a_changed_value_is_found_by_its_checksum(folder):
    check_sums(folder)
    content = bytearray((folder / "ct.nii").read_bytes())
    content[-1] ^= 1
    (folder / "ct.nii").write_bytes(content)
    with pytest.raises(UserError, match=r"ct\.nii is missing or has changed"):
        check_sums(folder)


@pytest.mark.parametrize("key", ["geometry", "quality", "flags", "sha256", "name"])
def test_a_spoiled_record_is_named(folder, key):
    edit_json(folder / "case.json", lambda content: content.pop(key))
    with pytest.raises(UserError, match=rf"case.json lacks or spoils '{key}'"):
        read_case(folder)


def test_an_affine_that_is_not_finite_is_refused(folder):
    def spoil(content):
        content["geometry"]["affine"][0][0] = float("nan")

    edit_json(folder / "case.json", spoil)
    with pytest.raises(UserError, match="an affine that is not finite"):
        read_case(folder)


def test_a_folder_that_is_no_case(tmp_path):
    with pytest.raises(UserError, match=r"case.json does not exist"):
        read_case(tmp_path)
