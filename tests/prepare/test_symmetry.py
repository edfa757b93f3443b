import numpy as np
import pytest
from scipy import ndimage

from adn_jax.prepare.quality import long_axis_deg, mirror_residual_hu

SHAPE, SPACING = (12, 100, 90), (8.0, 2.0, 2.0)
AFFINE = np.diag([*SPACING[::-1], 1.0])


def brain_at(angle_deg=0.0, shift_mm=(0.0, 0.0)):
    """A mirror-symmetric brain: an ellipsoid whose HU grow from the middle plane."""
    z, y, x = np.meshgrid(
        *(
            (np.arange(n) - (n - 1) / 2) * s
            for n, s in zip(SHAPE, SPACING, strict=True)
        ),
        indexing="ij",
    )
    y, x = y - shift_mm[0], x - shift_mm[1]
    angle = np.radians(angle_deg)
    along = y * np.cos(angle) + x * np.sin(angle)
    across = x * np.cos(angle) - y * np.sin(angle)
    brain = (along / 80) ** 2 + (across / 62) ** 2 + (z / 45) ** 2 <= 1
    hu = 25 + np.abs(across) / 5 + along / 20
    return np.where(brain, hu, -1000).astype(np.float32), brain


@pytest.mark.parametrize("angle", [0.0, 7.0, -21.0, 24.0])
def test_a_symmetric_brain_has_nearly_none_in_any_pose(angle):
    hu, brain = brain_at(angle, (6.0, -11.0))
    assert mirror_residual_hu(hu, brain, AFFINE) < 1.5


def test_what_differs_between_the_sides_counts():
    hu, brain = brain_at()
    least = mirror_residual_hu(hu, brain, AFFINE)
    darker = np.where(np.arange(SHAPE[2]) > 50, hu - 10, hu)
    assert mirror_residual_hu(darker, brain, AFFINE) > least + 5
    cut = brain.copy()
    cut[:, :, 65:] = False
    assert mirror_residual_hu(hu, cut, AFFINE) > least + 2


def test_air_and_bone_weigh_no_more_than_the_window():
    hu, brain = brain_at()
    spot = hu.copy()
    spot[6, 50, 60] = 3000
    worst = 80 / 1000
    least = mirror_residual_hu(hu, brain, AFFINE)
    assert mirror_residual_hu(spot, brain, AFFINE) < least + worst


def test_the_long_axis_of_the_mask_starts_the_search():
    for angle in (0.0, 12.0, -30.0):
        flat = brain_at(angle)[1].sum(axis=0).astype(np.float32)
        found = long_axis_deg(flat, np.array(SPACING[1:]))
        assert found == pytest.approx(angle, abs=1.0)
    wide = ndimage.rotate(flat, 90, reshape=False, order=0)
    assert abs(long_axis_deg(wide, np.array(SPACING[1:]))) <= 90


def test_few_voxels_have_no_axis():
    brain = np.zeros(SHAPE, bool)
    brain[5, 40:43, 40:43] = True
    assert mirror_residual_hu(np.zeros(SHAPE, np.float32), brain, AFFINE) is None
