from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from adn_jax.config import PrepareSettings
from adn_jax.datasets.raw import CaseInput, native_label
from adn_jax.errors import UserError
from adn_jax.io.image import Image, in_order_of, nearest_ras
from adn_jax.prepare import case as module
from adn_jax.prepare.case import prepare_scan, strip_scan, to_native, to_slices
from adn_jax.prepare.resample import Grid, resample
from adn_jax.scans.dicom.straighten import (
    as_stack,
    straighten,
    straighten_mask,
    taken_image,
)
from adn_jax.scans.read import RawScan
from tests.scans.dicom.test_straighten import field, positions, stack_of

SETTINGS = PrepareSettings(shape=(24, 56, 48), spacing_mm=(6.0, 3.4, 3.4))


def scan_of(head) -> RawScan:
    return RawScan("one", head.image("ct"), {"file": "ct.nii.gz"}, ("first flag",))


def overlap(one, other):
    return 2 * np.sum(one & other) / (one.sum() + other.sum())


@pytest.fixture(scope="module")
def prepared(make_head):
    head = make_head()
    scan = scan_of(head)
    return prepare_scan(
        CaseInput(scan, native_label(head.image("lesion"), scan, (1,))), SETTINGS
    )


def test_volume_is_windowed_inside_the_brain_and_zero_outside(prepared):
    inside = prepared.brain.astype(bool)
    assert prepared.volume.dtype == np.float32
    assert not prepared.volume[~inside].any()
    healthy = prepared.volume[inside & (prepared.lesion == 0)]
    assert np.median(healthy) == pytest.approx(35 / 80, abs=0.01)
    assert np.median(prepared.volume[prepared.lesion == 1]) == pytest.approx(
        23 / 80, abs=0.02
    )
    assert prepared.volume.max() < 0.6, "the skull shines into the brain's rim"


def test_brain_is_centred_on_the_grid(prepared):
    middle = [np.average(np.arange(n), weights=w) for n, w in profile(prepared.brain)]
    expected = [(n - 1) / 2 for n in prepared.brain.shape]
    np.testing.assert_allclose(middle, expected, atol=0.3)


def profile(mask):
    others = ((1, 2), (0, 2), (0, 1))
    return [(n, mask.sum(axis=o)) for n, o in zip(mask.shape, others, strict=True)]


def test_quality_and_flags_are_kept(prepared, head):
    voxel_ml = abs(np.linalg.det(head.ct.affine)) / 1000
    assert prepared.quality["brain_ml"] == pytest.approx(
        np.sum(head.brain.dataobj) * voxel_ml, rel=0.05
    )
    assert prepared.quality["lesion_ml"] == pytest.approx(
        np.sum(head.lesion.dataobj) * voxel_ml
    )
    assert prepared.quality["lesion_outside_brain"] == 0
    assert prepared.quality["brain_outside_grid"] == 0
    assert prepared.flags == ("first flag",)
    assert prepared.source == {"file": "ct.nii.gz"}


def test_lesion_keeps_its_volume(prepared):
    ml = prepared.lesion.sum() * np.prod(prepared.spacing_mm) / 1000
    assert ml == pytest.approx(prepared.quality["lesion_ml"], rel=0.05)


@pytest.mark.parametrize("slice_mm", [3.0, 9.0])
def test_lesion_finds_its_way_back_through_other_slices(make_head, slice_mm):
    head = make_head(shape=(round(150 / slice_mm), 72, 64), spacing=(slice_mm, 3, 3))
    case = prepare_scan(CaseInput(scan_of(head), head.image("lesion")), SETTINGS)
    back = to_native(case.lesion, case.geometry) >= 0.5
    truth = np.asarray(head.lesion.dataobj).astype(bool)
    shares = np.unique(case.lesion)
    assert 0 <= shares.min() <= shares.max() <= 1
    assert len(shares) > 10
    assert overlap(back, truth) > 0.97


