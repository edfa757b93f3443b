import numpy as np
import pytest

from adn_jax.phantom.generate import build_phantom
from adn_jax.phantom.settings import HARD
from adn_jax.prepare.resample import shrink
from adn_jax.prepare.skull_gaps import (
    STIFF,
    WALL_MM,
    Gap,
    find_gap,
    in_large_groups,
    smooth_shell,
    sphere,
)
from adn_jax.prepare.skull_strip import find_brain
from adn_jax.scans.hounsfield import BONE_HU

MOST_LOST_ML = 20


@pytest.fixture(scope="module")
def phantom():
    """HU, brain and affine in voxels of 1.9 mm; the brain found in a whole skull."""
    head = build_phantom(7, 2, HARD)
    share = head.grey + head.white + head.csf
    size = (0.0, 1.9, 1.9)
    hu, affine = shrink(head.ct, head.affine, size)
    found, flags = find_brain(hu, affine)
    assert flags == ()
    brain = shrink(share, head.affine, size)[0] >= 0.5
    return hu, brain, affine, found.astype(bool)


def from_the_middle(brain, affine):
    """Distance of each voxel from the brain's centre along z, y, x in mm."""
    size = np.linalg.norm(affine[:3, :3], axis=0)[::-1]
    middle = np.argwhere(brain).mean(axis=0)
    return (np.indices(brain.shape).T - middle).T * size[:, None, None, None]


def volume_ml(mask, affine):
    return mask.sum() * abs(np.linalg.det(affine[:3, :3])) / 1000


def opened(phantom, gap):
    """The scan whose bone became soft tissue within `gap`."""
    return np.where(gap & (phantom[0] > 120), 40.0, phantom[0])


def check_little_is_lost(hu, brain, affine, found_before):
    found, flags = find_brain(hu, affine)
    lost = volume_ml(brain & (found == 0), affine)
    assert lost <= volume_ml(brain & ~found_before, affine) + MOST_LOST_ML
    assert volume_ml((found > 0) & ~brain, affine) < 80
    assert len(flags) == 1
    assert "the skull is open over" in flags[0]


@pytest.mark.parametrize("diameter", [60, 120])
@pytest.mark.parametrize("side", ["left", "front", "top"])
def test_brain_behind_a_gap_in_the_skull_is_kept(phantom, side, diameter):
    _, brain, affine, found = phantom
    z, y, x = from_the_middle(brain, affine)
    gap = {
        "left": (x < -30) & (np.hypot(y, z - 15) < diameter / 2),
        "front": (y > 30) & (np.hypot(x, z - 15) < diameter / 2),
        "top": (z > 30) & (np.hypot(x, y) < diameter / 2),
    }[side]
    check_little_is_lost(opened(phantom, gap), brain, affine, found)


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("mm", [10, 25])
def test_a_head_cut_by_the_edge_of_the_image_keeps_its_brain(phantom, axis, mm):
    hu, brain, affine, found = phantom
    voxels = round(mm / np.linalg.norm(affine[:3, 2 - axis]))
    end = np.argwhere(brain)[:, axis].max() - voxels
    part = (slice(None),) * axis + (slice(end),)
    check_little_is_lost(hu[part], brain[part], affine, found[part])


def test_a_head_cut_by_a_round_field_of_view_keeps_its_brain(phantom):
    hu, brain, affine, found = phantom
    _, y, x = from_the_middle(brain, affine)
    seen = np.hypot(y - 25, x - 10) < 85
    cut = np.where(seen, hu, -1024)
    check_little_is_lost(cut, brain & seen, affine, found & seen)


def test_open_fontanelles_and_sutures_lose_nothing(phantom):
    _, brain, affine, found = phantom
    z, y, x = from_the_middle(brain, affine)
    sutures = (abs(x) < 6) | (abs(y - 25) < 6) | (np.hypot(x, y - 25) < 20)
    check_little_is_lost(opened(phantom, (z > 20) & sutures), brain, affine, found)


def test_a_gap_of_air_under_sunken_skin(phantom):
    hu, brain, affine, found = phantom
    z, y, x = from_the_middle(brain, affine)
    flap = (x > 30) & (np.hypot(y, z - 15) < 45) & ~brain
    check_little_is_lost(np.where(flap, -1000, hu), brain, affine, found)


def test_no_bone_has_no_gap():
    hu = np.full((12, 40, 40), 40.0)
    assert find_gap(hu, hu > BONE_HU, (6.0, 5.0, 5.0), BONE_HU) is None


def test_a_shell_bridges_a_gap_in_an_ellipsoid():
    semi_axes = np.array([70.0, 85.0, 65.0])
    true = 1 / np.linalg.norm(sphere() / semi_axes, axis=1)
    known = (sphere() @ [0.3, 0.2, 0.93] < 0.75) & (sphere()[:, 0] > -0.7)
    radius = np.where(known, true, np.nan)
    radius[np.flatnonzero(known)[::20]] -= 25  # calcifications
    shell, share = smooth_shell(radius, known, STIFF)
    wanted = (sphere()[:, 0] > -0.7) & ~known
    assert np.abs(shell - true)[wanted].max() < 3
    assert share == pytest.approx(0.95, abs=0.01)


def test_only_large_groups_of_directions_count():
    small = sphere() @ [1.0, 0, 0] > 0.99
    large = sphere() @ [0, 1.0, 0] > 0.9
    area = np.full(len(sphere()), 0.15)
    np.testing.assert_array_equal(in_large_groups(small | large, area), large)


def test_the_wall_lies_where_the_brain_ends():
    there = sphere() @ [0, 0, 1.0] > 0.8
    gap = Gap(
        np.array([10.0, 30, 30]), sphere()[there], np.full(there.sum(), 70.0), 50.0
    )
    wall = gap.wall((21, 101, 101), (5.0, 2.0, 2.0), (0, 20, 20))
    x = np.flatnonzero(wall[10, 50]) * 2.0 - 100
    assert x.min() == 70
    assert x.max() == 70 + WALL_MM
    assert not wall[..., :60].any()
