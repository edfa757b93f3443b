from contextlib import suppress

import nibabel as nib
import numpy as np
import pytest

from adn_jax.data.nifti import (
    check_gzip,
    one_line,
    open_nifti,
    read_voxels,
    write_volume,
)
from adn_jax.errors import UserError


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_written_volumes_come_back(tmp_path, name):
    volume = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    write_volume(tmp_path / name, volume, np.diag([1.0, 2.0, 3.0, 1.0]))
    image = open_nifti(tmp_path / name)
    assert image.shape == (4, 3, 2)
    np.testing.assert_array_equal(read_voxels(image, np.uint8).T, volume)


def test_scaled_integers_are_read_as_their_values(tmp_path):
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_slope_inter(2.0, -1024.0)
    values = np.linspace(-1024, 1000, 27).round(-1).reshape(3, 3, 3)
    nib.Nifti1Image(values, np.eye(4), header).to_filename(tmp_path / "a.nii.gz")
    read = read_voxels(open_nifti(tmp_path / "a.nii.gz"), np.float32)
    assert read.dtype == np.float32
    np.testing.assert_allclose(read, values, atol=1.0)


def test_other_image_formats_are_refused(tmp_path):
    nib.MGHImage(np.zeros((3, 3, 3), np.float32), np.eye(4)).to_filename(
        tmp_path / "a.mgz"
    )
    with pytest.raises(UserError, match="is not a readable NIfTI file"):
        open_nifti(tmp_path / "a.mgz")


def test_checksum_of_the_compressed_stream_is_compared(tmp_path):
    path = tmp_path / "a.nii.gz"
    write_volume(path, np.zeros((8, 8, 8), np.uint8), np.eye(4))
    check_gzip(str(path))
    content = bytearray(path.read_bytes())
    content[-8] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="truncated or damaged"):
        read_voxels(open_nifti(path), np.uint8)


@pytest.mark.parametrize("seed", range(40))
def test_damaged_files_are_refused_or_read(tmp_path, seed):
    rng = np.random.default_rng(seed)
    path = tmp_path / ("a.nii.gz" if seed % 2 else "a.nii")
    write_volume(path, rng.integers(0, 99, (6, 6, 6), np.int16), np.eye(4))
    content = bytearray(path.read_bytes())
    for place in rng.integers(0, min(len(content), 352), 4):
        content[place] = rng.integers(256)
    path.write_bytes(content)
    with suppress(UserError):
        assert read_voxels(open_nifti(path), np.float32).dtype == np.float32


def test_messages_are_one_line():
    assert one_line(ValueError("first\n  second.")) == "first second"
    assert one_line(EOFError()) == "EOFError"
