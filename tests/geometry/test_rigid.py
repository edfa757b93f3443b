import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adn_jax.geometry.rigid import (
    compose_in_plane,
    half_extents_mm,
    in_plane_angle_deg,
    mid_plane,
    view_to_matrices,
)
from tests import golden

EXTENTS = (90.0, 120.0, 70.0)
VIEWS = jnp.asarray(
    [[0.1, -0.2, 0.3, 0.2, -0.1, 0.05], [-0.3, 0.25, -0.4, -0.15, 0.1, -0.2]],
    jnp.float32,
)
IN_PLANE = VIEWS * jnp.asarray([0, 0, 1, 1, 1, 0], jnp.float32)


def in_mm(matrix, extents=EXTENTS):
    scale = np.diag([*extents, 1.0])
    return scale @ np.asarray(matrix, np.float64) @ np.linalg.inv(scale)


def axis_rotation(axis, angle):
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    turn = np.eye(3)
    turn[i, i] = turn[j, j] = np.cos(angle)
    turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
    return turn


def test_matrices_are_the_authors():
    matrix, inverse = view_to_matrices(jnp.asarray(golden.value("sampler_view")))
    np.testing.assert_allclose(matrix, golden.value("sampler_M"), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(
        inverse, golden.value("sampler_Minv"), rtol=1e-5, atol=1e-7
    )


def test_of_all_orders_only_z_y_x_is_the_authors():
    angles = dict(zip("xyz", golden.value("sampler_view")[0, :3], strict=True))
    expected = golden.value("sampler_M")[0, :3, :3]

    def distance(order):
        first, second, third = (axis_rotation(axis, angles[axis]) for axis in order)
        return np.abs(first @ second @ third - expected).max()

    fitting = [
        order for order in itertools.permutations("xyz") if distance(order) < 1e-6
    ]
    assert fitting == [("z", "y", "x")]


@pytest.mark.parametrize("extents", [None, EXTENTS])
def test_inverse_undoes_the_matrix(extents):
    matrix, inverse = view_to_matrices(VIEWS, extents)
    np.testing.assert_allclose(
        np.matmul(matrix, inverse), np.tile(np.eye(4), (2, 1, 1)), atol=3e-7
    )


def test_rotation_keeps_lengths_in_mm_when_extents_are_given():
    matrix, _ = view_to_matrices(VIEWS, EXTENTS)
    plain, _ = view_to_matrices(VIEWS)
    for index in range(2):
        turn = in_mm(matrix[index])[:3, :3]
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-6)
        assert np.linalg.det(turn) == pytest.approx(1, abs=1e-6)
        sheared = in_mm(plain[index])[:3, :3]
        assert np.abs(sheared @ sheared.T - np.eye(3)).max() > 0.05


def test_shift_is_in_half_extents():
    view = jnp.asarray([[0, 0, 0, 0.5, -0.25, 0.1]], jnp.float32)
    matrix, _ = view_to_matrices(view, EXTENTS)
    np.testing.assert_allclose(in_mm(matrix[0])[:3, 3], [45, -30, 7], rtol=1e-6)


def test_in_plane_view_of_a_square_grid_needs_no_extents():
    square = (100.0, 100.0, 30.0)
    for with_mm, without in zip(
        view_to_matrices(IN_PLANE, square), view_to_matrices(IN_PLANE), strict=True
    ):
        np.testing.assert_array_equal(with_mm, without)


def test_half_extents_are_half_the_field_of_view():
    assert half_extents_mm((40, 256, 128), (5.0, 1.2, 1.0)) == pytest.approx(
        (64.0, 153.6, 100.0)
    )


@pytest.mark.parametrize("extents", [None, EXTENTS])
def test_composed_view_is_the_product_of_matrices(extents):
    first, second = IN_PLANE[:1], IN_PLANE[1:]
    composed, _ = view_to_matrices(compose_in_plane(first, second, extents), extents)
    product = np.matmul(
        view_to_matrices(first, extents)[0], view_to_matrices(second, extents)[0]
    )
    np.testing.assert_allclose(composed, product, atol=2e-7)


@pytest.mark.parametrize("extents", [None, EXTENTS])
def test_in_plane_angle_is_the_views(extents):
    matrix, inverse = view_to_matrices(IN_PLANE, extents)
    expected = np.rad2deg(np.asarray(IN_PLANE[:, 2]))
    np.testing.assert_allclose(in_plane_angle_deg(matrix, extents), expected, rtol=1e-5)
    np.testing.assert_allclose(
        in_plane_angle_deg(inverse, extents), -expected, rtol=1e-5
    )


@pytest.mark.parametrize("with_mm", [True, False])
def test_mid_plane_holds_what_the_warp_brings_to_x_zero(with_mm):
    matrix, _ = view_to_matrices(VIEWS, EXTENTS if with_mm else None)
    normal, point = mid_plane(matrix, EXTENTS)
    np.testing.assert_allclose(np.linalg.norm(normal, axis=1), 1, rtol=1e-6)
    on_plane = np.array([[0, y, z, 1] for y in (-50, 60) for z in (-20, 40)])
    right = np.array([10, 0, 0, 1])
    for index in range(2):
        motion = in_mm(matrix[index])
        offset = (motion @ on_plane.T).T[:, :3] - point[index]
        np.testing.assert_allclose(offset @ normal[index], 0, atol=1e-4)
        assert ((motion @ right)[:3] - point[index]) @ normal[index] > 5


def test_mid_plane_of_a_head_turned_by_hand():
    view = jnp.asarray([[0, 0, np.pi / 2, 0.1, 0, 0]], jnp.float32)
    matrix, _ = view_to_matrices(view, EXTENTS)
    normal, point = mid_plane(matrix, EXTENTS)
    np.testing.assert_allclose(normal, [[0, 1, 0]], atol=1e-6)
    np.testing.assert_allclose(point, [[9, 0, 0]], rtol=1e-6)


@pytest.mark.parametrize("extents", [None, EXTENTS])
def test_jit_and_vmap_equal_eager(extents):
    jitted = jax.jit(view_to_matrices, static_argnums=1)(VIEWS, extents)
    one_by_one = jax.vmap(lambda view: view_to_matrices(view[None], extents))(VIEWS)
    for eager, compiled, single in zip(
        view_to_matrices(VIEWS, extents), jitted, one_by_one, strict=True
    ):
        np.testing.assert_allclose(eager, compiled, atol=1e-7)
        np.testing.assert_allclose(eager, single[:, 0], atol=1e-7)


@pytest.mark.parametrize("extents", [None, EXTENTS])
def test_gradient_is_the_finite_difference(extents):
    cotangent = np.random.default_rng(3).standard_normal((2, 2, 4, 4))

    @jax.jit
    def score(view):
        return jnp.sum(jnp.stack(view_to_matrices(view, extents)) * cotangent)

    with jax.enable_x64(True):
        view = jnp.asarray(np.asarray(VIEWS), jnp.float64)
        gradient = np.asarray(jax.jit(jax.grad(score))(view))
        for index in np.ndindex(2, 6):
            step = np.zeros((2, 6))
            step[index] = 1e-6
            difference = float(score(view + step) - score(view - step)) / 2e-6
            assert gradient[index] == pytest.approx(difference, abs=1e-7)
