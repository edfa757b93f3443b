import numpy as np
import pytest
from scipy import ndimage

from adn_jax.errors import UserError
from adn_jax.io.image import nearest_ras
from adn_jax.phantom.generate import build_phantom
from adn_jax.phantom.settings import HARD
from adn_jax.prepare.skull_strip import BESIDE, find_brain, with_rim
from adn_jax.scans.read import read_scan


def overlap(found, truth):
    found, truth = found.astype(bool), truth.astype(bool)
    return 2 * np.sum(found & truth) / (found.sum() + truth.sum())


def voxels(head):
    """HU, brain and affine, nearest RAS."""
    return (
        *nearest_ras(head.image("ct"))[:1],
        nearest_ras(head.image("brain"))[0],
        head.ct.affine,
    )


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [
        ((48, 140, 120), (3.0, 1.5, 1.5)),
        ((24, 100, 90), (6.0, 2.0, 2.0)),
        ((15, 210, 190), (10.0, 1.0, 1.0)),
        ((30, 320, 280), (5.0, 0.6, 0.6)),
        ((150, 70, 62), (1.0, 3.0, 3.0)),
    ],
)
def test_brain_of_a_simple_head(make_head, shape, spacing):
    hu, brain, affine = voxels(make_head(shape, spacing))
    assert overlap(find_brain(hu, affine)[0], brain) > 0.97


def test_scalp_of_the_same_density_stays_outside(head):
    hu, brain, affine = voxels(head)
    assert not find_brain(hu, affine)[0][brain == 0].any()


@pytest.mark.parametrize("axes", [(0, 1, 2), (0, 2, 1)])
def test_narrow_cleft_between_bone_is_left_out_whichever_way_it_runs(make_head, axes):
    hu, _, affine = voxels(make_head((24, 120, 120), (6.0, 1.5, 1.5)))
    hu = hu.copy()
    turned = hu.transpose(axes)
    turned[8:16, 52:68, 8:56] = 900
    turned[8:16, 57:63, 20:56] = 35  # 9 mm wide, between ridges of 7.5 mm
    mask = find_brain(hu, affine)[0].transpose(axes)
    assert not mask[9:15, 57:63, 36:50].any()
    assert mask[9:15, 57:63, 60:80].all()


@pytest.mark.parametrize("kept", [slice(9, None), slice(0, 17), slice(9, 15)])
@pytest.mark.parametrize("oblique", [False, True])
def test_scan_that_starts_or_ends_inside_the_brain(make_head, kept, oblique):
    hu, brain, affine = voxels(make_head((24, 210, 190), (6.0, 1.0, 1.0)))
    fine = np.repeat(np.repeat(hu[kept], 2, axis=1), 2, axis=2)
    truth = np.repeat(np.repeat(brain[kept], 2, axis=1), 2, axis=2)
    affine = affine @ np.diag([0.5, 0.5, 1.0, 1.0])
    if oblique:
        turn = np.array([[1, 0, 0], [0, 0.947, -0.321], [0, 0.321, 0.947]])
        affine[:3, :3] = turn @ affine[:3, :3]
    mask = find_brain(fine, affine)[0]
    found = mask.sum(axis=(1, 2)) / np.maximum(truth.sum(axis=(1, 2)), 1)
    assert found[[0, -1]][truth[[0, -1]].any(axis=(1, 2))].min() > 0.95
    assert overlap(mask, truth) > 0.97


def test_low_dose_noise(head):
    hu, brain, affine = voxels(head)
    noisy = hu + np.random.default_rng(1).normal(0, 12, hu.shape).astype(np.float32)
    assert overlap(find_brain(noisy, affine)[0], brain) > 0.97


@pytest.mark.parametrize("value", [3.0, 85.0])
def test_old_infarct_and_blood_at_the_rim_belong_to_the_brain(head, value):
    hu, brain, affine = voxels(head)
    hu, lesion = hu.copy(), np.zeros(hu.shape, bool)
    lesion[10:16, 25:45, :20] = brain[10:16, 25:45, :20]
    hu[lesion] = value
    mask = find_brain(hu, affine)[0]
    assert mask[lesion].mean() > 0.97
    assert overlap(mask, brain) > 0.97


