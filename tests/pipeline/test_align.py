"""T finds known poses, the mirror loss falls, and no gradient passes through it."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adn_jax.geometry.rigid import Pose, half_extents_mm, mid_plane
from adn_jax.models import init_alignment_net
from adn_jax.pipeline.align import (
    Alignment,
    averaged,
    centre_pose,
    coarse,
    estimate_pose,
    every_turn_deg,
    face_front,
    first_pose,
    midline_fit,
    mirror_distance,
    refine_pose,
    search_pose,
    turns_deg,
)
from tests.pipeline.heads import small_recipe, symmetric_head, turned_heads

DEGREES = np.array([-22.0, -7.0, 0.0, 13.0, 25.0])
SHIFTS = np.array([0.1, -0.06, 0.0, 0.05, -0.1])
WITHOUT_T = {
    "network": False,
    "centre": True,
    "search_limit_deg": 30.0,
    "refine_steps": 30,
}


@pytest.fixture(scope="module")
def recipe():
    return small_recipe(**WITHOUT_T)


@pytest.fixture(scope="module")
def heads(recipe):
    return turned_heads(DEGREES, SHIFTS, recipe)


def angles(pose):
    return np.rad2deg(np.asarray(pose.in_plane_angle))


def assert_close(found, expected, atol):
    jax.tree.map(partial(np.testing.assert_allclose, atol=atol), found, expected)


def test_search_finds_the_angle_within_its_step(recipe, heads):
    pose = jax.jit(search_pose, static_argnums=(1, 2))(heads, recipe.system, 30.0)
    np.testing.assert_allclose(angles(pose), DEGREES, atol=2.0)


@pytest.mark.parametrize(
    ("limit", "step", "count"),
    [(5.0, 2.0, 3), (7.0, 4.0, 2), (1.0, 2.0, 1), (0.0, 2.0, 0)],
)
def test_the_search_reaches_its_limit_in_equal_steps(limit, step, count):
    turns = turns_deg(limit, step)
    np.testing.assert_allclose(turns, np.linspace(-limit, limit, 2 * count + 1), 1e-6)


@pytest.mark.parametrize(
    ("limit", "step", "count"), [(10.0, 2.0, 5), (15.0, 1.0, 15), (1.1, 0.1, 11)]
)
def test_a_limit_of_whole_steps_has_these(limit, step, count):
    steps = step * jnp.arange(-count, count + 1, dtype=jnp.float32)
    np.testing.assert_array_equal(turns_deg(limit, step), steps)


def test_every_mirror_line_is_met_once():
    np.testing.assert_array_equal(every_turn_deg(), np.arange(-88.0, 89.0, 4.0))


def test_refinement_finds_angle_and_shift(recipe, heads):
    pose = jax.jit(estimate_pose, static_argnums=2)(None, heads, recipe.system)
    np.testing.assert_allclose(angles(pose), DEGREES, atol=0.5)
    np.testing.assert_allclose(pose.translation[:, 0], SHIFTS, atol=0.02)
    np.testing.assert_array_equal(pose.rotation[:, :2], 0)


def test_a_head_turned_by_any_angle_is_found_and_its_front_too():
    recipe = small_recipe(
        network=False, centre=True, search_limit_deg=10.0, refine_steps=12
    )
    degrees = np.arange(-165.0, 181.0, 15.0)
    shifts = np.linspace(-0.1, 0.1, degrees.size)
    turned = turned_heads(degrees, shifts, recipe, taper=0.25)

    def found(volume):
        pose = estimate_pose(None, volume, recipe.system)
        return pose, midline_fit(volume, pose, recipe.system)

    pose, fit = jax.jit(found)(turned)
    error = (angles(pose) - degrees + 180) % 360 - 180
    np.testing.assert_allclose(error, 0, atol=1.0)
    assert np.all(fit.unlikeness < 0.25)
    assert np.all(fit.elsewhere - fit.unlikeness > 0.04)
    assert np.all(fit.rival > 1.2)
    assert np.all(fit.skewness > 0.05)


def test_a_disc_has_no_midline(recipe):
    y, x = np.mgrid[:32, :32] / 15.5 - 1
    disc = 0.4 * (np.hypot(x, y) < 0.7)
    volume = jnp.asarray(np.tile(disc, (1, 8, 1, 1))[..., None], jnp.float32)
    fit = jax.jit(midline_fit, static_argnums=2)(
        volume, Pose.identity(1), recipe.system
    )
    assert fit.elsewhere[0] - fit.unlikeness[0] < 0.04


def test_refinement_never_raises_the_mirror_loss(recipe, heads):
    start = centre_pose(heads)
    refined = jax.jit(refine_pose, static_argnums=2)(heads, start, recipe.system)
    before = mirror_distance(heads, start, recipe.system)
    after = mirror_distance(heads, refined, recipe.system)
    assert np.all(np.asarray(after) <= np.asarray(before))


def test_double_precision_is_taken(heads):
    recipe = small_recipe(network=False, centre=True, refine_steps=2)
    with jax.enable_x64(True):
        double = jnp.asarray(np.asarray(heads[:1]), jnp.float64)
        pose = estimate_pose(None, double, recipe.system)
    assert_close(pose, estimate_pose(None, heads[:1], recipe.system), atol=1e-3)


def test_a_rolled_head_keeps_its_mirror_plane_as_it_is_faced(recipe, heads):
    """Where T may turn about y, half a turn about z alone would tilt the plane."""
    pose = Pose(jnp.array([[0.0, 0.25, 2.0]]), jnp.zeros((1, 3)))
    faced = face_front(jnp.asarray(heads[:1]), pose, recipe.system)
    extents = half_extents_mm(
        recipe.system.prepare.shape, recipe.system.prepare.spacing_mm
    )
    normals = [
        mid_plane(each.matrices(extents)[0], extents)[0] for each in (pose, faced)
    ]
    np.testing.assert_allclose(np.abs((normals[0] * normals[1]).sum()), 1, atol=1e-5)
    assert abs(float(faced.in_plane_angle[0]) - 2.0) == pytest.approx(np.pi, abs=1e-5)


def test_each_head_is_aligned_by_itself(recipe, heads):
    find = jax.jit(estimate_pose, static_argnums=2)
    together = find(None, heads, recipe.system)
    alone = find(None, heads[1:2], recipe.system)
    assert_close(together[1:2], alone, atol=1e-4)


@pytest.mark.parametrize("network", [False, True])
@pytest.mark.parametrize("centre", [False, True])
@pytest.mark.parametrize("refine_steps", [0, 3])
def test_jit_equals_eager_for_every_option(heads, network, centre, refine_steps):
    recipe = small_recipe(
        network=network,
        centre=centre,
        search_limit_deg=4.0,
        search_everywhere=network and centre and refine_steps > 0,
        refine_steps=refine_steps,
    )
    params = init_alignment_net(
        jax.random.key(0), recipe.system.alignment_net, recipe.system.prepare.shape
    )
    eager = estimate_pose(params, heads[:2], recipe.system)
    jitted = jax.jit(estimate_pose, static_argnums=2)(params, heads[:2], recipe.system)
    assert_close(eager, jitted, atol=1e-4)


def test_identity_start_of_the_network_leaves_the_centred_head(heads):
    recipe = small_recipe(network=True, centre=True)
    params = init_alignment_net(
        jax.random.key(0), recipe.system.alignment_net, recipe.system.prepare.shape
    )
    pose = first_pose(params, heads, recipe.system)
    assert_close(pose, centre_pose(heads), atol=0.02)


def test_a_symmetric_head_stays_as_it_is(recipe):
    head = jnp.asarray(symmetric_head())
    pose = jax.jit(estimate_pose, static_argnums=2)(None, head, recipe.system)
    np.testing.assert_allclose(angles(pose), 0, atol=0.1)
    aligned = Alignment.of(pose, recipe.system).warp(head)
    inner = (slice(None), slice(1, -1), slice(4, -4), slice(4, -4))
    np.testing.assert_allclose(aligned[inner].mean(), head[inner].mean(), rtol=0.01)


def test_no_gradient_flows_through_the_pose(heads):
    recipe = small_recipe(network=True, centre=True, refine_steps=2)
    params = init_alignment_net(
        jax.random.key(0), recipe.system.alignment_net, recipe.system.prepare.shape
    )

    def total(params):
        pose = estimate_pose(params, heads[:1], recipe.system)
        return pose.rotation.sum() + pose.translation.sum()

    gradient = jax.grad(total)(params)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradient))


def test_coarse_keeps_means_and_small_volumes():
    volume = jax.random.uniform(jax.random.key(0), (1, 2, 128, 256, 1))
    small = coarse(volume)
    assert small.shape == (1, 2, 64, 64, 1)
    np.testing.assert_allclose(small.mean(), volume.mean(), rtol=1e-5)
    assert coarse(volume[:, :, :62, :62]).shape == (1, 2, 62, 62, 1)


@pytest.mark.parametrize(
    ("size", "most", "divisor"), [(250, 3, 2), (40, 4, 4), (7, 3, 1), (9, 0, 1)]
)
def test_blocks_are_the_largest_that_fill_the_volume(size, most, divisor):
    volume = jnp.zeros((1, size, 1, 1, 1))
    assert averaged(volume, (most, 1, 1)).shape == (1, size // divisor, 1, 1, 1)


def test_centre_of_an_empty_volume_is_the_middle():
    pose = centre_pose(jnp.zeros((1, 4, 8, 8, 1)))
    assert_close(pose, Pose.identity(1), atol=0)


def test_in_plane_only_where_nothing_else_can_move(recipe):
    pose = Pose.identity(1)
    assert Alignment.of(pose, recipe.system).motion == "in_plane"
    tilting = replace(recipe.system.alignment_net, rotation_limit_deg=(5.0, 0.0, 60.0))
    tilted = replace(recipe.system, alignment_net=tilting)
    assert Alignment.of(pose, tilted).motion == "rigid"
