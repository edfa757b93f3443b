import numpy as np
import pytest
from scipy import ndimage

from adn_jax.config import PrepareSettings, ReadSettings
from adn_jax.errors import UserError
from adn_jax.prepare.dataset import prepare_dataset
from adn_jax.scans.hounsfield import (
    AIR_HU,
    FLOOR_HU,
    SOLID_BONE_HU,
    background_of,
    check_hounsfield,
    restore_clipped,
    to_hounsfield,
    to_window,
)


def test_window_is_linear_and_clipped():
    hu = np.array([[[-1000.0, 0.0, 20.0, 80.0, 3000.0]]])
    ours = to_window(hu, (0.0, 80.0))
    assert ours.dtype == np.float32
    assert ours.ravel().tolist() == [0, 0, 0.25, 1, 1]


def test_padding_becomes_air():
    values = np.array([-2000, -1024, -1000, 40], np.int16)
    hu, flags = to_hounsfield(values)
    assert hu.tolist() == [-1024, -1024, -1000, 40]
    assert flags == ()


def test_offset_is_taken_off_where_soft_tissue_shows_it():
    stored = np.repeat([0, 24, 1060, 2000], [50, 10, 30, 10])
    hu, flags = to_hounsfield(stored)
    assert hu[-1] == 976
    assert "1024 taken off" in flags[0]


def test_unsigned_numbers_around_32768_are_brought_back():
    stored = np.repeat([0, 31768, 32808, 33768], [20, 40, 30, 10]).astype(np.uint16)
    hu, flags = to_hounsfield(stored)
    assert np.unique(hu).tolist() == [-1024, -1000, 40, 1000]
    assert flags == (
        "values were stored as unsigned numbers around 32,768; 32,768 taken off",
    )


def test_a_windowed_picture_is_left_as_it_is_and_flagged():
    picture = np.repeat([0, 100, 255], [50, 30, 20])
    hu, flags = to_hounsfield(picture)
    np.testing.assert_array_equal(hu, picture)
    assert flags == ("no value is negative although air is -1000 HU: are these HU?",)


def test_negative_hu_stored_without_sign_are_brought_back():
    true = np.array([-1024, -1000, -1, 0, 40, 3000])
    stored = true.astype(np.int16).view(np.uint16).astype(float)
    hu, flags = to_hounsfield(stored)
    np.testing.assert_array_equal(hu, true)
    assert flags == ("negative HU were stored without sign; 65,536 taken off",)


def test_numbers_that_are_none_and_absurd_ones_are_flagged():
    hu, flags = to_hounsfield(np.array([-1000.0, np.nan, np.inf, -np.inf, 1e38, 40]))
    assert hu.tolist() == [-1000, -1024, -1024, -1024, 31000, 40]
    assert "voxels that were NaN or infinite, set to air: 3" in flags[0]
    assert "voxels above 31,000 HU, cut there: 1" in flags[1]


def made_head(noise_hu=8.0, air_hu=-1000.0):
    """HU of a head: air, soft tissue and bone."""
    hu = np.repeat([air_hu, 33.0, 700.0], [5000, 4000, 1000])
    return hu + np.random.default_rng(0).normal(0, noise_hu, hu.size).round()


@pytest.mark.parametrize("noise_hu", [0.0, 8.0, 20.0])
@pytest.mark.parametrize("air_hu", [-1015.0, -1000.0, -985.0])
@pytest.mark.parametrize("added", [1000, 1024])
def test_1000_and_1024_are_told_apart(added, air_hu, noise_hu):
    true = made_head(noise_hu, air_hu)
    stored = (true + added).clip(min=0)
    hu, (flag,) = to_hounsfield(stored)
    np.testing.assert_array_equal(hu, true.clip(min=-added))
    assert f"{added} taken off" in flag


@pytest.mark.parametrize("added", [1000, 1024])
def test_1000_and_1024_are_told_apart_without_air(added):
    true = np.where(made_head() < -500, -added, made_head())
    hu, (flag,) = to_hounsfield(true + added)
    np.testing.assert_array_equal(hu, true)
    assert f"{added} taken off" in flag


@pytest.mark.parametrize("padding", [-2000, -1, 65_535])
def test_a_missing_intercept_is_seen_beside_padding_and_ringing(padding):
    """A single voxel of -1, a frame of the others."""
    stored = (made_head() + 1024).clip(min=0)
    frame = slice(0, 1 if padding == -1 else 900)
    stored[frame] = padding
    hu, flags = to_hounsfield(stored)
    np.testing.assert_array_equal(hu[900:], made_head()[900:].clip(min=FLOOR_HU))
    assert (hu[frame] <= FLOOR_HU).all()
    *of_padding, added = flags
    assert added.startswith(
        "values were stored without the rescale intercept; 1024 taken off, by the"
    )
    assert bool(of_padding) == (padding == 65_535)


