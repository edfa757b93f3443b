import nibabel as nib
import numpy as np
import pytest

from adn_jax.io.image import Image
from adn_jax.scans.dicom.straighten import (
    SliceStack,
    as_stack,
    grid_distance,
    straighten,
)

SLOPES = np.array([0.5, -0.3, 0.7])


def field(points):
    """HU that grow evenly in every direction: linear interpolation keeps them."""
    return 40 + points @ SLOPES


def stack_of(heights, tilt_deg=0.0, turn_deg=0.0, shape=(9, 12)):
    """Slices of `field`, tilted about x and as a whole turned about z."""
    tilt, turn = np.deg2rad(tilt_deg), np.deg2rad(turn_deg)
    about_x = np.array(
        [[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]]
    )
    about_z = np.array(
        [[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]
    )
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x * (2.0, 1.5, 1.0)
    affine[:3, 3] = (-8, 5, 3)
    table = np.array(heights, float)[:, None] * (0, 0, 1)
    origins = affine[:3, 3] + table
    inside = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    points = (inside @ affine[:3, :2].T)[:, :, None] + origins
    return SliceStack(field(points).astype(np.float32), affine, origins)


def positions(affine, shape):
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    return nib.affines.apply_affine(affine, index)


@pytest.mark.parametrize("heights", [(0, 5, 10, 15), (0, 2, 4, 9, 14), (0, 5, 15, 20)])
@pytest.mark.parametrize("tilt", [0.0, 18.5, -25.0])
@pytest.mark.parametrize("turn", [0.0, 10.0])
def test_every_value_lies_where_it_belongs(heights, tilt, turn):
    stack = stack_of(heights, tilt, turn)
    values, affine = straighten(stack, -1024.0)
    known = SliceStack(np.ones_like(stack.values), stack.affine, stack.origins_mm)
    inside = straighten(known, 0.0)[0] > 0.999
    assert inside.mean() > 0.5
    truth = field(positions(affine, values.shape))
    np.testing.assert_allclose(values[inside], truth[inside], atol=1e-3)
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-9)


def test_regular_slices_are_left_as_they_are():
    stack = stack_of((0, 5, 10, 15.05))
    values, affine = straighten(stack, -1024.0)
    assert stack.is_regular
    np.testing.assert_array_equal(values, stack.values)
    assert affine[2, 2] == pytest.approx(15.05 / 3)


def test_tilt_and_heights_are_told():
    stack = stack_of((0, 5, 10, 20), 18.5)
    assert stack.tilt_deg == pytest.approx(18.5)
    steps = np.cos(np.deg2rad(18.5)) * np.array([0, 5, 10, 20])
    np.testing.assert_allclose(stack.heights_mm, steps)
    assert not stack.is_regular


def test_the_image_grows_and_is_filled_outside():
    stack = stack_of((0, 5, 10, 15), 18.5)
    values, _ = straighten(stack, -1024.0)
    moved = np.ceil(15 * np.sin(np.deg2rad(18.5)) / 1.5)
    assert values.shape == (9, 12 + moved, 4)
    assert (values == -1024).any(axis=(0, 1)).all()


def test_missing_slices_are_interpolated_between_their_neighbours():
    stack = stack_of((0, 5, 15, 20))
    values, affine = straighten(stack, -1024.0)
    assert values.shape[2] == 5
    assert affine[2, 2] == pytest.approx(5)
    np.testing.assert_allclose(
        values[..., 2], stack.values[..., 1:3].mean(axis=2), rtol=1e-5
    )


@pytest.mark.parametrize(
    ("heights", "distance_mm"),
    [
        ((0, 2, 4, 9, 14), 2),
        ((0, 5, 15, 20), 5),
        ((0, 4, 8, 9, 16, 23), 4),
        ((0, 1, 2, 3, 20, 40), 40 / 11),
    ],
)
def test_distance_of_the_grid(heights, distance_mm):
    assert grid_distance(np.array(heights, float)) == pytest.approx(distance_mm)


def test_the_last_slice_is_kept():
    stack = stack_of((0, 4, 8, 9, 16, 23))
    values, affine = straighten(stack, -1024.0)
    assert values.shape[2] == 7
    assert affine[2, 2] == pytest.approx(4)
    np.testing.assert_array_equal(values[..., 0], stack.values[..., 0])
    np.testing.assert_allclose(values[..., -1], stack.values[..., -1])


def test_an_image_is_a_stack_of_its_slices():
    image = Image(np.zeros((3, 4, 5)), np.diag([-1.0, -1, 3, 1]), "scan")
    stack = as_stack(image)
    assert stack.is_regular
    np.testing.assert_allclose(stack.heights_mm, 3 * np.arange(5))
