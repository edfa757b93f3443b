import numpy as np
import pydicom
import pytest

from adn_jax.datasets.aisd.orientation import (
    Match,
    Turn,
    explained_share,
    match_label,
    match_pictures,
    turns,
)
from adn_jax.errors import UserError
from tests.datasets.aisd.download import fake_head

HEAD = fake_head()

HU = HEAD.hu.astype(np.float32)


def undone(turn: Turn, stack: np.ndarray) -> np.ndarray:
    """The stack that `turn` brings to the given one."""
    flipped = Turn(False, turn.flip_z, turn.flip_y, turn.flip_x).of(stack)
    return flipped.swapaxes(1, 2) if turn.swap else flipped


@pytest.mark.parametrize("turn", list(turns()), ids=str)
def test_every_orientation_is_found(turn):
    pictures = undone(turn, HEAD.pictures)
    match = match_pictures(HU, pictures)
    assert match.turn == turn
    np.testing.assert_array_equal(match.turn.of(pictures), HEAD.pictures)
    assert match.explained > 0.999
    assert match.runner_up < 0.98
    assert match.flags == ()
    if turn == Turn():
        assert match.notes == ()
    else:
        (note,) = match.notes
        assert (
            f"the PNG show the DICOM slices {turn} (explained by them: 100.0%" in note
        )


@pytest.mark.parametrize("window", [(-100, 300), (20, 60), (0, 100), (-5, 35)])
def test_the_window_of_the_pictures_need_not_be_known(window):
    low, high = window
    shown = np.clip((HEAD.hu - low) / (high - low), 0, 1) ** 0.7
    match = match_pictures(HU, np.round(shown * 255).astype(np.uint8)[:, :, ::-1])
    assert match.turn == Turn(flip_x=True)


def test_a_head_alike_on_all_sides_has_no_certain_orientation():
    hu = np.zeros((6, 32, 32), np.float32)
    hu[:, 4:-4, 4:-4] = 40
    with pytest.raises(UserError, match="do not clearly show") as caught:
        match_pictures(hu, hu.astype(np.uint8))
    assert "the label has no certain place" in str(caught.value)
    assert "100.0% as stored" in str(caught.value)


def test_pictures_of_another_scan_are_refused():
    noise = np.random.default_rng(0).integers(0, 256, HU.shape, np.uint8)
    with pytest.raises(UserError, match="do not clearly show the DICOM slices"):
        match_pictures(HU, noise)
    with pytest.raises(UserError, match=r"explained 0\.0%"):
        match_pictures(HU, np.zeros(HU.shape, np.uint8))


def test_pictures_that_show_the_scan_badly_get_a_flag():
    noise = np.random.default_rng(0).normal(0, 20, HU.shape)
    pictures = np.clip(HEAD.pictures + noise, 0, 255).astype(np.uint8)
    (flag,) = match_pictures(HU, pictures).flags
    assert "of what the PNG show: are they of this scan?" in flag


def test_other_sizes_are_refused_with_both():
    with pytest.raises(UserError, match="these are different scans") as caught:
        match_pictures(HU, HEAD.pictures[:8])
    assert "the PNG are 8 slices of 64 x 64 pixels" in str(caught.value)
    assert "DICOM has 12 slices of 64 x 64" in str(caught.value)


def test_slices_that_are_not_square_may_lie_on_their_side():
    hu, pictures = HU[:, :40], HEAD.pictures[:, :40]
    assert match_pictures(hu, pictures).turn == Turn()
    assert match_pictures(hu, pictures.swapaxes(1, 2)).turn == Turn(swap=True)


def test_large_slices_are_thinned_out():
    hu, pictures = HU.repeat(5, 1).repeat(5, 2), HEAD.pictures.repeat(5, 1).repeat(5, 2)
    assert match_pictures(hu, pictures[::-1]).turn == Turn(flip_z=True)


@pytest.mark.shared
def test_a_real_head_is_far_from_alike_on_both_sides(shared):
    slices = [pydicom.dcmread(path) for path in (shared / "data/ge_head_ct").glob("*")]
    slices.sort(key=lambda one: float(one.ImagePositionPatient[2]))
    hu = np.stack([one.pixel_array for one in slices]).astype(np.float32)
    hu = hu * float(slices[0].RescaleSlope) + float(slices[0].RescaleIntercept)
    pictures = np.round(np.clip(hu / 80, 0, 1) * 255).astype(np.uint8)
    match = match_pictures(hu, pictures[:, :, ::-1])
    assert match.turn == Turn(flip_x=True)
    assert match.explained > 0.999
    assert match.runner_up < 0.7


def test_explained_share_is_the_correlation_ratio():
    rng = np.random.default_rng(0)
    hu = rng.integers(0, 4, (3, 8, 8)).astype(np.float32)
    pictures = rng.integers(0, 256, hu.shape, np.uint8)
    within = sum(pictures[hu == k].var() * np.sum(hu == k) for k in range(4))
    expected = 1 - within / (pictures.var() * pictures.size)
    assert explained_share(hu, pictures) == pytest.approx(expected, abs=1e-9)


def test_without_pictures_the_label_lies_as_stored_with_a_flag():
    match = match_label(HU, None, HEAD.label)
    assert match == Match()
    assert match.facts["explained"] is None
    assert "nothing tells whether the label lies right" in match.flags[0]
    with pytest.raises(UserError, match="the masks are 5 slices of 64 x 64 pixels but"):
        match_label(HU, None, HEAD.label[:5])
