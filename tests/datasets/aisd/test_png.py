import numpy as np
import pytest
from PIL import Image

from adn_jax.datasets.aisd.png import (
    pseudo_hu,
    read_slice,
    read_stack,
    slice_files,
    upright,
)
from adn_jax.errors import UserError
from adn_jax.scans.hounsfield import AIR_HU, SOLID_BONE_HU, WHITE_RIM_HU
from tests.datasets.aisd.download import write_pngs

STACK = np.random.default_rng(0).integers(0, 256, (12, 6, 8), np.uint8)


def test_slices_come_in_the_order_of_their_numbers(tmp_path):
    write_pngs(tmp_path / "a", STACK)
    (tmp_path / "a" / "._000.png").write_bytes(b"a Mac's copy")
    (tmp_path / "a" / "notes.txt").write_text("no slice")
    np.testing.assert_array_equal(read_stack(tmp_path / "a"), STACK)
    assert [path.name for path in slice_files(tmp_path / "a")][-1] == "011.png"


def test_numbers_without_zeros_are_numbers(tmp_path):
    write_pngs(tmp_path / "a", STACK)
    for path in slice_files(tmp_path / "a"):
        path.rename(path.with_name(f"{int(path.stem)}.PNG"))
    np.testing.assert_array_equal(read_stack(tmp_path / "a"), STACK)


@pytest.mark.parametrize("mode", ["L", "P", "RGB"])
def test_labels_survive_every_kind_of_png(tmp_path, mode):
    labels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    picture = Image.fromarray(labels)
    if mode == "P":
        picture = Image.frombytes("P", (3, 2), labels.tobytes())
        picture.putpalette([level for level in range(255, -1, -1) for _ in range(3)])
    elif mode == "RGB":
        picture = picture.convert("RGB")
    picture.save(tmp_path / "000.png")
    np.testing.assert_array_equal(read_slice(tmp_path / "000.png"), labels)


def test_a_missing_slice_is_named(tmp_path):
    write_pngs(tmp_path / "a", STACK)
    (tmp_path / "a" / "004.png").unlink()
    with pytest.raises(UserError, match=r"a lacks slice 004\.png; unpack"):
        read_stack(tmp_path / "a")


def test_a_slice_of_another_size_is_named(tmp_path):
    write_pngs(tmp_path / "a", STACK)
    Image.fromarray(STACK[0, :4]).save(tmp_path / "a" / "003.png")
    with pytest.raises(UserError, match=r"003.png has \(4, 8\) pixels and 000.png"):
        read_stack(tmp_path / "a")


@pytest.mark.parametrize("content", [b"", b"no picture", None])
def test_damaged_slices_are_named(tmp_path, content):
    write_pngs(tmp_path / "a", STACK)
    path = tmp_path / "a" / "002.png"
    path.write_bytes(path.read_bytes()[:60] if content is None else content)
    with pytest.raises(UserError, match=r"002\.png is no readable PNG") as caught:
        read_stack(tmp_path / "a")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [np.uint16, bool])
def test_pictures_of_other_depth_are_refused(tmp_path, kind):
    Image.fromarray(np.eye(8).astype(kind)).save(tmp_path / "000.png")
    with pytest.raises(UserError, match=r"000\.png is no readable PNG \(it has"):
        read_stack(tmp_path)


def test_hu_are_linear_in_the_window_and_white_is_bone():
    values = np.full((1, 16, 16), 51, np.uint8)
    values[0, 2, 2:6] = [0, 102, 204, 255]
    hu = pseudo_hu(values, (-10.0, 90.0), 3.0)
    np.testing.assert_allclose(
        hu[0, 2, 2:6], [AIR_HU, 30, 70, SOLID_BONE_HU], atol=1e-4
    )
    assert hu.dtype == np.float32


def test_the_rim_of_bone_is_part_tissue():
    values = np.full((1, 32, 32), 100, np.uint8)
    values[0, 8:20, 8:20] = 255
    values[0, :, 28:] = 255
    hu = pseudo_hu(values, (0.0, 80.0), 0.5)
    assert (hu[0, 10:18, 10:18] == SOLID_BONE_HU).all()
    assert (hu[0, 8:10, 8:20] == WHITE_RIM_HU).all()
    assert (hu[0, :, 30:] == SOLID_BONE_HU).all()
    wide = pseudo_hu(values, (-100.0, 200.0), 0.5)
    assert (wide[0, 8:10, 8:20] == 200).all()


def test_solid_black_is_air_and_specks_are_dark_tissue():
    rng = np.random.default_rng(0)
    values = np.zeros((2, 64, 64), np.uint8)
    values[:, 16:48, 16:48] = 110
    csf = rng.random((2, 12, 12)) < 0.3
    values[:, 20:32, 20:32][csf] = 0
    hu = pseudo_hu(values, (0.0, 80.0), 0.5)
    assert (hu[:, :16] == AIR_HU).all()
    assert (hu[:, 20:32, 20:32] >= 0).all()


def test_pictures_lie_as_radiologists_look_at_them():
    image = upright(np.zeros((3, 4, 5), np.float32), (5.0, 0.5, 0.4))
    assert image.shape == (5, 4, 3)
    np.testing.assert_allclose(np.diag(image.affine), [-0.4, -0.5, 5.0, 1.0])
    np.testing.assert_allclose(image.affine @ [2, 1.5, 1, 1], [0, 0, 0, 1], atol=1e-9)
