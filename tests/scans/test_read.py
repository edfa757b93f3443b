import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from adn_jax.errors import UserError
from adn_jax.scans.read import read_scan, scan_name
from tests.scans.dicom.files import head_of_blocks, write_series

RAMP = np.linspace(-1000, 900, 216, dtype=np.float32).reshape(6, 6, 6)


def save(path, values, affine=None):
    affine = np.diag([20.0, 20.0, 20.0, 1.0]) if affine is None else affine
    image = nib.Nifti1Image(values, affine)
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
    values = np.arange(6 * 7 * 8, dtype=np.int16).reshape(6, 7, 8) * 5 - 1000
    affine = np.diag([-15.0, 15.0, 5.0, 1.0])
    scan = read_scan(save(tmp_path / "patient7.nii.gz", values, affine))
    assert scan.name == "patient7"
    assert scan.source == {"file": "patient7.nii.gz"}
    np.testing.assert_array_equal(scan.image.voxels, values)
    np.testing.assert_array_equal(scan.image.affine, affine)


def test_a_case_folder_gives_its_name(tmp_path):
    folder = tmp_path / "case12"
    folder.mkdir()
    path = save(folder / "ct.nii", RAMP)
    assert read_scan(folder).name == read_scan(path).name == "case12"


def test_a_single_volume_in_four_dimensions_is_one_volume(tmp_path):
    path = save(tmp_path / "a.nii", RAMP[..., None])
    assert read_scan(path).image.shape == (6, 6, 6)


def test_missing_path(tmp_path):
    assert "does not exist" in refusal(tmp_path / "nothing.nii.gz")


def test_empty_folder(tmp_path):
    assert "is empty" in refusal(tmp_path)


def test_folder_without_dicom(tmp_path):
    (tmp_path / "notes.txt").write_text("no images here")
    assert "holds no DICOM series" in refusal(tmp_path)


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
def test_values_that_are_no_numbers_become_air(tmp_path, value):
    values = RAMP.copy()
    values[1, 2, 3] = value
    scan = read_scan(save(tmp_path / "a.nii", values))
    assert scan.image.voxels[1, 2, 3] == -1024
    assert scan.flags == ("voxels that were NaN or infinite, set to air: 1",)


def test_mostly_nan(tmp_path):
    values = RAMP.copy()
    values[:] = np.nan
    values[0, 0] = RAMP[0, 0]
    assert "nearly all voxels of" in refusal(save(tmp_path / "a.nii", values))


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


def test_absurd_declared_size(tmp_path):
    header = nib.Nifti1Header()
    header.set_data_shape((30000, 30000, 30000))
    path = tmp_path / "a.nii"
    path.write_bytes(header.binaryblock + bytes(1000))
    assert "too many for a head scan" in refusal(path)


def test_a_series_asked_of_a_nifti_file_is_flagged(tmp_path, head):
    head.ct.to_filename(tmp_path / "a.nii")
    plain, asked = (read_scan(tmp_path / "a.nii", series) for series in ("", "bone"))
    assert asked.flags[len(plain.flags) :] == (
        "the series 'bone' was asked for, but a NIfTI file has one only",
    )


def test_missing_rescale_intercept_is_corrected(tmp_path, head):
    stored = np.asarray(head.ct.dataobj).clip(-1024) + 1024
    scan = read_scan(save(tmp_path / "a.nii", stored, head.ct.affine))
    np.testing.assert_allclose(scan.image.voxels, stored - 1024.0)
    assert scan.flags == (
        "values were stored without the rescale intercept; 1024 taken off, by the "
        "brightness of soft tissue (had it been 1000, all HU would be 24 higher)",
    )


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.arange(216).reshape(6, 6, 6), "go from 0 to 215, as in a windowed picture"),
        (np.linspace(0, 1, 216, dtype="f4").reshape(6, 6, 6), "go from 0 to 1, as"),
        (RAMP.clip(-50, 100), "go from -50 to 100"),
    ],
)
def test_pictures_are_refused(tmp_path, values, words):
    assert words in refusal(save(tmp_path / "a.nii", values.astype(np.float32)))


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("p1.nii", "p1"),
        ("p1.NII.GZ", "p1"),
        ("p1.tar.gz", "p1"),
        ("p1.zip", "p1"),
        ("p1.v2.dcm", "p1.v2"),
        ("case7/ct.nii.gz", "case7"),
        ("case7/dicom", "case7"),
        ("case7/DICOM", "case7"),
    ],
)
def test_scans_are_named_after_their_file_or_case(path, name):
    assert scan_name(Path(path)) == name