@pytest.mark.parametrize(
    ("slices", "spacing_mm", "least"),
    [(1, (5.0, 1.2, 1.2), 0.94), (3, (9.0, 3.0, 3.0), 0.9)],
)
@pytest.mark.parametrize("first", [True, False], ids=["first", "last"])
def test_a_lesion_at_the_scans_end_finds_its_way_back(first, slices, spacing_mm, least):
    scan, shape = np.diag([0.6, 0.6, 5.0, 1.0]), (12, 100, 100)
    lesion = np.zeros(shape, np.float32)
    lesion[:slices, 20:63, 30:73] = 1  # 26 x 26 mm: 3.3 mL a slice of 5 mm
    lesion = lesion if first else lesion[::-1]
    for step in range(11):
        grid = np.diag([*spacing_mm[::-1], 1.0])
        grid[:3, 3] = -11.8, -12.1, (step / 10 - 2) * spacing_mm[0]
        share = resample(lesion, scan, Grid((18, 72, 72), grid))
        share = np.rint(share * 255) / np.float32(255)
        geometry = {
            "affine": grid,
            "native_affine": scan,
            "native_shape": shape[::-1],
        }
        back = to_native(share, geometry).transpose(2, 1, 0)
        assert overlap(back >= 0.5, lesion > 0) >= least


def test_a_brain_that_fills_the_scan_keeps_its_volume_and_its_slices(make_head):
    settings = PrepareSettings(shape=(40, 56, 48), spacing_mm=(5.0, 3.4, 3.4))
    whole = make_head(shape=(28, 72, 64), spacing=(5.0, 3.0, 3.0))
    low, high = np.s_[..., 6:22], whole.ct.affine
    ct, brain = (
        Image(image.voxels[low], high, image.meaning)
        for image in (whole.image("ct"), whole.image("brain"))
    )
    case = prepare_scan(CaseInput(RawScan("cut", ct), brain=brain), settings)
    ml = case.brain.sum() * np.prod(settings.spacing_mm) / 1000
    truth = brain.voxels > 0
    assert ml == pytest.approx(truth.sum() * 5 * 3 * 3 / 1000, rel=0.02)
    back = to_native(case.brain, case.geometry) >= 0.5
    for z in (0, -1):
        assert overlap(back[..., z], truth[..., z]) > 0.97


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "SAL", "LAI"])
def test_every_orientation_gives_the_same_case_and_finds_its_way_back(
    make_head, codes, prepared
):
    head = make_head(codes=codes)
    scan = scan_of(head)
    case = prepare_scan(
        CaseInput(scan, native_label(head.image("lesion"), scan, (1,))), SETTINGS
    )
    np.testing.assert_allclose(case.volume, prepared.volume, atol=1e-4)
    np.testing.assert_allclose(case.lesion, prepared.lesion, atol=1.01 / 255)
    back = to_native(case.lesion, case.geometry)
    assert back.shape == head.ct.shape
    truth = np.asarray(head.lesion.dataobj).astype(bool)
    assert overlap(back >= 0.5, truth) > 0.95


def test_way_back_is_exact_where_grids_have_the_same_voxels(small_grid, head):
    case = prepare_scan(CaseInput(scan_of(head)), small_grid)
    geometry = {
        **case.geometry,
        "native_affine": case.geometry["affine"],
        "native_shape": case.geometry["shape"],
    }
    back = to_native(case.volume, geometry).transpose(2, 1, 0)
    np.testing.assert_allclose(back, case.volume, atol=1e-5)


def test_way_back_through_a_tilted_and_sheared_scan(make_head, small_grid):
    head = make_head()
    affine = head.ct.affine.copy()
    affine[:3, 2] += 0.2 * affine[:3, 1]
    angle = np.deg2rad(18)
    turn = np.eye(4)
    turn[1:3, 1:3] = [
        [np.cos(angle), -np.sin(angle)],
        [np.sin(angle), np.cos(angle)],
    ]
    tilted = Image(np.asarray(head.ct.dataobj), turn @ affine, "map")
    case = prepare_scan(CaseInput(RawScan("tilted", tilted)), small_grid)
    axes = case.affine[:3, :3] / np.linalg.norm(case.affine[:3, :3], axis=0)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-9)
    back = to_native(case.brain, case.geometry) >= 0.5
    brain, _ = nearest_ras(Image(back.astype(np.uint8), tilted.affine, "map"))
    expected = strip_scan(CaseInput(RawScan("tilted", tilted))).brain
    assert overlap(brain.astype(bool), expected.astype(bool)) > 0.95


