import numpy as np
import pytest

from adn_jax.prepare.window import hounsfield_flags, to_hounsfield, to_window


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


def test_a_windowed_picture_is_left_as_it_is():
    picture = np.repeat([0, 100, 255], [50, 30, 20])
    hu, flags = to_hounsfield(picture)
    np.testing.assert_array_equal(hu, picture)
    assert flags == ()


@pytest.mark.parametrize(("shift", "odd"), [(0, False), (60, True), (-30, True)])
def test_unusual_brain_is_named(shift, odd):
    brain = np.zeros((2, 4, 4), bool)
    brain[:, 1:3, 1:3] = True
    hu = np.where(brain, 33.0 + shift, -1000.0)
    flags = hounsfield_flags(hu, brain)
    assert bool(flags) == odd
    assert not odd or f"median is {33 + shift} HU" in flags[0]