def test_folders_keep_their_whole_name(tmp_path):
    (tmp_path / "p.zip").mkdir()
    assert scan_name(tmp_path / "p.zip") == "p.zip"


def test_doubtful_affine_is_flagged(tmp_path):
    header = nib.Nifti1Header()
    header.set_qform(np.diag([20.0, 20, 5, 1]), 1)
    header.set_sform(np.diag([-20.0, 20, 5, 1]), 1)
    nib.Nifti1Image(RAMP, None, header).to_filename(tmp_path / "a.nii")
    scan = read_scan(tmp_path / "a.nii")
    assert "sform and qform disagree by up to 40 voxels" in scan.flags[0]
    np.testing.assert_array_equal(scan.image.affine, header.get_sform())


def test_too_small_for_a_head(tmp_path):
    path = save(tmp_path / "a.nii", RAMP, np.diag([2.0, 2.0, 5.0, 1.0]))
    assert "is 12 x 12 x 30 mm large, too small for a head" in refusal(path)


def test_a_clipped_scan_is_read_where_its_range_is_stated(tmp_path):
    values = np.clip(np.linspace(-1000, 900, 30**3).reshape(30, 30, 30), -17, 80)
    path = save(tmp_path / "a.nii", values.astype(np.float32), np.diag([7, 7, 7, 1.0]))
    assert "--hu-range -17 80" in refusal(path)
    scan = read_scan(path, hu_range=(-17.0, 80.0))
    assert scan.image.voxels.max() > 300
    assert scan.image.voxels.min() < -900
    assert scan.flags == (
        "values were clipped to -17 to 80 HU; bone and air were put in",
    )


@pytest.mark.parametrize("tilt_deg", [0.0, 15.0])
def test_a_clipped_dicom_series_is_read_where_its_range_is_stated(tmp_path, tilt_deg):
    hu = np.clip(head_of_blocks(12), 0, 80)
    write_series(tmp_path, hu, tilt_deg=tilt_deg)
    scan = read_scan(tmp_path, hu_range=(0.0, 80.0))
    assert (scan.taken is None) == (tilt_deg == 0)
    assert (scan.image.voxels.min(), scan.image.voxels.max()) == (-1000, 1000)
    assert scan.flags == (
        "values were clipped to 0 to 80 HU; bone and air were put in",
    )


def test_a_slice_of_one_value_inside_the_head_is_interpolated(tmp_path):
    """Some converters put a black slice where an image was lost."""
    head = head_of_blocks(slices=12).astype(np.float32)
    head[0] = head[-1] = -1000  # beyond the head nothing is lost
    black = head.copy()
    black[5] = -1024
    along_y_z_x = np.zeros((4, 4))
    along_y_z_x[[1, 2, 0, 3], [0, 1, 2, 3]] = 4, 10, 4, 1
    path = save(tmp_path / "a.nii", np.moveaxis(black, 0, 1), along_y_z_x)
    scan = read_scan(path)
    assert scan.flags == (
        "slices of one value between those of the head, as where images were lost (6, "
        "counted from 1), were interpolated",
    )
    found = np.moveaxis(scan.image.voxels, 1, 0)
    np.testing.assert_allclose(found[5], (head[4] + head[6]) / 2)
    rest = np.arange(12) != 5
    np.testing.assert_array_equal(found[rest], head[rest])


def test_slices_of_one_value_beyond_the_head_stay(tmp_path):
    hu = head_of_blocks(slices=12)
    hu[[0, 1, 9, 11]] = -1000
    hu[10] = np.where(hu[10] > 0, -300, -1000)  # a cap, no head
    scan = read_scan(save(tmp_path / "a.nii", hu.T, np.diag([4, 4, 10, 1.0])))
    assert scan.flags == ()
    np.testing.assert_array_equal(scan.image.voxels, hu.T)