def test_a_stripped_brain_on_padding_is_left_as_it_is():
    hu = np.repeat([-1024.0, 33.0], [5000, 4000])
    found, flags = to_hounsfield(hu)
    np.testing.assert_array_equal(found, hu)
    assert flags == ()


def test_true_hu_with_padding_are_left_as_they_are():
    hu = made_head()
    hu[:900] = -2000
    found, flags = to_hounsfield(hu)
    np.testing.assert_array_equal(found, hu.clip(min=FLOOR_HU))
    assert flags == ()


def test_a_missing_intercept_is_seen_beside_voxels_that_are_none():
    stored = np.array([0.0] * 5 + [1024.0 + 35] * 5 + [np.nan] * 2)
    hu, flags = to_hounsfield(stored)
    assert hu.tolist() == [-1024] * 5 + [35] * 5 + [-1024] * 2
    assert "without the rescale intercept" in flags[1]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([7, 7], "every voxel of a.nii is 7"),
        ([0, 255], "the values of a.nii go from 0 to 255"),
        ([0, 1], "as in a windowed picture or a mask"),
    ],
)
def test_what_cannot_be_hu_is_refused(values, words):
    with pytest.raises(UserError, match=words):
        check_hounsfield(np.array(values, np.float32), "a.nii")


def test_hu_of_a_head_are_accepted():
    check_hounsfield(np.array([-1000, 40, 900], np.float32), "a.nii")


def test_a_refused_picture_names_the_option():
    with pytest.raises(UserError, match=r"clipped, say to what: --hu-range -17 80"):
        check_hounsfield(np.array([-17, 80, 40], np.float32), "a.nii")


@pytest.mark.parametrize("values", [(0, 0.2, 1), (-0.7, 0, 3.5), (0, 130, 255)])
def test_the_option_is_not_named_where_the_values_are_no_hu(values):
    with pytest.raises(UserError, match=r"bone over 300\)\.$"):
        check_hounsfield(np.array(values, np.float32), "a.nii")


@pytest.fixture
def stripped_brain():
    """A ball of 35 HU and noise on zeros, within -20 and 90 HU."""
    z, y, x = np.indices((20, 40, 40)) - np.array([10, 20, 20])[:, None, None, None]
    noise = np.random.default_rng(0).normal(0, 12, (20, 40, 40))
    inside = (2 * z) ** 2 + y**2 + x**2 < 17**2
    return np.where(inside, 35 + noise, 0).astype(np.float32)


def test_a_narrow_range_is_accepted_of_a_stripped_brain_alone(stripped_brain):
    check_hounsfield(stripped_brain, "a.nii")
    check_hounsfield(ndimage.zoom(stripped_brain, 1.5, mode="nearest"), "a.nii")
    for refused in (
        np.clip(stripped_brain, 10, 50),  # clipped
        np.maximum(stripped_brain, 0),  # a picture has no negative values
        (stripped_brain - 35) / 12,  # z-scores
    ):
        with pytest.raises(UserError, match="as in a windowed picture"):
            check_hounsfield(refused, "a.nii")


def test_background_is_the_value_of_most_of_the_faces(stripped_brain):
    assert background_of(stripped_brain) == 0
    assert background_of(stripped_brain - 3024) == -3024
    noise = np.random.default_rng(0).normal(-1000, 10, (10, 20, 20))
    assert background_of(noise) is None


def head_of_one_slice():
    """Air, scalp, bone, brain with a dark cleft one pixel wide; pixels of 1 mm."""
    y, x = np.indices((60, 60)) - 30
    away = np.hypot(y, x)
    hu = np.select([away < 16, away < 22, away < 26], [35.0, 900.0, 20.0], -1000.0)
    hu[30, 25:36] = -40
    return np.repeat(hu[None], 6, axis=0).astype(np.float32)


@pytest.mark.parametrize("clip", [(-17.0, 80.0), (0.0, 100.0), (-1024.0, 80.0)])
def test_bone_and_air_of_a_clipped_head_are_put_in_again(clip):
    hu = head_of_one_slice()
    filled, flag = restore_clipped(np.clip(hu, *clip), clip, 1.0, "a.nii")
    assert (filled[:, 30, 50] == SOLID_BONE_HU).all()
    assert (filled[hu == -1000] <= AIR_HU).mean() > 0.98
    np.testing.assert_array_equal(filled[hu == 35], 35)
    assert filled[0, 30, 30] == max(clip[0], -40)
    assert f"clipped to {clip[0]:g} to {clip[1]:g} HU" in flag


CLIPS = [(-17.0, 80.0), (0.0, 100.0)]


def splined(hu, clip):
    """Clipped, then on finer voxels by a cubic spline, as in whole HU."""
    return np.rint(ndimage.zoom(np.clip(hu, *clip), (2, 1.3, 1.3), order=3))


