"""The healthy head: symmetric where asked to be, and posed as its matrix says."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from adn_jax.phantom.head import (
    HEAD_CENTRE_MM,
    average_slices,
    build_head,
    evaluate_lattice,
    head_to_world,
    keep_mid_plane,
    knots,
    points_in_head,
    random_lattice,
    refine,
    sample_points,
    sided_field,
)
from adn_jax.phantom.settings import EASY

SYMMETRIC = replace(
    EASY,
    in_plane=64,
    asymmetry_mm=0.0,
    atrophy_asymmetry=0.0,
    ventricle_asymmetry=0.0,
    regional_hu=0.0,
)


def test_without_asymmetry_the_upright_head_equals_its_mirror_image():
    head = build_head(
        np.random.default_rng(0),
        head_to_world(np.zeros(3), np.zeros(3)),
        sample_points(10.0, SYMMETRIC),
        SYMMETRIC,
    )
    assert np.ptp(head.ct) > 1500
    for values in (head.ct, head.grey, head.csf):
        difference = np.abs(values - values[:, :, ::-1])
        assert np.mean(difference) < 1e-4 * np.ptp(values)


def test_each_asymmetry_makes_the_sides_differ():
    upright = head_to_world(np.zeros(3), np.zeros(3))
    for field in ("asymmetry_mm", "atrophy_asymmetry", "ventricle_asymmetry"):
        difficulty = replace(SYMMETRIC, **{field: getattr(EASY, field)})
        grid = sample_points(10.0, difficulty)
        head = build_head(np.random.default_rng(0), upright, grid, difficulty)
        assert np.abs(head.csf - head.csf[:, :, ::-1]).max() > 0.05, field


def test_the_pose_brings_left_and_right_together():
    pose = head_to_world(np.array([3.0, 0.5, 20.0]), np.array([8.0, -5.0, 2.0]))
    grid = sample_points(5.0, SYMMETRIC)
    head = build_head(np.random.default_rng(1), pose, grid, SYMMETRIC)

    def mean_side_difference(matrix):
        points = np.random.default_rng(2).uniform((5, -60, -10), (45, 30, 50), (500, 3))
        sides = []
        for sign in (1, -1):
            world = points * (sign, 1, 1) @ matrix[:3, :3].T + matrix[:3, 3]
            axes = (grid.x, grid.y, grid.z)
            index = [
                (world[:, i] - axis[0]) / (axis[1] - axis[0])
                for i, axis in enumerate(axes)
            ]
            sides.append(ndimage.map_coordinates(head.ct, index[::-1], order=1))
        return np.abs(sides[0] - sides[1]).mean()

    turned = head_to_world(np.array([3.0, 0.5, 10.0]), np.array([8.0, -5.0, 2.0]))
    assert mean_side_difference(pose) < 1.0
    assert mean_side_difference(turned) > 3.0


def test_points_in_head_undoes_the_pose():
    pose = head_to_world(np.array([8.0, -2.0, 17.0]), np.array([3.0, -9.0, 1.0]))
    axis = np.linspace(-50, 50, 3, dtype=np.float32)
    points = points_in_head(axis, axis + 1, axis + 2, pose)
    world = np.tensordot(pose[:3, :3], points, 1) + pose[:3, 3].reshape(3, 1, 1, 1)
    np.testing.assert_allclose(world[0, 0, 0], axis + 2, atol=1e-4)
    np.testing.assert_allclose(world[1, 0, :, 0], axis + 1, atol=1e-4)
    np.testing.assert_allclose(world[2, :, 0, 0], axis, atol=1e-4)


def test_the_pose_turns_about_the_head_s_centre_and_then_shifts():
    shift = np.array([4.0, 5.0, 6.0])
    pose = head_to_world(np.array([0.0, 0.0, 90.0]), shift)
    np.testing.assert_allclose(pose @ [*HEAD_CENTRE_MM, 1], [*shift, 1], atol=1e-9)
    to_the_right = HEAD_CENTRE_MM + np.array([10, 0, 0])
    np.testing.assert_allclose(pose @ [*to_the_right, 1], [4, 15, 6, 1], atol=1e-9)


@pytest.mark.parametrize("odd", [False, True])
def test_a_shared_field_is_even_or_odd_and_has_unit_spread(odd):
    rng = np.random.default_rng(3)
    points = rng.uniform(-90, 90, (3, 10, 10, 20))
    fields = [
        [
            sided_field(np.random.default_rng(seed), at, 30.0, 1.0, 0.0, odd)
            for at in (points, points * np.array([-1, 1, 1]).reshape(3, 1, 1, 1))
        ]
        for seed in range(10)
    ]
    for field, mirrored in fields:
        np.testing.assert_allclose(field, -mirrored if odd else mirrored, atol=1e-9)
    assert 0.8 < np.std([field for field, _ in fields]) < 1.3


def test_a_lattice_value_is_met_at_its_knot():
    lattice = random_lattice(np.random.default_rng(4), 32.0)
    point = np.array([32.0, 0.0, -64.0]).reshape(3, 1, 1, 1)
    half = len(lattice) // 2
    expected = 1.3 * lattice[half - 2, half, half + 1]
    assert evaluate_lattice(lattice, point, 32.0).item() == pytest.approx(expected)


def test_refine_is_exact_for_linear_maps():
    grid = sample_points(10.0, SYMMETRIC)
    pose = head_to_world(np.array([5.0, 1.0, 20.0]), np.array([1.0, 2.0, 3.0]))
    coarse = points_in_head(knots(grid.z), knots(grid.y), knots(grid.x), pose)
    fine = points_in_head(grid.z, grid.y, grid.x, pose)
    for axis in range(3):
        np.testing.assert_allclose(refine(coarse[axis], grid), fine[axis], atol=1e-3)


def test_the_mid_plane_is_kept():
    resting = np.array([0.0, 0.1, 60.0, -60.0])
    moved = keep_mid_plane(resting + 3.0, resting)
    np.testing.assert_array_equal(moved[0], 0.0)
    np.testing.assert_allclose(moved[1], 0.1, atol=1e-3)
    np.testing.assert_allclose(moved[2:], resting[2:] + 3.0, atol=0.1)


def test_slices_are_averages_of_their_samples():
    samples = np.arange(6.0).reshape(6, 1, 1)
    np.testing.assert_array_equal(
        average_slices(samples, 3), np.array([1.0, 4.0]).reshape(2, 1, 1)
    )
