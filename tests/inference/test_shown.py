"""Lesions one by one, and slices by the numbers of their file."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from adn_jax.inference.shown import (
    BY_IMAGE,
    FROM_THE_FOOT,
    IN_FILE,
    STRAIGHTENED,
    ShownScan,
    slice_numbers,
)
from adn_jax.io.image import Image, from_zyx
from adn_jax.metrics.alignment import Plane, placed, true_plane
from adn_jax.prepare.case import to_native
from adn_jax.scans.dicom.headers import Frame
from adn_jax.scans.dicom.straighten import SliceStack, straighten
from adn_jax.scans.read import RawScan
from tests.inference.planted import INFARCT_MM, ORIENTATIONS, planted


def shown_with(codes):
    scan, case, maps = planted(codes)
    probability = to_native(maps.prediction, case.geometry)
    images = {"probability": probability, "lesion": probability >= 0.5}
    return scan, ShownScan.of_scan(RawScan("planted", scan), case, maps, images)


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_a_lesion_is_described(codes):
    scan, shown = shown_with(codes)
    (lesion,) = shown.lesions
    inside = shown.volumes["lesion"]
    assert lesion.volume_ml == pytest.approx(
        np.prod(scan.spacing_mm) * inside.sum() / 1e3
    )
    assert lesion.side == "left"
    assert lesion.means["mean_hu"] == pytest.approx(30)
    assert 0.5 < lesion.means["mean_probability"] <= 1
    np.testing.assert_allclose(lesion.centre_mm, INFARCT_MM, atol=4)
    low, high = lesion.slices
    mask = np.moveaxis(
        probability_in_file(shown, scan), np.argmax(np.abs(scan.affine[2, :3])), 0
    )
    filled = np.flatnonzero(mask.any(axis=(1, 2))) + 1
    assert {low, high} == {filled[0], filled[-1]}
    # from foot to head: downwards where the file begins at the head
    assert (low < high) == ("S" in codes)
    assert set(lesion.to_json()) == {
        *("volume_ml", "side", "slices", "centre_mm", "mean_hu", "mean_probability")
    }


def probability_in_file(shown, scan):
    """The mask in the order of the scan's file."""
    index = np.argwhere(shown.volumes["lesion"])[:, ::-1]
    places = index @ shown.affine[:3, :3].T + shown.affine[:3, 3]
    there = (places - scan.affine[:3, 3]) @ np.linalg.inv(scan.affine[:3, :3]).T
    mask = np.zeros(scan.shape, bool)
    mask[tuple(there.round().astype(int).T)] = True
    return mask


def made_up(lesion, **how):
    """A scan of 1 mm voxels around the origin, with a mask."""
    affine = np.eye(4)
    affine[:3, 3] = -(np.array(lesion.shape[::-1]) - 1) / 2
    return ShownScan(
        name="made up",
        hu=(np.arange(lesion.size, dtype=np.float32) % 100 + 30).reshape(lesion.shape),
        affine=affine,
        volumes={"lesion": lesion},
        window_hu=(0.0, 80.0),
        threshold=0.5,
        slices=tuple(range(1, len(lesion) + 1)),
        counted="",
        **how,
    )


def test_lesions_that_touch_by_a_corner_are_one_and_the_largest_comes_first():
    lesion = np.zeros((6, 20, 20), bool)
    lesion[1, 2, 2] = lesion[2, 3, 3] = True
    lesion[4, 10:14, 10:14] = True
    first, second = (shown := made_up(lesion)).lesions
    assert [one.volume_ml for one in (first, second)] == [0.016, 0.002]
    assert first.slices == (5, 5)
    assert second.slices == (2, 3)
    assert first.side is None  # no mid-line
    values = shown.hu[4, 10:14, 10:14]
    assert values.max() > 90  # as bone
    assert first.means == {"mean_hu": pytest.approx(values[values <= 90].mean())}


def test_a_lesion_has_the_ppv_of_the_one_it_was_on_the_grid_where_that_was_measured():
    lesion = np.zeros((3, 40, 40), bool)
    lesion[1, 4:12, 4:12] = True
    lesion[1, 30:33, 30:33] = True
    lesion[2, 20, 5] = True  # a splinter beside none of the grid's
    shown = made_up(lesion)
    coarse = np.zeros((3, 20, 20))  # every second voxel, as many mm
    coarse[1, 1:5, 2:6] = 0.7
    coarse[1, 5:8, 2:6] = 0.2
    coarse[1, 14:17, 15:17] = np.nan  # too small to have been measured
    affine = shown.affine @ np.diag([2.0, 2.0, 1.0, 1.0])
    shown = replace(shown, ppv=from_zyx(coarse, affine, "PPV"))
    assert [one.ppv for one in shown.lesions] == [0.7, None, None]
    assert all(one.ppv is None for one in replace(shown, ppv=None).lesions)


@pytest.mark.parametrize(
    ("columns", "side"), [((2, 8), "left"), ((31, 37), "right"), ((14, 27), "both")]
)
def test_sides_are_those_of_the_mid_line_found(columns, side):
    """The head lies 12 mm to the right of the grid's middle, and turned."""
    lesion = np.zeros((3, 40, 40), bool)
    lesion[1, 18:22, slice(*columns)] = True
    turn = np.deg2rad(10)
    plane = Plane(np.array([np.cos(turn), np.sin(turn), 0]), np.array([1.0, 0, 0]))
    shown = made_up(lesion, midline=plane)
    assert shown.lesions[0].side == shown.lesion_side == side
    unknown = made_up(lesion, midline=plane, knows_sides=False)
    assert unknown.lesions[0].side is None
    assert unknown.lesion_side is None


