import numpy as np
import pytest

from adn_jax.metrics.alignment import (
    Plane,
    alignment_error,
    in_plane_angle_deg,
    offset_mm,
    on_grid,
    placed,
    true_plane,
)

SHAPE = (8, 32, 40)


def pose(angle_deg, shift_mm):
    """Head to world: a turn about z (counter-clockwise from above), then a shift."""
    c, s = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    matrix = np.eye(4)
    matrix[:2, :2] = [[c, -s], [s, c]]
    matrix[:3, 3] = shift_mm
    return matrix


def grid_affine(spacing_xyz=(1.2, 1.2, 5.0), origin=(0.0, 0.0, 0.0)):
    """Affine of a prepared RAS grid whose centre is at `origin`."""
    affine = np.diag([*spacing_xyz, 1.0])
    centre = (np.array(SHAPE[::-1]) - 1) / 2
    affine[:3, 3] = np.array(origin) - affine[:3, :3] @ centre
    return affine


def test_a_turned_and_shifted_head():
    plane = true_plane(pose(20.0, (4.0, -3.0, 2.0)), grid_affine(), SHAPE)
    assert in_plane_angle_deg(plane) == pytest.approx(20.0)
    assert plane.point == pytest.approx([4.0, -3.0, 2.0])
    assert np.linalg.norm(plane.normal) == pytest.approx(1.0)


def test_the_plane_is_in_the_grids_own_frame():
    turned = grid_affine(origin=(7.0, 0.0, 0.0))
    turned = pose(15.0, (0.0, 0.0, 0.0)) @ turned
    plane = true_plane(pose(20.0, (0.0, 0.0, 0.0)), turned, SHAPE)
    assert in_plane_angle_deg(plane) == pytest.approx(5.0)
    assert plane.point[0] == pytest.approx(-7.0)


def test_points_of_the_head_plane_stay_on_it():
    head_to_world, affine = pose(-12.0, (5.0, 6.0, -4.0)), grid_affine()
    plane = true_plane(head_to_world, affine, SHAPE)
    for on_plane in ([0, 30.0, 10.0], [0, -50.0, -20.0]):
        voxel = np.linalg.solve(affine, head_to_world @ [*on_plane, 1.0])[:3]
        mm = (voxel - (np.array(SHAPE[::-1]) - 1) / 2) * [1.2, 1.2, 5.0]
        assert plane.normal @ (mm - plane.point) == pytest.approx(0.0, abs=1e-9)


def test_a_plane_lies_on_a_grid_of_leaning_axes_as_in_the_world():
    affine = grid_affine(origin=(3.0, -60.0, 20.0))
    affine[:3, 2] = [1.0, 2.0, 4.5]
    normal = np.array([0.8, 0.6, 0.0])
    world = Plane(normal, np.array([30.0, -20.0, 50.0]))
    plane = on_grid(world, affine, SHAPE)
    middle = (np.array(SHAPE[::-1]) - 1) / 2
    for along in ([0, 0, 0], [-6.0, 8.0, 0], [0, 0, 40.0], [3.0, -4.0, -70.0]):
        voxel = np.linalg.solve(affine, [*(world.point + along), 1.0])[:3]
        mm = (voxel - middle) * np.linalg.norm(affine[:3, :3], axis=0)
        assert plane.normal @ (mm - plane.point) == pytest.approx(0.0, abs=1e-9)


def test_a_plane_of_the_grid_comes_back_from_the_world():
    affine = pose(15.0, (7.0, 0.0, 0.0)) @ grid_affine()
    plane = true_plane(pose(20.0, (4.0, -3.0, 2.0)), affine, SHAPE)
    again = on_grid(placed(plane, affine, SHAPE), affine, SHAPE)
    assert again.normal == pytest.approx(plane.normal)
    assert again.point == pytest.approx(plane.point)


def test_errors_of_angle_and_offset():
    truth = true_plane(pose(20.0, (4.0, 0.0, 0.0)), grid_affine(), SHAPE)
    same = alignment_error(truth, truth)
    assert same.angle_deg == pytest.approx(0.0)
    assert same.offset_mm == pytest.approx(0.0)
    straight = Plane(np.array([1.0, 0.0, 0.0]), np.zeros(3))
    error = alignment_error(straight, truth)
    assert error.angle_deg == pytest.approx(20.0)
    assert error.offset_mm == pytest.approx(4.0)


def test_the_side_of_the_normal_does_not_matter():
    truth = true_plane(pose(-88.0, (1.0, 2.0, 0.0)), grid_affine(), SHAPE)
    flipped = Plane(-truth.normal, truth.point)
    assert in_plane_angle_deg(flipped) == pytest.approx(in_plane_angle_deg(truth))
    assert alignment_error(flipped, truth).angle_deg == pytest.approx(0.0, abs=1e-9)
    near = true_plane(pose(88.0, (1.0, 2.0, 0.0)), grid_affine(), SHAPE)
    assert alignment_error(near, truth).angle_deg == pytest.approx(4.0)
    assert offset_mm(flipped) == pytest.approx(-offset_mm(truth))
