import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adn_jax.geometry.rigid import Pose, half_extents_mm, mid_plane
from tests import golden

EXTENTS = (90.0, 120.0, 70.0)
POSES = Pose(
    jnp.asarray([[0.1, -0.2, 0.3], [-0.3, 0.25, -0.4]]),
    jnp.asarray([[0.2, -0.1, 0.05], [-0.15, 0.1, -0.2]]),
)
IN_PLANE = Pose.in_plane(
    jnp.asarray([0.3, -0.4]), jnp.asarray([0.2, -0.15]), jnp.asarray([-0.1, 0.1])
)
GOLDEN = Pose(**{name: jnp.asarray(part) for name, part in golden.pose().items()})


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
    matrix, inverse = GOLDEN.matrices()
    np.testing.assert_allclose(matrix, golden.value("sampler_M"), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(
        inverse, golden.value("sampler_Minv"), rtol=1e-5, atol=1e-7
    )


def test_of_all_orders_only_z_y_x_is_the_authors():
    angles = dict(zip("xyz", np.asarray(GOLDEN.rotation[0]), strict=True))
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
    matrix, inverse = POSES.matrices(extents)
    np.testing.assert_allclose(
        np.matmul(matrix, inverse), np.tile(np.eye(4), (2, 1, 1)), atol=3e-7
    )


def test_rotation_keeps_lengths_in_mm_when_extents_are_given():
    matrix, _ = POSES.matrices(EXTENTS)
    plain, _ = POSES.matrices()
    for index in range(2):
        turn = in_mm(matrix[index])[:3, :3]
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-6)
        assert np.linalg.det(turn) == pytest.approx(1, abs=1e-6)
        sheared = in_mm(plain[index])[:3, :3]
        assert np.abs(sheared @ sheared.T - np.eye(3)).max() > 0.05


def test_shift_is_in_half_extents():
    pose = Pose(jnp.zeros((1, 3)), jnp.asarray([[0.5, -0.25, 0.1]]))
    matrix, _ = pose.matrices(EXTENTS)
    np.testing.assert_allclose(in_mm(matrix[0])[:3, 3], [45, -30, 7], rtol=1e-6)


def test_in_plane_pose_of_a_square_grid_needs_no_extents():
    square = (100.0, 100.0, 30.0)
    for with_mm, without in zip(
        IN_PLANE.matrices(square), IN_PLANE.matrices(), strict=True
    ):
        np.testing.assert_array_equal(with_mm, without)


def test_half_extents_are_half_the_field_of_view():
    assert half_extents_mm((40, 256, 128), (5.0, 1.2, 1.0)) == pytest.approx(
        (64.0, 153.6, 100.0)
    )


@pytest.mark.parametrize("extents", [None, EXTENTS])
def test_one_pose_then_another_is_the_product_of_matrices(extents):
    first, second = IN_PLANE[:1], IN_PLANE[1:]
    composed, _ = first.then(second, extents).matrices(extents)
    product = np.matmul(first.matrices(extents)[0], second.matrices(extents)[0])
    np.testing.assert_allclose(composed, product, atol=2e-7)


@pytest.mark.parametrize("extents", [None, EXTENTS])
def test_inverse_pose_has_the_inverse_matrix(extents):
    for found, expected in zip(
        IN_PLANE.inverse(extents).matrices(extents),
        reversed(IN_PLANE.matrices(extents)),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, atol=3e-7)


def test_mirrored_pose_is_the_mirror_before_and_after():
    mirror = np.diag([-1.0, 1.0, 1.0, 1.0])
    for pose in (POSES, IN_PLANE):
        matrix, _ = pose.mirrored().matrices(EXTENTS)
        expected = mirror @ np.asarray(pose.matrices(EXTENTS)[0]) @ mirror
        np.testing.assert_allclose(matrix, expected, atol=1e-7)


@pytest.mark.parametrize("times", [-1.0, 0.0, 1.0, 2.0])
def test_half_turns_keep_the_mirror_plane_of_any_pose(times):
    pose = Pose(jnp.array([[0.1, 0.25, 2.0]]), jnp.array([[0.1, -0.2, 0.05]]))
    turned = pose.half_turned(jnp.array([times]))
    before, after = (
        mid_plane(each.matrices(EXTENTS)[0], EXTENTS) for each in (pose, turned)
    )
    sign = -1 if times % 2 else 1
    np.testing.assert_allclose(after[0], sign * before[0], atol=1e-6)
    np.testing.assert_allclose(after[1], before[1], atol=1e-6)
    assert turned.in_plane_angle == pytest.approx(2.0 + times * np.pi, abs=1e-6)


@pytest.mark.parametrize("extents", [None, EXTENTS])
def test_in_plane_angle_is_that_of_the_matrices(extents):
    matrix, inverse = IN_PLANE.matrices(extents)
    x, y, _ = extents or (1.0, 1.0, 1.0)

    def angle(matrix):
        return np.arctan2(matrix[:, 1, 0] * (y / x), matrix[:, 0, 0])

    np.testing.assert_allclose(angle(matrix), IN_PLANE.in_plane_angle, rtol=1e-5)
    np.testing.assert_allclose(angle(inverse), -IN_PLANE.in_plane_angle, rtol=1e-5)
    turned, _ = IN_PLANE.turned(0.1).matrices(extents)
    np.testing.assert_allclose(angle(turned) - angle(matrix), 0.1, rtol=1e-5)


@pytest.mark.parametrize("with_mm", [True, False])
def test_mid_plane_holds_what_the_warp_brings_to_x_zero(with_mm):
    matrix, _ = POSES.matrices(EXTENTS if with_mm else None)
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
    angle, shift = jnp.asarray([np.pi / 2]), jnp.asarray([0.1])
    matrix, _ = Pose.in_plane(angle, shift, 0 * shift).matrices(EXTENTS)
    normal, point = mid_plane(matrix, EXTENTS)
    np.testing.assert_allclose(normal, [[0, 1, 0]], atol=1e-6)
    np.testing.assert_allclose(point, [[9, 0, 0]], rtol=1e-6)


@pytest.mark.parametrize("extents", [None, EXTENTS])
def test_jit_and_vmap_equal_eager(extents):
    jitted = jax.jit(Pose.matrices, static_argnums=1)(POSES, extents)
    one_by_one = jax.vmap(lambda pose: pose[None].matrices(extents))(POSES)
    for eager, compiled, single in zip(
        POSES.matrices(extents), jitted, one_by_one, strict=True
    ):
        np.testing.assert_allclose(eager, compiled, atol=1e-7)
        np.testing.assert_allclose(eager, single[:, 0], atol=1e-7)


@pytest.mark.parametrize("extents", [None, EXTENTS])
def test_gradient_is_the_finite_difference(extents):
    cotangent = np.random.default_rng(3).standard_normal((2, 2, 4, 4))

    @jax.jit
    def score(six):
        pose = Pose(six[:, :3], six[:, 3:])
        return jnp.sum(jnp.stack(pose.matrices(extents)) * cotangent)

    six = np.concatenate([POSES.rotation, POSES.translation], axis=1)
    with jax.enable_x64(True):
        six = jnp.asarray(six, jnp.float64)
        gradient = np.asarray(jax.jit(jax.grad(score))(six))
        for index in np.ndindex(2, 6):
            step = np.zeros((2, 6))
            step[index] = 1e-6
            difference = float(score(six + step) - score(six - step)) / 2e-6
            assert gradient[index] == pytest.approx(difference, abs=1e-7)
