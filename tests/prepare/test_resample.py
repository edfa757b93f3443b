from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from adn_jax.config import PrepareSettings
from adn_jax.io.image import spacing_of
from adn_jax.prepare.resample import (
    Grid,
    box_around,
    centred_grid,
    fill_beyond,
    resample,
    shift_origin,
    shrink,
)


def affine_of(spacing_zyx, origin=(0, 0, 0)):
    affine = np.diag([*spacing_zyx[::-1], 1.0])
    affine[:3, 3] = origin
    return affine


def rotation_x(degrees):
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    turn = np.eye(4)
    turn[1:3, 1:3] = [[c, -s], [s, c]]
    return turn


def test_spacing_is_in_array_order():
    assert spacing_of(rotation_x(20) @ affine_of((5, 2, 1))) == pytest.approx((5, 2, 1))


def test_a_box_has_its_margins_as_far_as_the_grid_goes():
    mask = np.zeros((9, 20, 30), np.uint8)
    mask[1:3, 5:8, 25] = 1
    mask[2, 10, 20] = 1
    assert box_around(mask, 0) == np.s_[1:3, 5:11, 20:26]
    assert box_around(mask > 0, 2) == np.s_[0:5, 3:13, 18:28]
    assert box_around(mask, [1, 2, 9]) == np.s_[0:4, 3:13, 11:30]
    assert box_around(mask[2], [0, 1]) == np.s_[5:11, 19:27]
    with pytest.raises(ValueError, match="an empty mask"):
        box_around(mask[4:], 1)


def test_a_shifted_origin_leaves_voxels_where_they_are():
    affine = rotation_x(15) @ affine_of((3, 2, 1), (-3, 2, 1))
    moved = shift_origin(affine, (4, -5, 6))
    np.testing.assert_allclose(moved @ [1, 2, 3, 1], affine @ [7, -3, 7, 1])


def by_hand(volume, index, order, outside):
    """Value at voxel indices (z y x): linear or nearest, level to the outer face."""
    last = np.array(volume.shape) - 1
    if ((index < -0.5) | (index > last + 0.5)).any():
        return outside
    index = np.clip(index, 0, last)
    if order == 0:
        return volume[tuple(np.floor(index + 0.5).astype(int))]
    low = np.minimum(index.astype(int), np.maximum(last - 1, 0))
    total = 0.0
    for corner in product((0, 1), repeat=3):
        weight = np.prod(np.where(corner, index - low, 1 - (index - low)))
        total += weight * volume[tuple(np.minimum(low + corner, last))]
    return total


@pytest.mark.parametrize("order", [0, 1])
def test_equals_a_reference_up_to_the_outer_faces(order):
    rng = np.random.default_rng(0)
    volume = rng.normal(size=(7, 8, 9)).astype(np.float32)
    affine = rotation_x(15) @ affine_of((3, 2, 2), (-3, 2, 1))
    target_shape, target = (9, 12, 11), affine_of((2.5, 1.4, 1.7), (-2, 0, 2))
    ours = resample(
        volume, affine, Grid(target_shape, target), order=order, outside=-9.0
    )
    to_index = np.linalg.inv(affine) @ target
    theirs = [
        by_hand(volume, (to_index @ [x, y, z, 1])[2::-1], order, -9.0)
        for z, y, x in np.ndindex(target_shape)
    ]
    assert 0.2 < np.mean(ours == -9) < 0.8
    np.testing.assert_allclose(ours.ravel(), theirs, rtol=1e-5, atol=1e-5)


def test_half_a_voxel_beyond_the_outermost_centre_is_still_the_scan():
    column = np.array([3, 1, 7], np.float32).reshape(3, 1, 1)
    fine = affine_of((0.1, 1, 1), (0, 0, -0.75))
    values = resample(column, np.eye(4), Grid((36, 1, 1), fine), outside=-5.0)[:, 0, 0]
    places = 0.1 * np.arange(36) - 0.75
    expected = np.interp(places, [0, 1, 2], [3, 1, 7])
    expected[(places < -0.5) | (places > 2.5)] = -5
    np.testing.assert_allclose(values, expected, atol=1e-5)


@pytest.mark.parametrize("order", [0, 1])
def test_no_border_voxel_is_lost_on_the_same_grid(order):
    rng = np.random.default_rng(5)
    for _ in range(200):
        turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        affine = np.eye(4)
        affine[:3, :3] = turn * rng.uniform(0.4, 6, 3)
        affine[:3, 3] = rng.uniform(-300, 300, 3)
        stored = affine.astype(np.float32).astype(float)  # as NIfTI keeps it
        volume = rng.uniform(1, 2, (8, 9, 10)).astype(np.float32)
        same = resample(volume, affine, Grid(volume.shape, stored), order=order)
        np.testing.assert_allclose(same, volume, atol=1e-3)


