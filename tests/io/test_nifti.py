import gzip
from contextlib import suppress

import nibabel as nib
import numpy as np
import pytest

from adn_jax.errors import UserError
from adn_jax.io.image import from_zyx, read_image, write_image
from adn_jax.io.nifti import (
    check_gzip,
    header_flags,
    one_line,
    open_nifti,
    read_voxels,
    tells_sides,
)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_written_volumes_come_back(tmp_path, name):
    volume = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    write_image(tmp_path / name, from_zyx(volume, np.eye(4), "volume"))
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
    write_image(path, from_zyx(np.zeros((8, 8, 8), np.uint8), np.eye(4), "volume"))
    check_gzip(str(path))
    content = bytearray(path.read_bytes())
    content[-8] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="truncated or damaged"):
        read_voxels(open_nifti(path), np.uint8)


VALUES = np.arange(512, dtype=np.int16).reshape(8, 8, 8)

AFFINE = np.array([[-0.5, 0, 0, 60], [0, 0.4, 3, -70], [0, -0.3, 4, 9], [0, 0, 0, 1]])


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("order", ["<", ">"])
def test_both_versions_and_byte_orders(tmp_path, kind, order):
    header = kind.header_class(endianness=order)
    header.set_data_dtype(np.dtype(np.int16).newbyteorder(order))
    kind(VALUES, AFFINE, header).to_filename(tmp_path / "a.nii.gz")
    image = open_nifti(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read_voxels(image, np.float32), VALUES)
    np.testing.assert_allclose(image.affine, AFFINE, rtol=1e-6)
    assert header_flags(tmp_path / "a.nii.gz") == ()


@pytest.mark.parametrize("slope", [0.0, np.nan])
def test_a_slope_of_zero_or_none_is_no_scaling(tmp_path, slope):
    nib.Nifti1Image(VALUES, AFFINE).to_filename(tmp_path / "a.nii")
    content = bytearray((tmp_path / "a.nii").read_bytes())
    content[112:120] = np.array([slope, 7], "<f4").tobytes()
    (tmp_path / "a.nii").write_bytes(content)
    values = read_voxels(open_nifti(tmp_path / "a.nii"), np.float32)
    np.testing.assert_array_equal(values, VALUES)


