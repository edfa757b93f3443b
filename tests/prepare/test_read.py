import gzip
import shutil

import nibabel as nib
import numpy as np
import pytest

from adn_jax.errors import UserError
from adn_jax.prepare.read import best_variant, preference, read_scan


def save(path, values, affine=None):
    image = nib.Nifti1Image(values, np.eye(4) if affine is None else affine)
    image.to_filename(path)
    return path


def refusal(path) -> str:
    with pytest.raises(UserError) as caught:
        read_scan(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def test_a_nifti_file_is_read_in_its_own_order(tmp_path):
    values = np.arange(6 * 7 * 8, dtype=np.int16).reshape(6, 7, 8) - 200
    affine = np.diag([-0.5, 0.5, 5.0, 1.0])
    scan = read_scan(save(tmp_path / "patient7.nii.gz", values, affine))
    assert scan.name == "patient7"
    assert scan.source == {"file": "patient7.nii.gz"}
    np.testing.assert_array_equal(scan.image.dataobj, values)
    np.testing.assert_array_equal(scan.image.affine, affine)


def test_a_case_folder_gives_its_name(tmp_path):
    folder = tmp_path / "case12"
    folder.mkdir()
    path = save(folder / "ct.nii", np.arange(216.0, dtype="f4").reshape(6, 6, 6))
    assert read_scan(folder).name == read_scan(path).name == "case12"


def test_a_single_volume_in_four_dimensions_is_one_volume(tmp_path):
    path = save(tmp_path / "a.nii", np.arange(216, dtype="f4").reshape(6, 6, 6, 1))
    assert read_scan(path).image.shape == (6, 6, 6)


def test_missing_path(tmp_path):
    assert "does not exist" in refusal(tmp_path / "nothing.nii.gz")


def test_empty_folder(tmp_path):
    assert "is empty" in refusal(tmp_path)


def test_folder_without_dicom(tmp_path):
    (tmp_path / "notes.txt").write_text("no images here")
    assert "no DICOM series" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["slice.dcm", "head.png"])
def test_single_file_that_is_no_nifti(tmp_path, name):
    (tmp_path / name).write_bytes(b"something else")
    assert "is no NIfTI file" in refusal(tmp_path / name)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((8, 8, 8, 3), "has 4 dimensions (8, 8, 8, 3)"),
        ((8, 8), "has 2 dimensions (8, 8)"),
        ((64, 64, 2), "has only 2 slices"),
    ],
)
def test_wrong_shape(tmp_path, shape, message):
    assert message in refusal(save(tmp_path / "a.nii", np.zeros(shape, np.int16)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(tmp_path, value):
    values = np.zeros((8, 8, 8), np.float32)
    values[1, 2, 3] = value
    assert "NaN or infinite" in refusal(save(tmp_path / "a.nii", values))


@pytest.mark.parametrize("value", [0, 35])
def test_constant_volume(tmp_path, value):
    path = save(tmp_path / "a.nii", np.full((8, 8, 8), value, np.int16))
    assert f"every voxel of {path} is {value}" in refusal(path)


def test_colour_picture(tmp_path):
    colour = np.zeros((8, 8, 8), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    assert "a colour picture" in refusal(save(tmp_path / "a.nii", colour))


def test_truncated_gzip(tmp_path):
    noise = np.random.default_rng(0).integers(-1000, 1000, (16, 16, 16), np.int16)
    path = save(tmp_path / "a.nii.gz", noise)
    path.write_bytes(path.read_bytes()[:3000])
    assert "truncated or damaged" in refusal(path)


def test_flipped_bytes_in_gzip(tmp_path):
    noise = np.random.default_rng(0).integers(-1000, 1000, (16, 16, 16), np.int16)
    content = bytearray(save(tmp_path / "a.nii.gz", noise).read_bytes())
    content[2000:2040] = bytes(40)
    (tmp_path / "a.nii.gz").write_bytes(content)
    assert "truncated or damaged" in refusal(tmp_path / "a.nii.gz")


def test_truncated_uncompressed_file(tmp_path):
    path = save(tmp_path / "a.nii", np.ones((16, 16, 16), np.int16))
    path.write_bytes(path.read_bytes()[:1000])
    assert "truncated or damaged" in refusal(path)


@pytest.mark.parametrize(
    "content", [b"", b"not a scan" * 100, gzip.compress(b"x", mtime=0)]
)
def test_file_that_only_looks_like_nifti(tmp_path, content):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(content)
    assert "is not a readable NIfTI file" in refusal(path)


def test_flat_affine(tmp_path):
    path = save(tmp_path / "a.nii", np.zeros((8, 8, 8), "f4"), np.eye(4))
    image = nib.load(path)
    image.header["srow_x"] = image.header["srow_y"]
    content = bytearray(path.read_bytes())
    content[:348] = image.header.binaryblock
    path.write_bytes(content)
    assert "no usable affine" in refusal(path)


def test_absurd_declared_size(tmp_path):
    header = nib.Nifti1Header()
    header.set_data_shape((30000, 30000, 30000))
    path = tmp_path / "a.nii"
    path.write_bytes(header.binaryblock + bytes(1000))
    assert "too many for a head scan" in refusal(path)


def test_missing_rescale_intercept_is_corrected(tmp_path, head):
    stored = np.asarray(head.ct.dataobj).clip(-1024) + 1024
    scan = read_scan(save(tmp_path / "a.nii", stored, head.ct.affine))
    np.testing.assert_allclose(scan.image.dataobj, stored - 1024.0)
    assert scan.flags == (
        "values were stored without the rescale intercept; 1024 taken off",
    )


def test_most_corrected_variant_of_a_series(tmp_path):
    for name in ("s2.nii", "s2_Tilt_1.nii", "s2_Tilt_Eq_1.nii", "s21_Tilt_Eq_1.nii"):
        (tmp_path / name).touch()
    assert best_variant(tmp_path, "s2").name == "s2_Tilt_Eq_1.nii"
    (tmp_path / "s2_Tilt_Eq_1.nii").unlink()
    assert best_variant(tmp_path, "s2").name == "s2_Tilt_1.nii"


GOOD = {
    "file": "s1",
    "modality": "CT",
    "axial": True,
    "slices": 30,
    "original": True,
    "contrast": False,
}


@pytest.mark.parametrize(
    "worse",
    [
        {"modality": "MR", "slices": 200},
        {"axial": False, "slices": 90},
        {"slices": 2},
        {"original": False, "slices": 90},
        {"contrast": True, "slices": 90},
        {"slices": 29},
    ],
)
def test_choice_of_the_series(worse):
    assert preference(GOOD) > preference({**GOOD, "file": "s9", **worse})


@pytest.mark.shared
def test_real_tilted_series(shared, tmp_path):
    shutil.copytree(shared / "data" / "ge_head_ct", tmp_path / "patient" / "dicom")
    scan = read_scan(tmp_path / "patient" / "dicom")
    assert scan.name == "patient"
    assert scan.source["file"].endswith("_Tilt_Eq_1.nii")
    assert any("gantry tilt of 18.5" in warning for warning in scan.source["warnings"])
    axes = scan.image.affine[:3, :3] / np.linalg.norm(scan.image.affine[:3, :3], axis=0)
    np.testing.assert_allclose(abs(axes.T @ axes), np.eye(3), atol=1e-6)
    assert scan.flags == ()