def test_brain_outside_the_grid_is_flagged(head, small_grid):
    narrow = replace(small_grid, shape=(24, 24, 24))
    case = prepare_scan(CaseInput(scan_of(head)), narrow)
    assert case.quality["brain_outside_grid"] > 0.2
    assert any("lies outside the prepared grid" in flag for flag in case.flags)


def test_lesion_outside_the_brain_is_flagged(head, small_grid):
    values = np.zeros(head.ct.shape, np.uint8)
    values[28:36, 5:8, 10:14] = 1
    wrong = Image(values, head.ct.affine, "map")
    case = prepare_scan(CaseInput(scan_of(head), wrong), small_grid)
    assert "100% of the infarct lies outside the brain mask" in case.flags


def test_a_lesion_that_vanishes_is_flagged(head, small_grid):
    values = np.zeros(head.ct.shape, np.uint8)
    values[32, 36, 12] = 1
    tiny = Image(values, head.ct.affine, "map")
    coarse = replace(small_grid, shape=(24, 32, 28), spacing_mm=(6.0, 6.0, 6.0))
    case = prepare_scan(CaseInput(scan_of(head), tiny), coarse)
    assert "the labelled infarct is lost on the prepared grid" in case.flags


def tissue_maps(head):
    brain = np.asarray(head.brain.dataobj).astype(np.float32)
    left = np.zeros_like(brain)
    left[: len(left) // 2] = 1
    parts = {"grey": brain * left, "white": brain * (1 - left), "csf": 0 * brain}
    return {name: Image(part, head.ct.affine, "map") for name, part in parts.items()}


def test_given_tissue_becomes_labels(head, small_grid):
    case = prepare_scan(CaseInput(scan_of(head), tissue=tissue_maps(head)), small_grid)
    inside = case.brain.astype(bool)
    assert case.tissue.dtype == np.uint8
    assert not case.tissue[~inside].any()
    assert np.mean(case.tissue[..., :19][inside[..., :19]] == 1) > 0.95
    assert np.mean(case.tissue[..., 21:][inside[..., 21:]] == 2) > 0.95


@pytest.mark.parametrize("way", ["auto", "none"])
def test_no_tissue_without_maps(head, small_grid, way):
    case = prepare_scan(CaseInput(scan_of(head)), replace(small_grid, tissue=way))
    assert case.tissue is None
    assert "registration_overlap" not in case.quality


def test_tissue_that_should_be_given_is_missed(head, small_grid):
    with pytest.raises(UserError, match="no tissue maps are given"):
        prepare_scan(CaseInput(scan_of(head)), replace(small_grid, tissue="given"))


def test_tissue_of_an_atlas_tells_how_well_it_overlaps(head, small_grid, monkeypatch):
    labels = np.ones(small_grid.shape, np.uint8)
    monkeypatch.setattr(module, "atlas_tissue", lambda *_: (labels, 0.7))
    case = prepare_scan(CaseInput(scan_of(head)), replace(small_grid, tissue="atlas"))
    assert case.tissue is labels
    assert case.quality["registration_overlap"] == 0.7
    assert any("with a Dice of 0.700 only" in flag for flag in case.flags)


def test_phantom_truth_is_in_window_units(head, small_grid):
    lost = Image(12.0 * np.asarray(head.lesion.dataobj), head.ct.affine, "map")
    truth = {"head_to_world": [1]}
    given = CaseInput(scan_of(head), pathological=lost, truth=truth)
    case = prepare_scan(given, small_grid)
    assert case.pathological.dtype == np.float32
    assert case.pathological.max() == pytest.approx(12 / 80, rel=0.02)
    assert case.truth == {"head_to_world": [1]}


def test_bone_in_the_rim_does_not_brighten_the_brain(head, small_grid):
    inside = np.asarray(head.brain.dataobj).astype(bool)
    rim = inside & ~ndimage.binary_erosion(inside)
    hu = np.asarray(head.ct.dataobj).astype(np.float32)
    bright = Image(np.where(rim, 450, hu), head.ct.affine, "map")
    plain, mixed = (
        prepare_scan(
            CaseInput(RawScan("one", image), brain=head.image("brain")), small_grid
        )
        for image in (head.image("ct"), bright)
    )
    np.testing.assert_array_equal(mixed.brain, plain.brain)
    brain = plain.brain.astype(bool)
    assert mixed.volume[brain].max() < 0.6
    assert np.abs(mixed.volume - plain.volume)[brain].mean() < 0.02


def test_a_given_brain_mask_wins(head, small_grid):
    inside = np.asarray(head.brain.dataobj)
    half = inside * (np.arange(inside.shape[0])[:, None, None] < inside.shape[0] // 2)
    mask = Image(half.astype(np.uint8), head.ct.affine, "map")
    given = CaseInput(scan_of(head), brain=mask)
    np.testing.assert_array_equal(strip_scan(given).brain, half.T)
    assert prepare_scan(given, small_grid).quality["brain_ml"] == pytest.approx(
        half.sum() * 54 / 1000
    )


@pytest.mark.parametrize("change", [lambda hu: hu.clip(min=0), lambda hu: hu])
def test_a_stripped_scan_is_no_brain_mask(head, change):
    """FSL's `bet ct brain` writes one, and the mask as brain_mask."""
    inside = np.asarray(head.brain.dataobj)
    noise = np.random.default_rng(0).normal(0, 20, inside.shape).round()
    stripped = change(np.asarray(head.ct.dataobj) + noise) * inside
    given = CaseInput(scan_of(head), brain=Image(stripped, head.ct.affine, "map"))
    with pytest.raises(UserError, match=r"mask has values from .*as a scan has"):
        strip_scan(given)


@pytest.mark.parametrize(
    "change",
    [
        lambda inside: 255 * inside.astype(np.uint8),
        lambda inside: np.where(inside, 255.0, np.nan),
        lambda inside: np.where(inside, 1.03, -0.02),
        lambda inside: inside * (1 + np.arange(inside.size).reshape(inside.shape) % 40),
    ],
)
def test_a_brain_mask_may_be_of_other_values(head, change):
    inside = np.asarray(head.brain.dataobj)
    mask = Image(change(inside), head.ct.affine, "map")
    found = strip_scan(CaseInput(scan_of(head), brain=mask)).brain
    np.testing.assert_array_equal(found, inside.T)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda hu, inside: (hu, 1 - inside), "given brain mask has .* cm²"),
        (lambda hu, inside: (hu, 0 * inside + 1), "given brain mask has .* cm²"),
        (lambda hu, inside: (hu + 1024, inside), "given brain mask is 10.. HU"),
        (lambda hu, inside: (hu, hu.clip(0, 50) * inside), "has values from 0 to 4"),
    ],
    ids=["inverted", "all", "offset", "stripped and windowed"],
)
def test_what_cannot_be_a_brain_mask_is_refused(head, change, message):
    hu, inside = (np.asarray(one.dataobj).astype(int) for one in (head.ct, head.brain))
    scan, mask = (Image(one, head.ct.affine, "map") for one in change(hu, inside))
    with pytest.raises(UserError, match=message):
        strip_scan(CaseInput(RawScan("one", scan), brain=mask))