@pytest.mark.parametrize("clip", CLIPS)
def test_what_a_spline_left_beyond_the_stated_range_is_cut_back(clip):
    hu = splined(head_of_one_slice(), clip)
    assert hu.min() < clip[0] - 1
    assert hu.max() > clip[1] + 5
    filled, flag = restore_clipped(hu, clip, 1 / 1.3, "a.nii")
    away = np.hypot(*(np.indices((78, 78)) - 39)) / 1.3
    ring, air = (away > 18) & (away < 20), (away > 32) & (away < 38)
    assert (filled[:, ring] >= 120).all()
    assert (filled[:, ring] == SOLID_BONE_HU).mean() > 0.7
    assert (filled[:, air] == AIR_HU).mean() > 0.95
    assert set(np.unique(filled[filled > clip[1]])) <= {120, SOLID_BONE_HU}
    assert set(np.unique(filled[filled < clip[0]])) == {AIR_HU}
    assert f"clipped to {clip[0]:g} to {clip[1]:g} HU, and " in flag
    assert f" lie beyond, from {hu.min():g} to {hu.max():g} HU, as splines" in flag


@pytest.mark.parametrize("clip", CLIPS)
def test_a_spline_is_not_cut_to_a_range_that_is_not_its_own(clip):
    hu = splined(head_of_one_slice(), clip)
    for off in ((10, -5), (15, 0), (0, -10), (-40, -20)):
        stated = (clip[0] + off[0], clip[1] + off[1])
        with pytest.raises(UserError, match="which is not what --hu-range"):
            restore_clipped(hu, stated, 1 / 1.3, "a.nii")


def test_values_that_were_never_clipped_are_no_ringing(stripped_brain):
    noisy = np.where(stripped_brain == 0, 0, stripped_brain * 2 - 33)
    assert noisy.max() > 80
    for stated in ((-17.0, 80.0), (0.0, 80.0)):
        with pytest.raises(UserError, match="leave the option out where they were not"):
            restore_clipped(noisy, stated, 1.0, "a.nii")


def test_a_background_beyond_the_stated_range_is_no_ringing():
    """Most of the voxels at -17 are background, and few others lie beyond."""
    hu = ndimage.zoom(np.clip(head_of_one_slice(), -17, 80), (1, 1.3, 1.3), order=1)
    with pytest.raises(UserError, match="not what --hu-range 0 80 says"):
        restore_clipped(hu, (0.0, 80.0), 1 / 1.3, "a.nii")


@pytest.mark.parametrize("clip", CLIPS)
def test_ends_of_a_spline_are_not_named_as_the_range(clip):
    """Nor is a clipped head, in which bone is bright, taken for a stripped brain."""
    hu = splined(head_of_one_slice(), clip)
    with pytest.raises(UserError, match=r"say to what: --hu-range LOW HIGH\.$"):
        check_hounsfield(hu, "a.nii")


def test_the_range_is_named_though_few_voxels_reach_its_upper_end(stripped_brain):
    clipped = np.clip(stripped_brain, 0, 75)
    assert np.mean(clipped == 75) < 0.01
    with pytest.raises(UserError, match=r"say to what: --hu-range 0 75\.$"):
        check_hounsfield(clipped, "a.nii")


@pytest.mark.parametrize("outside", [-1024.0, 0.0])
def test_a_clipped_stripped_scan_keeps_its_background(stripped_brain, outside):
    clipped = np.clip(stripped_brain, -17, 80)
    given = np.where(stripped_brain == 0, np.float32(outside), clipped)
    filled, _ = restore_clipped(given, (-17.0, 80.0), 1.0, "a.nii")
    assert background_of(filled) == outside
    assert ((filled == outside) == (given == outside)).all()


@pytest.mark.parametrize("values", [(0, 1), (0, 255), (-1024, 3000)])
def test_values_that_do_not_fit_the_stated_range_are_refused(values):
    hu = np.random.default_rng(0).uniform(*values, (6, 10, 10)).astype(np.float32)
    with pytest.raises(UserError, match=r"not what --hu-range -17 80 says"):
        restore_clipped(hu, (-17.0, 80.0), 1.0, "a.nii")


@pytest.mark.parametrize("hu_range", [(80.0, -17.0), (5.0, 5.0), (np.nan, 80.0)])
def test_a_range_that_is_none_is_refused_before_any_scan(hu_range, tmp_path):
    reading = ReadSettings(hu_range=hu_range)
    (tmp_path / "a").mkdir()
    (tmp_path / "a/ct.nii.gz").touch()
    with pytest.raises(UserError, match="the lower HU comes first"):
        prepare_dataset(tmp_path, tmp_path / "out", PrepareSettings(), reading=reading)
    assert not (tmp_path / "out").exists()


def test_no_doubt_about_negative_values_where_the_range_is_stated():
    assert to_hounsfield(np.array([0, 40, 80]), clipped=True)[1] == ()
