"""Copies that are averaged over: exact where they have to be, and always the same."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from adn_jax.config import AlignmentSettings, JointLossSettings, TtaSettings
from adn_jax.pipeline.adn import AdnParams, init_adn
from adn_jax.pipeline.tta import (
    ScanCopy,
    averaged_prediction,
    further_copies,
    predict_scan,
)
from tests.pipeline.heads import small_recipe, symmetric_head, turned_heads

AVERAGING = TtaSettings(mirrored=True, copies=4)

RECIPE = replace(small_recipe(network=False), tta=AVERAGING)

PLAIN = RECIPE.with_fields(
    tissue_source="none",
    joint_loss=JointLossSettings(regularisation=0.0),
    segment_input="aligned",
    alignment=AlignmentSettings(network=False),
)

NOTHING = AdnParams(align=None, disentangle=None, segment=None)

HEADS = turned_heads([8.0, -3.0], [0.1, 0.0], RECIPE)


def the_scan_itself(_params, volume, _recipe):
    return volume


def constant(_params, volume, _recipe):
    return jnp.full_like(volume, 0.7)


def one_side(_params, volume, _recipe):
    """1 on the side of growing x."""
    right = jnp.arange(volume.shape[3]) >= volume.shape[3] // 2
    return jnp.broadcast_to(right[:, None].astype(volume.dtype), volume.shape)


def averaged(predict, volume, settings=AVERAGING, **more):
    recipe = replace(RECIPE, tta=settings)
    return np.asarray(
        averaged_prediction(
            NOTHING, volume, recipe.system, recipe.tta, predict=predict, **more
        )
    )


def test_copies_are_spread_evenly_and_always_the_same():
    copies = further_copies(AVERAGING)
    assert copies == further_copies(TtaSettings(mirrored=True, copies=4))
    assert copies[0] == ScanCopy(mirrored=True)
    assert [copy.turn_deg for copy in copies[1:]] == [5.0, -5.0, 10.0, -10.0]
    shifts = np.array([(copy.shift_x, copy.shift_y) for copy in copies[1:]])
    np.testing.assert_allclose(np.linalg.norm(shifts, axis=1), 0.02)
    np.testing.assert_allclose(shifts.sum(0), 0.0, atol=1e-9)
    assert len({copy[1:] for copy in copies}) == 5
    assert further_copies(TtaSettings()) == ()
    assert [copy.turn_deg for copy in further_copies(TtaSettings(copies=3))] == [
        5.0,
        -5.0,
        10.0,
    ]


def test_a_copy_turns_and_shifts_as_it_says():
    """Against SciPy: a turn about the centre in mm, then a shift."""
    copy = ScanCopy(turn_deg=10.0, shift_x=0.0625, shift_y=-0.125)
    head = symmetric_head()
    ours = np.asarray(copy.of(jnp.asarray(head), RECIPE.system))[0, ..., 0]
    angle, (_, ny, nx) = np.radians(10.0), ours.shape
    turn = np.array(
        [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
    )  # from (y, x) to (y, x)
    centre = np.array([ny - 1, nx - 1]) / 2
    shift = np.array([-0.125 * ny / 2, 0.0625 * nx / 2])
    expected = [
        ndimage.affine_transform(
            plane, turn, centre + shift - turn @ centre, order=1, mode="grid-constant"
        )
        for plane in head[0, ..., 0]
    ]
    np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_what_every_copy_agrees_on_stays_exactly():
    np.testing.assert_allclose(averaged(constant, HEADS), 0.7, rtol=1e-6)


def test_the_mirror_copy_of_a_mirrored_chain_changes_nothing():
    mirrored = TtaSettings(mirrored=True)
    ours = averaged(the_scan_itself, HEADS, mirrored)
    np.testing.assert_array_equal(ours, HEADS)
    np.testing.assert_array_equal(averaged(one_side, HEADS, mirrored), 0.5)


def test_a_copy_and_its_inverse_cancel():
    """What is left is the blur of interpolating twice."""
    smooth = ndimage.gaussian_filter(np.asarray(HEADS), (0, 0, 2, 2, 0))
    for copy in further_copies(AVERAGING):
        moved = copy.of(jnp.asarray(smooth), RECIPE.system)
        back, seen = copy.undo(moved, RECIPE.system)
        np.testing.assert_allclose(back, smooth * np.asarray(seen), atol=0.02)
        if not copy.mirrored:
            assert np.abs(moved - smooth).max() > 0.03
    ours = averaged(the_scan_itself, jnp.asarray(smooth))
    np.testing.assert_allclose(ours, smooth, atol=0.015)


def test_the_known_prediction_of_the_scan_is_not_computed_again():
    seen = []

    def counted(params, volume, recipe):
        seen.append(volume)
        return the_scan_itself(params, volume, recipe)

    averaged(counted, HEADS, first=HEADS)
    assert len(seen) == 5
    averaged(counted, HEADS)
    assert len(seen) == 11


@pytest.mark.parametrize("recipe", [RECIPE, PLAIN], ids=["with D", "unaligned"])
def test_the_mean_of_single_predictions(recipe):
    """The network is compiled once for all poses."""
    params = init_adn(jax.random.key(0), recipe.system)
    head = HEADS[:1]
    recipe = replace(recipe, tta=TtaSettings(mirrored=True, copies=1))
    compiled = predict_scan._cache_size()
    ours = averaged_prediction(params, head, recipe.system, recipe.tta)
    assert predict_scan._cache_size() == compiled + 1
    (mirrored, turned) = further_copies(recipe.tta)
    parts = [predict_scan(params, head, recipe.system)]
    parts.append(
        predict_scan(params, head[:, :, :, ::-1], recipe.system)[:, :, :, ::-1]
    )
    posed = predict_scan(params, turned.of(head, recipe.system), recipe.system)
    back, seen = turned.undo(posed, recipe.system)
    expected = (parts[0] + parts[1] + back) / (2 + seen)
    np.testing.assert_allclose(ours, expected, atol=1e-6)
    assert mirrored.mirrored
    assert np.abs(np.asarray(ours - parts[0])).max() > 1e-4


def test_the_mean_is_the_same_under_jit():
    @jax.jit
    def jitted(volume):
        return averaged_prediction(
            NOTHING, volume, RECIPE.system, RECIPE.tta, predict=the_scan_itself
        )

    ours = averaged(the_scan_itself, HEADS)
    np.testing.assert_allclose(jitted(HEADS), ours, atol=1e-6)


def test_without_poses_nothing_changes():
    plain = replace(PLAIN, tta=TtaSettings())
    params = init_adn(jax.random.key(0), plain.system)
    expected = predict_scan(params, HEADS, plain.system)
    ours = averaged_prediction(params, HEADS, plain.system, plain.tta)
    np.testing.assert_array_equal(ours, expected)
    assert plain.system == PLAIN.system  # which is all that the chain is compiled for
