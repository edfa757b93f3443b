import numpy as np
import pytest

from adn_jax.errors import UserError
from adn_jax.prepare.window import (
    check_hounsfield,
    to_hounsfield,
    to_window,
)


def test_window_is_linear_and_clipped():
    hu = np.array([[[-1000.0, 0.0, 20.0, 80.0, 3000.0]]])
    ours = to_window(hu, (0.0, 80.0))
    assert ours.dtype == np.float32
    assert ours.ravel().tolist() == [0, 0, 0.25, 1, 1]


def test_padding_becomes_air():
    values = np.array([-2000, -1024, -1000, 40], np.int16)
    hu, flags = to_hounsfield(values)
    assert hu.tolist() == [-1024, -1024, -1000, 40]
    assert flags == ()


def test_offset_is_taken_off_where_soft_tissue_shows_it():
    stored = np.repeat([0, 24, 1060, 2000], [50, 10, 30, 10])
    hu, flags = to_hounsfield(stored)
    assert hu[-1] == 976
    assert "1024 taken off" in flags[0]


def test_a_windowed_picture_is_left_as_it_is_and_flagged():
    picture = np.repeat([0, 100, 255], [50, 30, 20])
    hu, flags = to_hounsfield(picture)
    np.testing.assert_array_equal(hu, picture)
    assert flags == ("no value is negative although air is -1000 HU: are these HU?",)


def test_negative_hu_stored_without_sign_are_brought_back():
    true = np.array([-1024, -1000, -1, 0, 40, 3000])
    stored = true.astype(np.int16).view(np.uint16).astype(float)
    hu, flags = to_hounsfield(stored)
    np.testing.assert_array_equal(hu, true)
    assert flags == ("negative HU were stored without sign; 65,536 taken off",)


def test_numbers_that_are_none_and_absurd_ones_are_flagged():
    hu, flags = to_hounsfield(np.array([-1000.0, np.nan, np.inf, -np.inf, 1e38, 40]))
    assert hu.tolist() == [-1000, -1024, -1024, -1024, 31000, 40]
    assert "voxels that were NaN or infinite, set to air: 3" in flags[0]
    assert "voxels above 31,000 HU, cut there: 1" in flags[1]


def test_a_missing_intercept_is_seen_beside_voxels_that_are_none():
    stored = np.array([0.0] * 5 + [1024.0 + 35] * 5 + [np.nan] * 2)
    hu, flags = to_hounsfield(stored)
    assert hu.tolist() == [-1024] * 5 + [35] * 5 + [-1024] * 2
    assert "without the rescale intercept" in flags[1]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([7, 7], "every voxel of a.nii is 7"),
        ([0, 255], "the values of a.nii go from 0 to 255"),
        ([0, 1], "as in a windowed picture or a mask"),
    ],
)
def test_what_cannot_be_hu_is_refused(values, words):
    with pytest.raises(UserError, match=words):
        check_hounsfield(np.array(values, np.float32), "a.nii")


def test_hu_of_a_head_are_accepted():
    check_hounsfield(np.array([-1000, 40, 900], np.float32), "a.nii")
