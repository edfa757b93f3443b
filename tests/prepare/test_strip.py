import numpy as np
import pytest

from adn_jax.errors import UserError
from adn_jax.prepare.case import nearest_ras
from adn_jax.prepare.strip import disk, find_brain, rays_that_meet


def overlap(found, truth):
    return 2 * np.sum(found & truth) / (found.sum() + truth.sum())


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [
        ((48, 140, 120), (3.0, 1.5, 1.5)),
        ((24, 100, 90), (6.0, 2.0, 2.0)),
        ((15, 210, 190), (10.0, 1.0, 1.0)),
        ((30, 320, 280), (5.0, 0.6, 0.6)),
    ],
)
def test_brain_of_a_simple_head(make_head, shape, spacing):
    head = make_head(shape, spacing)
    mask = find_brain(*nearest_ras(head.ct))
    truth = nearest_ras(head.brain)[0].astype(bool)
    assert overlap(mask.astype(bool), truth) > 0.97


def test_scalp_of_the_same_density_stays_outside(head):
    hu, affine = nearest_ras(head.ct)
    mask = find_brain(hu, affine).astype(bool)
    assert not mask[~nearest_ras(head.brain)[0].astype(bool)].any()


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"skull": False}, "there is no skull"),
        ({"brain": False}, "no brain was found"),
    ],
)
def test_what_is_no_head_is_refused(make_head, parts, message):
    with pytest.raises(UserError, match=message):
        find_brain(*nearest_ras(make_head(**parts).ct))


def test_throat_under_the_brain_is_left_out(head):
    hu, affine = nearest_ras(head.ct)
    below = np.full((4, *hu.shape[1:]), -1000, np.float32)
    below[:, 26:56, 12:52] = 900
    below[:, 28:54, 14:50] = 900
    below[:, 44:54, 16:48] = 40
    below[3] = np.where(below[3] > -500, 900, -1000)
    neck = np.concatenate([below, hu])
    mask = find_brain(neck, affine)
    assert not mask[:4].any()
    assert mask.any()


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
    assert disk(0.5, (2.0, 2.0)).shape == (1, 3, 3)