def test_head_holder_stays_outside(head):
    hu, brain, affine = voxels(head)
    held = hu.copy()
    held[:, :2] = np.where(hu[:, :2] < -500, 300, hu[:, :2])
    assert overlap(find_brain(held, affine)[0], brain) > 0.97


def test_throat_under_the_brain_is_left_out(head):
    hu, affine = nearest_ras(head.image("ct"))
    below = np.full((4, *hu.shape[1:]), -1000, np.float32)
    below[:, 26:56, 12:52] = 900
    below[:, 28:54, 14:50] = 900
    below[:, 44:54, 16:48] = 40
    below[3] = np.where(below[3] > -500, 900, -1000)
    neck = np.concatenate([below, hu])
    mask = find_brain(neck, affine)[0]
    assert not mask[:4].any()
    assert mask.any()


def test_brain_is_followed_through_an_open_foramen_no_further_than_the_canal(head):
    hu, affine = nearest_ras(head.image("ct"))
    y, x = (np.arange(n) * 3.0 for n in hu.shape[1:])
    away = np.hypot(y[:, None] - y.mean(), x - x.mean())
    canal = np.where(away < 9, 30.0, np.where(away < 20, 900.0, 45.0))
    foramen = np.where(away < 18, 30.0, np.where(away < 30, 900.0, 45.0))
    below = np.stack([canal] * 3 + [foramen]).astype(np.float32)
    bottom = int(np.argmax((hu > 150).any(axis=(1, 2))))
    rest = hu[bottom:].copy()
    rest[:4, away < 18] = 30.0
    mask = find_brain(np.concatenate([below, rest]), affine)[0]
    assert mask[3].sum() > 0.8 * np.sum(away < 18)
    assert not mask[:3].any()


def test_voxels_half_of_bone_belong_to_the_rim_and_nothing_bright_to_the_inside():
    hu = np.full((3, 21, 21), 1000.0, np.float32)
    hu[:, 4:17, 4:17] = 30
    hu[:, 4:17, 4] = 400  # half brain
    hu[:, 4:17, 16] = 700  # mostly bone
    hu[1, 8:12, 8:12] = 300  # a calcification
    hu[1, 14, 10] = -300  # an air bubble
    coarse = np.zeros(hu.shape, bool)
    coarse[:, 5:16, 6:15] = True
    mask = with_rim(hu, coarse)
    assert mask[:, 6:15, 4].all()
    assert not mask[:, :, 16].any()
    assert not mask[1, 8:12, 8:12].any()
    assert mask[1, 14, 10]
    assert not (hu[ndimage.binary_erosion(mask, BESIDE)] > 150).any()


def test_holes_are_filled_unless_they_lead_outside():
    mask = np.zeros((5, 7, 7), bool)
    mask[1:4, 1:6, 1:6] = True
    mask[2, 3, 3] = False
    hu = np.where(mask, 40.0, -1000.0)
    assert with_rim(hu, mask)[2, 3, 3]
    mask[:3, 3, 3] = False
    hu = np.where(mask, 40.0, -1000.0)
    assert not with_rim(hu, mask)[2, 3, 3]


def test_no_skull_is_refused(make_head):
    with pytest.raises(UserError, match="there is no skull"):
        find_brain(*nearest_ras(make_head(skull=False).image("ct")))


def stripped(head, outside):
    hu, brain, affine = voxels(head)
    return np.where(brain > 0, hu, np.float32(outside)), brain, affine