def test_a_small_brain_is_taken_where_its_mask_is_given(head):
    """As of a preterm child: half of each length of an adult's."""
    halved = np.diag([0.5, 0.5, 0.5, 1.0])
    scan, mask = (
        Image(np.asarray(one.dataobj), one.affine @ halved, "map")
        for one in (head.ct, head.brain)
    )
    assert strip_scan(CaseInput(RawScan("one", scan), brain=mask)).brain.any()


@pytest.mark.parametrize("value", [1, 255])
def test_a_brain_mask_on_slices_as_taken_does_not_grow(head, value):
    """It is straightened as 0 and 1, whatever stands for 1."""
    stack = as_stack(in_order_of(head.image("ct"), np.eye(4)))
    inside = in_order_of(head.image("brain"), np.eye(4)).voxels > 0
    lying = stack.origins_mm + np.outer(stack.heights_mm, [0.0, 0.2, 0.0])
    taken = replace(stack, origins_mm=lying)
    hu, affine = straighten(taken, -1000.0)
    scan = RawScan("tilted", Image(hu, affine, "scan"), taken=taken)
    on_slices = replace(taken, values=(inside * value).astype(np.uint8))
    mask = taken_image(on_slices, "brain mask")
    found = strip_scan(CaseInput(scan, brain=mask)).brain
    expected = straighten_mask(replace(taken, values=inside.astype(np.uint8)))
    np.testing.assert_array_equal(found, expected.T)


