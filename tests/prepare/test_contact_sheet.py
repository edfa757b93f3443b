import numpy as np
import pytest
from PIL import Image

from adn_jax.prepare.quality_page import MARK_COLOURS, tile, write_contact_sheet


def picture_of(tmp_path, hu, brain, spacing=(5.0, 1.0, 1.0), lesion=None):
    affine = np.diag([*spacing[::-1], 1.0])
    write_contact_sheet(tmp_path / "a.png", hu, brain, affine, lesion)
    with Image.open(tmp_path / "a.png") as image:
        return np.asarray(image.convert("RGB"))


def test_tiles_run_along_the_rows():
    slices = np.zeros((9, 2, 3), np.uint8)
    slices += np.arange(9, dtype=np.uint8)[:, None, None]
    picture = tile(slices)
    assert picture.shape == (4, 24)
    assert picture[0, ::3].tolist() == list(range(8))
    assert picture[2, ::3].tolist() == [8, 0, 0, 0, 0, 0, 0, 0]


def test_front_is_up_and_the_brain_outlined(tmp_path):
    hu = np.full((8, 10, 12), -1000.0, np.float32)
    hu[:, 9] = 100
    brain = np.zeros(hu.shape, np.uint8)
    brain[:, 3:8, 4:10] = 1
    picture = picture_of(tmp_path, hu, brain)
    assert picture.shape == (10, 96, 3)
    assert (picture[0] == 255).all()
    outline = (picture == MARK_COLOURS[0]).all(-1)
    # The outline reaches x = 4 to 9, counted from the patient's left, of 12.
    columns = np.flatnonzero(outline[:, :12].any(0))
    assert columns[[0, -1]].tolist() == [12 - 10, 12 - 5]
    assert outline.sum() == 8 * (2 * 5 + 2 * 4)


def test_the_label_is_outlined_and_slices_are_named(tmp_path):
    hu = np.full((4, 80, 80), 30.0, np.float32)
    brain, lesion = np.zeros(hu.shape, np.uint8), np.zeros(hu.shape, np.uint8)
    brain[:, 10:70, 10:70] = 1
    lesion[2, 40:50, 20:30] = 1  # on the patient's left, in front
    picture = picture_of(tmp_path, hu, brain, lesion=lesion)
    plain = picture_of(tmp_path, hu, brain)
    drawn = np.argwhere((picture == MARK_COLOURS[1]).all(-1))
    assert len(drawn) == 10 * 10 - 8 * 8
    assert not (plain == MARK_COLOURS[1]).all(-1).any()
    width = picture.shape[1] // 8
    assert set(drawn[:, 1] // width) == {2}
    assert (drawn[:, 1] % width).min() > width / 2
    assert drawn[:, 0].max() < len(picture) / 2
    marks = (picture == MARK_COLOURS[2]).all(-1)
    for place in range(4):  # a number above, R and L below, each at its side
        tile = marks[:, place * width : (place + 1) * width]
        assert tile[:15, :15].any()
        assert tile[-20:, :15].any()
        assert tile[-20:, -15:].any()
    assert marks[-4:, :width].sum() > 90  # the bar of 50 mm, two pixels thick


def test_only_the_skull_and_its_margin_are_shown(tmp_path):
    hu = np.full((3, 60, 80), -1000.0, np.float32)
    hu[1, 20:40, 30:50] = 400
    brain = np.zeros(hu.shape, np.uint8)
    brain[1, 25:35, 35:45] = 1
    picture = picture_of(tmp_path, hu, brain)
    assert picture.shape == (40, 8 * 40, 3)


@pytest.mark.parametrize(("shape", "rows"), [((30, 512, 512), 4), ((200, 64, 64), 5)])
def test_small_whatever_the_scan(tmp_path, shape, rows):
    hu = np.random.default_rng(0).normal(40, 30, shape).astype(np.float32)
    picture = picture_of(tmp_path, hu, np.ones(shape, np.uint8), (5.0, 0.5, 0.5))
    assert picture.shape[1] <= 1000
    assert picture.shape[0] == rows * picture.shape[1] // 8
    assert (tmp_path / "a.png").stat().st_size < 500_000


def test_same_bytes_again(tmp_path):
    hu = np.random.default_rng(0).normal(40, 30, (4, 20, 20)).astype(np.float32)
    brain = np.ones(hu.shape, np.uint8)
    picture_of(tmp_path, hu, brain)
    before = (tmp_path / "a.png").read_bytes()
    picture_of(tmp_path, hu, brain)
    assert (tmp_path / "a.png").read_bytes() == before
