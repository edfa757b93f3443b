import numpy as np
import pytest

from adn_jax.errors import UserError
from adn_jax.prepare.skull_gaps import disk, rays_that_meet
from adn_jax.prepare.skull_strip import follow_slices


def test_rays_count_the_ways_to_bone():
    bone = np.zeros((1, 7, 7), bool)
    bone[0, 1, 1:6] = bone[0, 5, 1:6] = bone[0, 1:6, 1] = bone[0, 1:6, 5] = True
    count = rays_that_meet(bone)[0]
    assert count[3, 3] == 8
    assert count[0, 0] == 1
    assert count[0, 3] == 3


def test_disk_is_round_in_mm():
    element = disk(3.0, (1.0, 1.5))[0]
    assert element.shape == (7, 5)
    assert not element[0, 0]
    assert element[3].all()
    assert element[:, 2].all()
    assert disk(0.5, (2.0, 2.0)).sum() == 5


def test_regions_are_kept_where_most_of_them_overlaps():
    core = np.zeros((2, 10, 10), bool)
    core[0, :, :5] = True
    mask = core[1]
    mask[1:4, 1:4] = True  # all of it under the brain
    mask[6:9, 4:8] = True  # a quarter
    mask[5, 0] = True  # too small
    kept = follow_slices(core, (6.0, 6.0))[1]
    assert kept.sum() == 9
    assert kept[1:4, 1:4].all()


def column(areas_cm2):
    """Squares of these areas, one a slice, on a grid of 5 mm."""
    core = np.zeros((len(areas_cm2), 40, 40), bool)
    for one, area in zip(core, areas_cm2, strict=True):
        side = round(np.sqrt(area) * 2)
        one[20 - side // 2 : 20 - side // 2 + side, 10 : 10 + side] = True
    return core


def test_tracing_ends_at_the_canal_below_and_later_above():
    core = column([1, 4, 9, 36, 100, 36, 9, 4, 1])
    slices = follow_slices(core, (5.0, 5.0)).any(axis=(1, 2))
    assert slices.tolist() == [False, False, True, True, True, True, True, True, True]


def test_area_does_not_depend_on_which_axis_is_finer():
    core = np.repeat(column([1, 4, 9, 36, 100, 36]), 2, axis=1)
    np.testing.assert_array_equal(
        follow_slices(core, (2.5, 5.0)),
        np.repeat(follow_slices(core[:, ::2], (5.0, 5.0)), 2, axis=1),
    )


def test_nothing_of_the_size_of_a_brain_is_refused():
    with pytest.raises(UserError, match=r"no brain was found \(nowhere does bone"):
        follow_slices(column([1, 9, 4]), (5.0, 5.0))