def test_an_empty_brain_mask_is_refused(head):
    empty = Image(0 * np.asarray(head.brain.dataobj), head.ct.affine, "map")
    with pytest.raises(UserError, match="given brain mask is empty"):
        strip_scan(CaseInput(scan_of(head), brain=empty))


def test_a_brain_smaller_than_a_voxel_is_refused(head, small_grid):
    speck = 0 * np.asarray(head.brain.dataobj)
    speck[32, 36, 12] = 1
    given = CaseInput(scan_of(head))
    stripped = replace(strip_scan(given), brain=speck.T)
    coarse = replace(small_grid, spacing_mm=(20.0, 20.0, 20.0))
    with pytest.raises(UserError, match="no voxel of the prepared grid"):
        prepare_scan(given, coarse, stripped)


def test_label_on_another_grid_is_refused(head):
    moved = Image(np.asarray(head.lesion.dataobj), np.eye(4), "lesion label")
    with pytest.raises(UserError, match="lesion label has voxels of 1 x 1 x 1 mm"):
        native_label(moved, scan_of(head), (1,))


@pytest.mark.parametrize("heights", [(0, 5, 10, 15), (0, 2, 4, 9, 14), (0, 5, 15, 20)])
@pytest.mark.parametrize("tilt", [0.0, 18.5, -25.0])
def test_slices_as_taken_are_sampled_where_they_lie(heights, tilt):
    """A field that grows evenly is met at every pixel that the grid holds."""
    stack = stack_of(heights, tilt, 10.0)
    straight, native = straighten(stack, 0.0)
    around = Grid((64, 64, 64), np.eye(4))
    around.affine[:3, 3] = stack.origins_mm.mean(axis=0) - (24, 24, 32)
    geometry = {
        "affine": around.affine.tolist(),
        "native_affine": native.tolist(),
        "native_shape": list(straight.shape),
    }
    volume = field(positions(around.affine, around.shape[::-1])).transpose(2, 1, 0)
    taken = to_slices(volume.astype(np.float32), geometry, stack)
    assert taken.shape == stack.values.shape
    inner = (slice(1, -1),) * 3  # at the scan's faces values go on as they are
    np.testing.assert_allclose(taken[inner], stack.values[inner], atol=1e-3)
    np.testing.assert_allclose(taken[1:-1, 1:-1], stack.values[1:-1, 1:-1], atol=0.1)


def test_maps_without_any_tissue_in_the_brain_are_refused(head, small_grid):
    maps = {
        name: one.holding(0 * one.voxels, name)
        for name, one in tissue_maps(head).items()
    }
    given = CaseInput(scan_of(head), tissue=maps)
    with pytest.raises(UserError, match="every voxel of the brain without tissue"):
        prepare_scan(given, small_grid)
