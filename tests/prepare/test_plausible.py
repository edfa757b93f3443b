import numpy as np
import pytest

from adn_jax.errors import UserError
from adn_jax.io.image import nearest_ras
from adn_jax.prepare.skull_strip import check_is_brain, find_brain, rim_at_bone

GRID = np.diag([5.0, 5.0, 6.0, 1.0])


def ellipse(shape, centre, semi_axes):
    """An elliptic cylinder; centre and semi-axes (y x) in voxels."""
    y, x = np.ogrid[: shape[1], : shape[2]]
    (cy, cx), (ay, ax) = centre, semi_axes
    within = ((y - cy) / ay) ** 2 + ((x - cx) / ax) ** 2 <= 1
    return np.broadcast_to(within, shape)


def chest(ribs):
    """Wall, ribs, spine, lungs and heart, as a `ring` of bone or as single `spots`."""
    shape, middle = (12, 64, 84), (32, 42)
    hu = np.where(ellipse(shape, middle, (26, 38)), 45.0, -1000.0)
    outer, lungs = ellipse(shape, middle, (22, 34)), ellipse(shape, middle, (20, 32))
    hu[lungs] = -850
    ring = outer & ~lungs
    hu[ring if ribs == "ring" else ring & ellipse(shape, (8, 42), (9, 8))] = 500
    hu[ellipse(shape, (12, 42), (4, 4))] = 600
    hu[ellipse(shape, (34, 36), (11, 13))] = 40
    return hu + np.random.default_rng(0).normal(0, 5, shape)


def ball(value):
    z, y, x = np.ogrid[-12:12, -20:20, -20:20]
    inside = (z * 6) ** 2 + (y * 5) ** 2 + (x * 5) ** 2 <= 65**2
    air = np.random.default_rng(0).normal(-1000, 10, inside.shape)
    return np.where(inside, value, air)


def filled_skull(make_head, value):
    head = make_head()
    hu, affine = nearest_ras(head.image("ct"))
    inside = nearest_ras(head.image("brain"))[0] > 0
    noise = np.random.default_rng(0).normal(0, 2, hu.shape)
    return np.where(inside, value + noise, hu), affine


@pytest.mark.parametrize(
    ("hu", "message"),
    [
        (ball(40.0), "no voxel is above 150 HU, so there is no skull; give a head CT"),
        (ball(900.0), "no brain was found"),
        (chest("spots"), "no brain was found"),
        (chest("ring"), r"only \d+% of the rim .* a CT of a head, not of another part"),
    ],
)
def test_what_is_no_head_is_refused(hu, message):
    with pytest.raises(UserError, match=message):
        find_brain(hu, GRID)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (-1000.0, "no brain was found"),
        (0.0, "the median inside the skull is 0 HU; a brain has 20 to 50"),
        (95.0, "the median inside the skull is 95 HU"),
    ],
)
def test_a_skull_without_a_brain_is_refused(make_head, value, message):
    with pytest.raises(UserError, match=message):
        find_brain(*filled_skull(make_head, value))


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((0.2, 0.2, 0.2), "no brain was found"),
        ((0.5, 0.5, 0.5), r"has 4\d cm² in its largest slice .* sizes are in mm"),
        ((1.5, 1.5, 1.5), r"has 4\d\d cm² in its largest slice"),
        ((1.0, 1.0, 3.0), r"has 1\d\d cm² .* and 4\d\d\d mL; .* at most 3000 mL"),
    ],
)
def test_a_head_of_another_size_is_refused(head, size, message):
    hu, affine = nearest_ras(head.image("ct"))
    with pytest.raises(UserError, match=message):
        find_brain(hu, affine @ np.diag([*size, 1.0]))


def test_a_brain_in_a_skull_is_accepted(head):
    hu = nearest_ras(head.image("ct"))[0]
    brain = nearest_ras(head.image("brain"))[0] > 0
    spacing = (6.0, 3.0, 3.0)
    assert rim_at_bone(brain, hu > 150, spacing[1:]) > 0.95
    check_is_brain(hu, brain, spacing, hu > 150)


def test_share_of_the_rim_beside_bone():
    mask = np.zeros((2, 20, 20), bool)
    mask[:, 5:15, 5:15] = True
    bone = np.zeros_like(mask)
    bone[:, :, 17] = True
    # One side of the square: 10 of the 36 voxels of its rim.
    assert rim_at_bone(mask, bone, (1.0, 1.0)) == pytest.approx(10 / 36, abs=0.06)
    assert rim_at_bone(np.zeros_like(mask), bone, (1.0, 1.0)) == 0