@pytest.mark.parametrize(("unit", "factor"), [("meter", 1e-3), ("micron", 1e3)])
@pytest.mark.parametrize("forms", ["sform", "qform", "both"])
def test_other_units_are_brought_to_mm(tmp_path, unit, factor, forms):
    stored = np.diag([factor, factor, factor, 1]) @ AFFINE
    header = nib.Nifti1Header()
    header.set_xyzt_units(unit)
    if forms != "qform":
        header.set_sform(stored, 1)
    if forms != "sform":
        header.set_qform(stored, 1)
    nib.Nifti1Image(VALUES, None, header).to_filename(tmp_path / "a.nii.gz")
    image = open_nifti(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(image.affine, AFFINE, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(read_voxels(image, np.int16), VALUES)
    (flag,) = header_flags(tmp_path / "a.nii.gz")
    assert f"the affine was in {unit.replace('er', 're')}s; it was brought" in flag


def test_a_unit_that_is_not_used_is_only_flagged(tmp_path):
    image = nib.Nifti1Image(VALUES, AFFINE)
    image.header.set_xyzt_units("meter")
    image.to_filename(tmp_path / "a.nii")
    np.testing.assert_allclose(open_nifti(tmp_path / "a.nii").affine, AFFINE, rtol=1e-6)
    (flag,) = header_flags(tmp_path / "a.nii")
    assert "the header names metres as unit, but the affine is in mm" in flag


@pytest.mark.parametrize(("shift", "flagged"), [(0.4, False), (3.0, True)])
def test_forms_that_disagree_are_flagged_beyond_a_voxel(tmp_path, shift, flagged):
    header = nib.Nifti1Header()
    header.set_qform(AFFINE, 1)
    moved = AFFINE.copy()
    moved[0, 3] += shift
    header.set_sform(moved, 2)
    nib.Nifti1Image(VALUES, None, header).to_filename(tmp_path / "a.nii")
    flags = header_flags(tmp_path / "a.nii")
    assert bool(flags) == flagged
    assert not flagged or "disagree by up to 6 voxels; the sform is used" in flags[0]
    np.testing.assert_allclose(open_nifti(tmp_path / "a.nii").affine, moved, rtol=1e-6)


@pytest.mark.parametrize(
    ("qform", "sform", "told"),
    [
        (None, None, False),
        (AFFINE, None, True),
        (None, AFFINE, True),
        (AFFINE, np.diag([-1.0, -1, 1, 1]) @ AFFINE, True),  # half a turn
        (AFFINE, np.diag([-1.0, 1, 1, 1]) @ AFFINE, False),  # a mirror image
    ],
)
def test_whether_a_header_tells_the_sides(tmp_path, qform, sform, told):
    header = nib.Nifti1Header()
    header.set_qform(qform, int(qform is not None))
    header.set_sform(sform, int(sform is not None))
    nib.Nifti1Image(VALUES, None, header).to_filename(tmp_path / "a.nii")
    assert tells_sides(tmp_path / "a.nii") == told


def test_without_forms_the_side_is_not_known(tmp_path):
    nib.Nifti1Image(VALUES, None).to_filename(tmp_path / "a.nii")
    (flag,) = header_flags(tmp_path / "a.nii")
    assert "which side is left is not known" in flag
    axes = nib.aff2axcodes(open_nifti(tmp_path / "a.nii").affine)
    assert axes[0] == "L"


@pytest.mark.parametrize(
    ("quaternion", "code"),
    [((0.8, 0.60001, 0.01), 1), ((0.8, 0.7, 0.0), 0), ((np.nan, 0.0, 0.0), 0)],
    ids=["rounded", "too long", "no number"],
)
def test_a_qform_that_is_no_rotation_does_not_spoil_the_sform(
    tmp_path, quaternion, code
):
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    image = nib.Nifti1Image(np.zeros((20, 20, 20), np.uint8), affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    for axis, value in zip("bcd", quaternion, strict=True):
        image.header[f"quatern_{axis}"] = value
    image.to_filename(tmp_path / "a.nii.gz")
    read = read_image(tmp_path / "a.nii.gz", "scan")
    np.testing.assert_array_equal(read.affine, affine)
    assert len(read.places) == 2 + code
    assert [flag[:15] for flag in header_flags(tmp_path / "a.nii.gz")] == [
        "sform and qform"
    ] * code
    write_image(tmp_path / "b.nii.gz", read)
    assert nib.load(tmp_path / "b.nii.gz").get_qform(coded=True)[1] == code


@pytest.mark.parametrize(("degrees", "flagged"), [(0.5, False), (18.0, True)])
def test_slanting_axes_are_flagged(tmp_path, degrees, flagged):
    affine = AFFINE.copy()
    affine[:3, 2] += AFFINE[:3, 1] / 0.5 * 5 * np.tan(np.deg2rad(degrees))
    nib.Nifti1Image(VALUES, affine).to_filename(tmp_path / "a.nii")
    flags = header_flags(tmp_path / "a.nii")
    assert bool(flags) == flagged
    assert not flagged or flags == ("the axes are up to 18 degrees off a right angle",)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_voxels_left_over_are_flagged(tmp_path, name):
    image = nib.Nifti1Image(VALUES, AFFINE)
    image.to_filename(tmp_path / name)
    assert header_flags(tmp_path / name) == ()
    content = bytearray(image.to_bytes())
    content[46] = 5  # the third dimension
    packed = gzip.compress(content) if name.endswith("gz") else content
    (tmp_path / name).write_bytes(packed)
    assert open_nifti(tmp_path / name).shape == (8, 8, 5)
    (flag,) = header_flags(tmp_path / name)
    assert flag.startswith("384 bytes are left over")


def test_nibabel_prints_nothing_of_its_own(tmp_path, capfd):
    (tmp_path / "a.nii").write_bytes(bytes(1000))
    with pytest.raises(UserError):
        open_nifti(tmp_path / "a.nii")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "affine",
    [
        np.diag([1e-6, 1, 1, 1]),
        np.diag([1, 1, 1e4, 1]),
        np.array([[1, 0, 0, 0], [1, 1e-3, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
        np.array([[1, 0, 0, 1e9], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
        np.array([[1, 0, 0, np.nan], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
    ],
)
def test_absurd_affines_are_refused(tmp_path, affine):
    nib.Nifti1Image(VALUES, np.eye(4)).to_filename(tmp_path / "a.nii")
    content = bytearray((tmp_path / "a.nii").read_bytes())
    content[280:328] = np.asarray(affine, "<f4")[:3].tobytes()
    (tmp_path / "a.nii").write_bytes(content)
    with pytest.raises(UserError, match="no usable affine") as caught:
        open_nifti(tmp_path / "a.nii")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seed", range(40))
def test_damaged_files_are_refused_or_read(tmp_path, seed):
    rng = np.random.default_rng(seed)
    path = tmp_path / ("a.nii.gz" if seed % 2 else "a.nii")
    write_image(
        path, from_zyx(rng.integers(0, 99, (6, 6, 6), np.int16), np.eye(4), "volume")
    )
    content = bytearray(path.read_bytes())
    for place in rng.integers(0, min(len(content), 352), 4):
        content[place] = rng.integers(256)
    path.write_bytes(content)
    with suppress(UserError):
        assert read_voxels(open_nifti(path), np.float32).dtype == np.float32


def test_messages_are_one_line():
    assert one_line(ValueError("first\n  second.")) == "first second"
    assert one_line(EOFError()) == "EOFError"
