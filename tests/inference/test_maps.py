"""When a mid-line counts as found, and when left and right are told."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from adn_jax.data.known_lesions import KnownLesions
from adn_jax.inference.maps import (
    Lesions,
    hold_back,
    judge_midline,
    number_and_largest,
)
from adn_jax.metrics.alignment import Plane, in_plane_angle_deg, in_world, turn_deg
from adn_jax.pipeline.align import MidlineFit
from tests.tiny_runs import make_maps

UPRIGHT = np.diag([3.0, 3.0, 9.0, 1.0])


def fit(unlikeness=0.12, elsewhere=0.3, rival=np.inf, skewness=0.15):
    """How well the mid-line of one head is known: by default as of a usual one."""
    values = (unlikeness, elsewhere, rival, skewness)
    return MidlineFit(*(jnp.array([value]) for value in values))


def plane(degrees):
    angle = np.deg2rad(degrees)
    return Plane(np.array([np.cos(angle), np.sin(angle), 0.0]), np.zeros(3))


def test_a_usual_head_has_no_flag():
    assert judge_midline(plane(-20.0), fit(), UPRIGHT) == (True, True, ())


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ((0.3, 0.5, np.inf, 0.15), "mirrors well about no line"),
        ((0.12, 0.13, np.inf, 0.15), "about as well at another angle"),
        ((0.3, 0.2, np.inf, 0.15), "mirrors well about no line"),
    ],
)
def test_without_a_mid_line_nothing_is_told(values, reason):
    found, knows_sides, flags = judge_midline(plane(0.0), fit(*values), UPRIGHT)
    assert not found
    assert not knows_sides
    assert flags[0].startswith("no mid-line found: ")
    assert reason in flags[0]


def test_another_line_that_mirrors_about_as_well_is_told():
    found, knows_sides, flags = judge_midline(plane(5.0), fit(rival=1.1), UPRIGHT)
    assert found
    assert knows_sides
    assert "the mid-line may be off by 2 degrees or more" in flags[0]
    assert judge_midline(plane(5.0), fit(rival=1.3), UPRIGHT).flags == ()


@pytest.mark.parametrize(
    ("degrees", "skewness", "known"),
    [
        (20.0, 0.02, True),
        (20.0, -0.01, False),
        (70.0, 0.02, False),
        (70.0, 0.1, True),
        (170.0, 0.1, True),
        (170.0, -0.1, False),
    ],
)
def test_sides_are_told_where_the_front_is_known(degrees, skewness, known):
    judged = judge_midline(plane(degrees), fit(skewness=skewness), UPRIGHT)
    assert judged.found
    assert judged.knows_sides is known
    assert bool(judged.flags) is (not known or degrees > 45)
    backwards = "were the scan mirrored from front to back" in " ".join(judged.flags)
    assert backwards is (known and degrees > 90)


def test_no_flag_tells_how_sides_are_known_where_the_header_leaves_them_open():
    judged = judge_midline(plane(170.0), fit(skewness=0.1), UPRIGHT, False)
    assert judged == (
        True,
        False,
        (
            "the head is turned by 170 degrees in the scan's coordinates: look whether "
            "the orientation is right",
        ),
    )


def test_the_turn_is_against_the_patient_not_the_grid():
    angle = np.deg2rad(-7.0)
    turned = np.eye(4)
    turned[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    grid = turned @ UPRIGHT
    assert in_plane_angle_deg(in_world(plane(5.1), grid)) == pytest.approx(-1.9)
    assert turn_deg(in_world(plane(185.1), grid)) == pytest.approx(178.1)
    tilted = np.eye(4)
    tilted[1:3, 1:3] = [[0.9, -np.sqrt(0.19)], [np.sqrt(0.19), 0.9]]
    assert turn_deg(in_world(plane(50.0), tilted @ UPRIGHT)) == pytest.approx(50.0)


def larger_than(least_ml):
    return lambda volume_ml, _: volume_ml >= least_ml


SPACING = (10.0, 10.0, 10.0)  # a voxel has a millilitre


def test_predicted_lesions_have_volumes_and_mean_probabilities():
    probability = np.zeros((4, 6, 6), np.float32)
    probability[0, 0, 0:2] = 0.5, 0.9
    probability[1, 1, 2] = 1.0  # touches it by a corner
    probability[3, 4, 4] = 0.75
    found = Lesions.of(probability >= 0.5)
    np.testing.assert_allclose(found.volumes_ml(SPACING), [3.0, 1.0])
    np.testing.assert_allclose(found.means(probability), [0.8, 0.75])
    assert (found.number > 0).sum() == 4
    label = np.zeros_like(probability, bool)
    label[1, 1, 2] = label[2, 4, 4] = True
    assert found.hits(label).tolist() == [True, False]
    nothing = Lesions.of(probability > 1)
    assert len(nothing.volumes_ml(SPACING)) == len(nothing.means(probability)) == 0


def test_lesions_count_by_their_mean_probability_too():
    probability = np.zeros((4, 6, 6), np.float32)
    probability[0, 0, :2], probability[3, 4:, 4:] = 0.9, 0.6
    held, left_out_ml = hold_back(probability, 0.5, SPACING, lambda _, mean: mean > 0.8)
    assert left_out_ml == (4,)
    np.testing.assert_array_equal(held >= 0.5, probability == np.float32(0.9))


def test_small_lesions_are_held_below_the_threshold_and_the_rest_stays():
    probability = np.random.default_rng(0).uniform(0, 0.4, (6, 8, 8)).astype(np.float32)
    probability[1, 1, 1:3] = 0.9  # two voxels, and one that touches by a corner
    probability[2, 2, 3] = 0.6
    probability[4, 4:6, 4:6] = 0.99
    probability[0, 7, 7] = 0.5
    before = probability.copy()
    held, left_out_ml = hold_back(probability, 0.5, SPACING, larger_than(3.5))
    np.testing.assert_array_equal(probability, before)
    found = held >= 0.5
    assert sorted(left_out_ml) == [1, 3]
    assert found.sum() == 4
    assert found[4, 4:6, 4:6].all()
    changed = held != before
    np.testing.assert_array_equal(changed, (before >= 0.5) & ~found)
    np.testing.assert_allclose(held[changed], 0.49)
    everything, left_out_ml = hold_back(before, 0.5, SPACING, larger_than(0.0))
    np.testing.assert_array_equal(everything, before)
    assert left_out_ml == ()
    again, left_out_ml = hold_back(before, 0.5, SPACING, larger_than(3.0))
    assert (again >= 0.5).sum() == 7
    assert left_out_ml == (1,)


def test_lesions_have_the_ppv_of_their_volume_and_probability():
    probability = np.zeros((6, 48, 40), np.float32)
    probability[1, 2:12, 2:12] = 0.8  # 10 mL
    probability[1, 15:17, 15:17] = 0.9  # 0.4 mL
    known = KnownLesions(100, 90, -4.0, 1.0, 3.0, least_ppv=0.0)
    maps = replace(make_maps(), prediction=probability, spacing_mm=(4.0, 5.0, 5.0))
    told = maps.telling(known, least_ml=1.0)
    assert told.known_lesions == known
    inside = told.ppv[1, 2:12, 2:12]
    np.testing.assert_allclose(inside, known.ppv(10.0, 0.8), rtol=1e-6)
    assert np.isnan(told.ppv[1, 15:17, 15:17]).all()
    assert np.isnan(told.ppv).sum() == 4
    assert (told.ppv[probability == 0] == 0).all()


@pytest.mark.parametrize(
    ("volumes_ml", "words"),
    [
        ((), "none"),
        ((18.25,), "1, of 18.2 mL"),
        ((0.04, 18.25, 2.0), "3, the largest of 18.2 mL"),
        ((0.04, 0.02), "2, the largest of 0.04 mL"),
    ],
)
def test_lesions_left_out_are_told_by_number_and_volume(volumes_ml, words):
    assert number_and_largest(volumes_ml) == words