@pytest.mark.parametrize("order", [0, 1])
def test_as_itk_resamples(order):
    itk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")
    volume = np.random.default_rng(1).normal(size=(6, 9, 8)).astype(np.float32)
    image = itk.GetImageFromArray(volume)
    image.SetSpacing((1.1, 0.9, 4.0))
    fine = affine_of((1.3, 0.4, 0.3), (-2.0, -1.5, -3.9))
    grid = itk.Image([40, 30, 24], itk.sitkFloat32)
    grid.SetOrigin((-2.0, -1.5, -3.9))
    grid.SetSpacing((0.3, 0.4, 1.3))
    how = itk.sitkLinear if order else itk.sitkNearestNeighbor
    theirs = itk.Resample(image, grid, itk.Transform(), how, -9.0)
    affine = affine_of((4.0, 0.9, 1.1))
    ours = resample(volume, affine, Grid((24, 30, 40), fine), order=order, outside=-9.0)
    np.testing.assert_allclose(ours, itk.GetArrayFromImage(theirs), atol=1e-4)


def test_what_lies_off_the_scan_takes_the_nearest_value_on_it():
    prepared = np.arange(5 * 2 * 2, dtype=np.float32).reshape(5, 2, 2)
    scan = affine_of((5, 1, 1), (0, 0, 4.0))
    filled = fill_beyond(prepared, affine_of((5, 1, 1)), Grid((3, 2, 2), scan))
    np.testing.assert_array_equal(filled, prepared[[1, 1, 2, 3, 3]])
    whole = fill_beyond(
        prepared, affine_of((5, 1, 1)), Grid((9, 2, 2), affine_of((5, 1, 1)))
    )
    np.testing.assert_array_equal(whole, prepared)


def test_a_ramp_stays_a_ramp_when_voxels_grow():
    volume = np.broadcast_to(np.arange(60.0, dtype=np.float32), (4, 4, 60))
    ours = resample(
        volume, np.eye(4), Grid((4, 4, 8), affine_of((1, 1, 5.0), (10, 0, 0)))
    )
    np.testing.assert_allclose(ours[0, 0], 10 + 5 * np.arange(8), atol=1e-4)


def test_without_averaging_the_value_at_the_centre_is_taken():
    stripes = (np.arange(40) % 2).astype(np.float32)
    coarse = affine_of((1, 1, 4.0), (1, 0, 0))
    volume = np.broadcast_to(stripes, (2, 3, 40))
    taken = resample(volume, np.eye(4), Grid((2, 3, 10), coarse), average=False)
    np.testing.assert_array_equal(taken, 1)


def test_smoothing_is_along_growing_axes_only():
    stripes = (np.arange(40) % 2).astype(np.float32)
    along_x = np.broadcast_to(stripes, (4, 40, 40))
    fine, coarse = affine_of((1, 1, 1)), affine_of((1, 4, 1))
    kept = resample(along_x, fine, Grid((4, 10, 40), coarse))
    np.testing.assert_allclose(kept[1, 4], stripes, atol=1e-6)
    lost = resample(along_x.transpose(0, 2, 1), fine, Grid((4, 10, 40), coarse))
    np.testing.assert_allclose(lost[1, 2:-2], 0.5, atol=0.02)


def test_outside_is_what_was_asked_for():
    ours = resample(
        np.ones((3, 3, 3), np.float32),
        np.eye(4),
        Grid((1, 1, 2), affine_of((1, 1, 9))),
        outside=-1000.0,
    )
    assert ours.ravel().tolist() == [1, -1000]


def test_shrink_averages_blocks_and_keeps_their_place():
    volume = np.arange(2 * 5 * 6, dtype=np.float32).reshape(2, 5, 6)
    affine = rotation_x(10) @ affine_of((5, 0.5, 0.5), (1, 2, 3))
    small, small_affine = shrink(volume, affine, (2.5, 1.0, 1.0))
    assert small.shape == (2, 2, 3)
    assert small[0, 0, 0] == volume[0, :2, :2].mean()
    np.testing.assert_allclose(
        small_affine @ [1, 1, 1, 1], affine @ [2.5, 2.5, 1, 1], atol=1e-12
    )


def test_shrink_leaves_large_voxels_alone():
    volume = np.ones((2, 3, 4), np.float32)
    small, affine = shrink(volume, affine_of((5, 2, 2)), (2.5, 1.0, 1.0))
    np.testing.assert_array_equal(small, volume)
    np.testing.assert_array_equal(affine, affine_of((5, 2, 2)))


@pytest.mark.parametrize("shear", [0.0, 0.3])
def test_prepared_grid_is_orthogonal_and_centred(shear):
    settings = replace(PrepareSettings(), shape=(5, 6, 8), spacing_mm=(5.0, 1.2, 1.5))
    scan = rotation_x(18) @ affine_of((6, 0.5, 0.5))
    scan[:3, 2] += shear * scan[:3, 1] * 12
    affine = centred_grid(scan, np.array([1.0, 2.0, 3.0]), settings).affine
    np.testing.assert_allclose(affine @ [3.5, 2.5, 2, 1], [1, 2, 3, 1], atol=1e-12)
    gram = affine[:3, :3].T @ affine[:3, :3]
    np.testing.assert_allclose(gram, np.diag([1.5**2, 1.2**2, 25]), atol=1e-12)
    if not shear:
        np.testing.assert_allclose(affine[:3, 2] / 5, scan[:3, 2] / 6, atol=1e-12)