def test_the_side_is_that_of_all_lesions_together():
    lesion = np.zeros((3, 40, 40), bool)
    plane = Plane(np.array([1.0, 0, 0]), np.zeros(3))
    assert made_up(lesion, midline=plane).lesion_side == "none"
    lesion[1, 10:20, 4:9] = True
    lesion[2, 30, 30] = True  # a splinter
    shown = made_up(lesion, midline=plane)
    assert [one.side for one in shown.lesions] == ["left", "right"]
    assert shown.lesion_side == "left"
    lesion[1, 10:20, 30:35] = True
    assert made_up(lesion, midline=plane).lesion_side == "both"


def test_a_plane_is_carried_to_the_scanner_and_back():
    turn = np.deg2rad(25)
    affine = np.diag([2.0, 2.0, 5.0, 1.0])
    affine[:2, :2] = 2 * np.array(
        [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    )
    affine[:3, 3] = -30, 12, 7
    head_to_world = np.eye(4)
    head_to_world[:3, 3] = 4, -3, 11
    plane = true_plane(head_to_world, affine, (10, 50, 40))
    found = placed(plane, affine, (10, 50, 40))
    np.testing.assert_allclose(found.normal, [1, 0, 0], atol=1e-12)
    assert found.point[0] == pytest.approx(4)


def test_slices_of_a_straightened_series_have_the_numbers_of_those_taken():
    heights = np.array([0, 4, 8, 15, 22.0])
    origins = np.stack([0 * heights, 0.3 * heights, heights], axis=1)
    stack = SliceStack(np.zeros((8, 9, 5), np.float32), np.eye(4), origins)
    voxels, affine = straighten(stack, 0.0)
    scan = RawScan("tilted", Image(voxels, affine, "scan"), taken=stack)
    numbers, counted = slice_numbers(scan)
    assert counted.endswith("for the scan was straightened")
    assert len(numbers) == voxels.shape[2]
    assert numbers[:3] == (1, 2, 3)
    assert numbers[-1] == 5
    upside_down = affine @ np.diag([1.0, 1.0, -1.0, 1.0])
    turned = Image(voxels, upside_down, "scan")
    backwards = tuple(range(len(numbers), 0, -1))
    assert slice_numbers(RawScan("turned", turned)) == (backwards, IN_FILE)
    assert slice_numbers(replace(scan, image=turned)) == (numbers[::-1], counted)
    nameless = replace(scan, frames=frames_of(("",) * 5))
    in_order = numbers, f"{FROM_THE_FOOT}, {STRAIGHTENED}"
    assert slice_numbers(nameless) == in_order
    assert slice_numbers(replace(nameless, image=turned)) == (
        tuple(6 - number for number in numbers[::-1]),
        in_order[1],
    )


def frames_of(told):
    """The images of a series, by their numbers."""
    return tuple(
        Frame(
            Path(f"{place}.dcm"),
            *(0, 6, 5, (0.0, 0.0, 5.0 * place), None, None, None, (1.0, 0.0)),
            {"InstanceNumber": str(number)},
        )
        for place, number in enumerate(told)
    )


CORONAL = np.array([[1.0, 0, 0, 0], [0, 0, 5, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
"""Rows go down from the vertex, images from front to back."""


@pytest.mark.parametrize(
    ("told", "numbers", "counted"),
    [
        ((4, 3, 2, 1), (4, 3, 2, 1), BY_IMAGE),  # from the vertex
        ((11, 12, 13, 15), (11, 12, 13, 15), BY_IMAGE),
        ((1, 1, 1, 1), (1, 2, 3, 4), FROM_THE_FOOT),  # frames of one file
        (("", "", "", ""), (1, 2, 3, 4), FROM_THE_FOOT),
    ],
)
def test_slices_of_a_series_have_the_numbers_of_its_images(told, numbers, counted):
    frames = frames_of(told)
    image = Image(np.zeros((5, 6, 4), np.float32), np.diag([1.0, 1, 5, 1]), "scan")
    assert slice_numbers(RawScan("series", image, frames=frames)) == (numbers, counted)
    down = Image(image.voxels, image.affine @ np.diag([1.0, 1, -1, 1]), "scan")
    flipped = RawScan("series", down, frames=frames)
    from_the_foot = counted == FROM_THE_FOOT
    backwards = numbers if from_the_foot else numbers[::-1]
    assert slice_numbers(flipped) == (backwards, counted)
    coronal = Image(np.zeros((5, 4, 6), np.float32).swapaxes(1, 2), CORONAL, "scan")
    found = slice_numbers(RawScan("series", coronal, frames=frames))
    assert found == ((1, 2, 3, 4, 5, 6), FROM_THE_FOOT)


def test_a_prepared_case_is_shown_as_the_system_saw_it():
    _, case, maps = planted("RAS")
    moved = {"asymmetry": 0.5 * maps.prediction, "pathological": maps.prediction}
    shown = ShownScan.of_case(case, maps, moved)
    inside, outside = case.brain > 0, case.brain == 0
    np.testing.assert_allclose(shown.hu[inside], 80 * case.volume[inside], rtol=1e-6)
    assert (shown.hu[outside] == -1000).all()
    assert shown.volumes["asymmetry"].max() == 40  # HU
    assert shown.volumes["pathological"].max() == 1
    parts = ShownScan.of_case(case, replace(maps, adds_up=True), moved)
    assert parts.volumes["pathological"].max() == 80
    assert shown.slices == tuple(range(1, 25))
    (lesion,) = shown.lesions
    assert lesion.side == "left"
    assert lesion.means["mean_hu"] == pytest.approx(30, abs=1)  # of its brain alone