@pytest.mark.parametrize("outside", [-1024.0, -1000.0, 0.0, 7.0, 100.0])
def test_a_stripped_scan_is_all_brain_and_flagged(head, outside):
    hu, brain, affine = stripped(head, outside)
    mask, flags = find_brain(hu, affine)
    assert overlap(mask, brain) > 0.999
    assert len(flags) == 1
    assert "it was stripped before" in flags[0]


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("outside", [-1024.0, 0.0])
def test_a_stripped_scan_on_the_grid_of_a_template(head, outside, order):
    hu, brain, affine = stripped(head, outside)
    zoom = np.array([6.0, 3.0, 3.0]) / 2
    fine = ndimage.zoom(hu, zoom, order=order, grid_mode=True, mode="nearest")
    truth = ndimage.zoom(brain, zoom, order=1, grid_mode=True, mode="nearest") > 0.5
    mask, flags = find_brain(fine, affine @ np.diag([2 / 3, 2 / 3, 1 / 3, 1]))
    assert overlap(mask, truth) > 0.94
    assert "it was stripped before" in flags[0]


@pytest.mark.parametrize("outside", [0.0, 0.0036])
def test_csf_near_the_value_around_a_stripped_brain_is_no_ringing(head, outside):
    """0.0036 is what 16 bits with a scale make of 0."""
    hu, brain, affine = stripped(head, outside)
    inner = ndimage.binary_erosion(brain, BESIDE, iterations=3)
    rim = (brain > 0) & ~inner
    assert rim.sum() > 0.2 * brain.sum()
    noise = np.random.default_rng(0).normal(2, 3, rim.sum())
    hu[rim] = np.rint(noise)
    mask, _ = find_brain(hu, affine)
    assert mask.sum() > 0.95 * brain.sum()


def test_part_bone_at_the_rim_of_a_stripped_scan_is_no_skull(head):
    hu, brain, affine = stripped(head, -1024)
    inner = ndimage.binary_erosion(brain, BESIDE)
    rim = (brain > 0) & ~inner
    hu[rim] = np.random.default_rng(0).uniform(400, 600, rim.sum())
    mask, flags = find_brain(hu, affine)
    np.testing.assert_array_equal(mask, brain)
    assert len(flags) == 1


def test_a_stripped_scan_says_that_its_values_were_cut_off(head):
    hu, brain, affine = stripped(head, -1024)
    hu[brain > 0] = np.minimum(hu[brain > 0], 38)
    assert find_brain(hu, affine)[1][1:] == (
        "values of the stripped scan were cut off at 38 HU",
    )


@pytest.mark.parametrize("clip", [(-1000, 4000), (-100, 300), (-1000, 200)])
def test_a_head_in_one_value_of_air_is_not_taken_for_stripped(head, clip):
    hu, brain, affine = voxels(head)
    even = np.clip(np.where(hu < -500, -1000, hu), *clip)
    mask, flags = find_brain(even, affine)
    assert overlap(mask, brain) > 0.95
    assert flags == ()


def test_a_stripped_scan_of_the_wrong_size_or_units_is_refused(head):
    hu, _, affine = stripped(head, -1024)
    with pytest.raises(UserError, match="sizes are in mm"):
        find_brain(hu, affine @ np.diag([0.3, 0.3, 0.3, 1]))
    with pytest.raises(UserError, match="the median"):
        find_brain(np.where(hu > -500, hu + 60, hu), affine)


def test_phantom_with_thick_slices_skull_and_head_holder():
    phantom = build_phantom(7, 1, HARD)
    assert phantom.truth["slice_mm"] > 9
    mask = find_brain(phantom.ct, phantom.affine)[0]
    brain = phantom.grey + phantom.white + phantom.csf >= 0.5
    assert overlap(mask, brain) > 0.96
    assert mask[~brain].mean() < 0.001
    assert mask[phantom.lesion].mean() > 0.99


def test_real_head_has_one_brain_without_bone(shared):
    hu, affine = nearest_ras(read_scan(shared / "data" / "ge_head_ct").image)
    mask = find_brain(hu, affine)[0].astype(bool)
    volume_ml = mask.sum() * abs(np.linalg.det(affine[:3, :3])) / 1000
    assert 1300 < volume_ml < 1600
    assert ndimage.label(mask)[1] == 1
    assert not (hu[ndimage.binary_erosion(mask, BESIDE)] > 150).any()
