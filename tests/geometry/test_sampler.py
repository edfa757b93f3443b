from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adn_jax.geometry.rigid import Pose, half_extents_mm
from adn_jax.geometry.sampler import Part, mirror, sample, take_parts
from tests import golden

FLAGS = [
    {"nearest": nearest, "in_plane": in_plane}
    for nearest in (False, True)
    for in_plane in (False, True)
]
SHAPES = [(3, 5, 4), (4, 6, 9), (1, 3, 7)]
IN_PLANE = Pose.in_plane(
    jnp.asarray([0.3, -0.41]), jnp.asarray([0.21, -0.15]), jnp.asarray([-0.12, 0.11])
)
TILTED = Pose(
    IN_PLANE.rotation + jnp.asarray([0.1, -0.2, 0]),
    IN_PLANE.translation + jnp.asarray([0, 0, 0.07]),
)


def shifted_by(x=0.0, y=0.0, batch=2):
    return Pose(jnp.zeros((batch, 3)), jnp.asarray([[x, y, 0.0]] * batch))


warp = jax.jit(sample, static_argnames=("nearest", "in_plane"))


@partial(jax.jit, static_argnames=("extents", "nearest", "in_plane"))
def warp_by_pose(volume, pose, extents=None, **flags):
    return sample(volume, pose.matrices(extents)[0], **flags)


@partial(jax.jit, static_argnames=("nearest", "in_plane"))
def warp_and_gradients(volume, matrix, cotangent, *, nearest, in_plane):
    """The warped volume, and the gradients of its product with `cotangent`."""
    warped = partial(sample, nearest=nearest, in_plane=in_plane)
    out, pull_back = jax.vjp(warped, volume, matrix)
    return out, *pull_back(cotangent)


def random_volume(shape, channels=2, seed=0):
    drawn = np.random.default_rng(seed).random((2, *shape, channels), np.float32)
    return jnp.asarray(drawn)


def relative_error(found, expected):
    expected = np.asarray(expected)
    return np.abs(np.asarray(found) - expected).max() / np.abs(expected).max()


def test_output_and_gradients_are_the_authors():
    volume, cotangent = (
        jnp.asarray(golden.value(name)) for name in ("sampler_x", "sampler_cotangent")
    )
    matrix = jnp.asarray(golden.value("sampler_M"))
    out, by_volume, by_matrix = warp_and_gradients(
        volume, matrix, cotangent, nearest=False, in_plane=False
    )
    assert relative_error(out, golden.value("sampler_out")) < 1e-5
    assert relative_error(by_volume, golden.value("sampler_dx")) < 1e-5
    assert relative_error(by_matrix[:, :3], golden.value("sampler_dtheta")) < 1e-5
    assert not by_matrix[:, 3].any()


def test_gradient_by_pose_is_the_authors_chained_through_the_matrix():
    volume, cotangent = (
        jnp.asarray(golden.value(name)) for name in ("sampler_x", "sampler_cotangent")
    )

    def score(pose):
        return jnp.sum(warp_by_pose(volume, pose) * cotangent)

    def authors(pose):
        matrix = pose.matrices()[0][:, :3]
        return jnp.sum(matrix * golden.value("sampler_dtheta"))

    pose = Pose(**{name: jnp.asarray(part) for name, part in golden.pose().items()})
    gradients = [jax.jit(jax.grad(each))(pose) for each in (score, authors)]
    found, expected = (
        np.concatenate([each.rotation, each.translation], axis=1) for each in gradients
    )
    assert relative_error(found, expected) < 1e-5


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_any_shape_as_torch_does_it(shape, mode):
    torch = pytest.importorskip("torch")
    volume, cotangent = random_volume(shape), random_volume(shape, seed=1)
    matrix, _ = TILTED.matrices()
    source = torch.tensor(np.moveaxis(volume, -1, 1), requires_grad=True)
    theta = torch.tensor(np.array(matrix[:, :3]), requires_grad=True)
    functional = torch.nn.functional
    grid = functional.affine_grid(theta, source.shape, align_corners=False)
    warped = functional.grid_sample(source, grid, mode=mode, align_corners=False)
    warped.backward(torch.tensor(np.moveaxis(cotangent, -1, 1)))

    out, by_volume, by_matrix = warp_and_gradients(
        volume, matrix, cotangent, nearest=mode == "nearest", in_plane=False
    )
    np.testing.assert_allclose(
        out, np.moveaxis(warped.detach().numpy(), 1, -1), atol=1e-5
    )
    np.testing.assert_allclose(
        by_volume, np.moveaxis(source.grad.numpy(), 1, -1), atol=1e-5
    )
    np.testing.assert_allclose(by_matrix[:, :3], theta.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("nearest", [False, True])
def test_in_plane_path_equals_the_general_one(shape, nearest):
    volume, cotangent = random_volume(shape), random_volume(shape, seed=1)
    matrix, _ = IN_PLANE.matrices()
    general, fast = (
        warp_and_gradients(
            volume, matrix, cotangent, nearest=nearest, in_plane=in_plane
        )
        for in_plane in (False, True)
    )
    for expected, found in zip(general[:2], fast[:2], strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    moving = np.ix_([0, 1], [0, 1], [0, 1, 3])
    np.testing.assert_allclose(
        np.asarray(fast[2])[moving],
        np.asarray(general[2])[moving],
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize("flags", FLAGS)
def test_identity_changes_nothing_at_all(flags):
    volume = random_volume((5, 6, 7))
    identity, _ = Pose.identity(2).matrices()
    np.testing.assert_array_equal(warp(volume, identity, **flags), volume)


@pytest.mark.parametrize("flags", FLAGS)
def test_whole_voxel_shift_moves_and_fills_with_zeros(flags):
    volume = random_volume((3, 4, 8)) + 1
    shifted = warp_by_pose(volume, shifted_by(x=2 * 2 / 8), **flags)
    np.testing.assert_allclose(shifted[:, :, :, :-2], volume[:, :, :, 2:], rtol=1e-6)
    assert not shifted[:, :, :, -2:].any()


@pytest.mark.parametrize("flags", FLAGS)
def test_blocks_of_rows_add_up_to_the_whole(flags):
    volume = random_volume((3, 8, 5))
    matrix, _ = (IN_PLANE if flags["in_plane"] else TILTED).matrices()

    @jax.jit
    def from_rows(block, source, target):
        rows = Part(8, source, target)
        return sample(block, matrix, **flags, parts=(Part(3), rows, Part(5)))

    found = [
        sum(
            from_rows(volume[:, :, source : source + 2], source, target)
            for source in range(0, 8, 2)
        )
        for target in range(0, 8, 2)
    ]
    whole = warp(volume, matrix, **flags)
    np.testing.assert_allclose(jnp.concatenate(found, axis=2), whole, atol=1e-6)


BOX = tuple(Part(size, 0, 1, size - 2) for size in (5, 8, 7))
"""The voxels of a volume but for one at each face."""

WHOLE = tuple(Part(part.size, 1, 0, part.size) for part in BOX)
"""The way back."""


@pytest.mark.parametrize("flags", FLAGS)
def test_a_box_of_the_result_is_cut_from_the_whole(flags):
    volume = random_volume((5, 8, 7))
    matrix, _ = (IN_PLANE if flags["in_plane"] else TILTED).matrices()
    whole = warp(volume, matrix, **flags)
    box = jax.jit(partial(sample, **flags, parts=BOX))(volume, matrix)
    np.testing.assert_array_equal(box, whole[:, 1:-1, 1:-1, 1:-1])


@pytest.mark.parametrize("flags", FLAGS)
def test_a_box_is_warped_as_a_volume_with_zeros_around_it(flags):
    box = random_volume((3, 6, 5))
    matrix, _ = (IN_PLANE if flags["in_plane"] else TILTED).matrices()
    whole = take_parts(box, WHOLE)
    np.testing.assert_array_equal(whole[:, 1:-1, 1:-1, 1:-1], box)
    assert float(jnp.abs(whole).sum()) == pytest.approx(float(jnp.abs(box).sum()))

    def from_box(box, matrix):
        return sample(box, matrix, **flags, parts=WHOLE)

    def from_whole(box, matrix):
        return sample(take_parts(box, WHOLE), matrix, **flags)

    def square(warped):
        return lambda *inputs: jnp.square(warped(*inputs)).sum()

    found, wanted = (jax.jit(way)(box, matrix) for way in (from_box, from_whole))
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    if flags.get("nearest"):
        return
    found, wanted = (
        jax.jit(jax.grad(square(way), (0, 1)))(box, matrix)
        for way in (from_box, from_whole)
    )
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_half_of_a_border_voxel_is_zero_padding():
    volume = jnp.ones((1, 2, 2, 4, 1), jnp.float32)
    shifted = warp_by_pose(volume, shifted_by(x=0.25, batch=1), in_plane=True)
    np.testing.assert_allclose(shifted[0, 0, 0, :, 0], [1, 1, 1, 0.5])


@pytest.mark.parametrize("flags", FLAGS)
def test_far_outside_is_zero(flags):
    warped = warp_by_pose(random_volume((2, 4, 4)), shifted_by(y=1e12), **flags)
    assert not warped.any()


def blob(shape, spacing, centre_mm, sigma_mm):
    """Gaussian at a point given in mm (z y x) from the centre of the grid."""
    axes = [
        (np.arange(size) - (size - 1) / 2) * step
        for size, step in zip(shape, spacing, strict=True)
    ]
    distances = np.meshgrid(
        *[axis - centre for axis, centre in zip(axes, centre_mm, strict=True)],
        indexing="ij",
    )
    values = np.exp(-sum(d**2 for d in distances) / (2 * sigma_mm**2))
    return values.astype(np.float32)


@pytest.mark.parametrize("in_plane", [False, True])
def test_blobs_turn_rigidly_in_mm_on_an_anisotropic_grid(in_plane):
    shape, spacing = (6, 64, 48), (5.0, 1.0, 2.0)
    extents = half_extents_mm(shape, spacing)
    angle, shift_mm = np.deg2rad(25), np.array([6.0, -4.0])
    shift_x, shift_y = (jnp.asarray([shift]) for shift in shift_mm / extents[:2])
    pose = Pose.in_plane(jnp.asarray([angle]), shift_x, shift_y)
    matrix, inverse = pose.matrices(extents)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    for x, y in [(20.0, 0.0), (0.0, 18.0), (-15.0, 10.0)]:
        volume = jnp.asarray(blob(shape, spacing, (0, y, x), 5))[None, ..., None]
        moved = warp(volume, inverse, in_plane=in_plane)[0, ..., 0]
        to_x, to_y = turn @ (x, y) + shift_mm
        assert np.abs(moved - blob(shape, spacing, (0, to_y, to_x), 5)).max() < 0.04
        back = warp(volume, matrix, in_plane=in_plane)[0, ..., 0]
        to_x, to_y = turn.T @ (np.array([x, y]) - shift_mm)
        assert np.abs(back - blob(shape, spacing, (0, to_y, to_x), 5)).max() < 0.04


@pytest.mark.parametrize("in_plane", [False, True])
def test_warp_then_inverse_is_near_identity_inside(in_plane):
    smooth = jnp.asarray(blob((9, 30, 30), (3, 2, 2), (2, 5, -3), sigma_mm=8))
    volume = jnp.tile(smooth[None, ..., None], (2, 1, 1, 1, 1))
    half = jax.tree.map(lambda part: 0.5 * part, TILTED)
    matrix, inverse = (IN_PLANE if in_plane else half).matrices()
    there = warp(volume, matrix, in_plane=in_plane)
    back = warp(there, inverse, in_plane=in_plane)
    assert np.abs(there - volume).max() > 0.2
    assert np.abs(back - volume).max() < 0.06


@pytest.mark.parametrize("flags", FLAGS)
def test_jit_and_vmap_equal_eager(flags):
    volume = random_volume((3, 6, 5))
    matrix, _ = IN_PLANE.matrices()
    eager = sample(volume, matrix, **flags)
    np.testing.assert_allclose(warp(volume, matrix, **flags), eager, atol=1e-6)
    one_by_one = jax.vmap(lambda v, m: warp(v[None], m[None], **flags)[0])
    np.testing.assert_allclose(one_by_one(volume, matrix), eager, atol=1e-6)


@pytest.mark.parametrize("in_plane", [False, True])
def test_gradients_are_finite_differences(in_plane):
    volume, cotangent = random_volume(SHAPES[0]), random_volume(SHAPES[0], seed=1)
    matrix, _ = (IN_PLANE if in_plane else TILTED).matrices()
    _, by_volume, by_matrix = map(
        np.asarray,
        warp_and_gradients(volume, matrix, cotangent, nearest=False, in_plane=in_plane),
    )

    def difference(volume_step, matrix_step):
        high, low = (
            warp(
                volume + sign * volume_step,
                matrix + sign * matrix_step,
                in_plane=in_plane,
            )
            for sign in (1, -1)
        )
        change = np.asarray(high, np.float64) - np.asarray(low, np.float64)
        return np.sum(change * np.asarray(cotangent)) / 2

    for index in [(0, 1, 2, 3, 0), (1, 0, 4, 0, 1), (1, 2, 1, 2, 0)]:
        step = np.zeros(volume.shape, np.float32)
        step[index] = 1
        assert by_volume[index] == pytest.approx(difference(step, 0), abs=1e-4)
    for index in [(0, 0, 0), (0, 0, 1), (1, 1, 0), (1, 0, 3), (0, 1, 3)]:
        step = np.zeros(matrix.shape, np.float32)
        step[index] = 2e-4
        expected = difference(0, step) / 2e-4
        assert by_matrix[index] == pytest.approx(expected, rel=1e-2, abs=1e-2)


def test_labels_keep_their_values_and_type():
    labels = jnp.asarray(np.random.default_rng(2).integers(0, 4, (2, 3, 6, 6, 1)))
    warped = warp_by_pose(labels, IN_PLANE, nearest=True)
    assert warped.dtype == labels.dtype
    assert set(np.unique(warped)) <= {0, 1, 2, 3}
    with pytest.raises(ValueError, match="int32 cannot be interpolated; use nearest"):
        sample(labels, IN_PLANE.matrices()[0])


def test_half_precision_volumes_use_float32_coordinates():
    volume = random_volume((2, 16, 16))
    half = warp_by_pose(volume.astype(jnp.bfloat16), IN_PLANE, in_plane=True)
    assert half.dtype == jnp.bfloat16
    full = warp_by_pose(volume, IN_PLANE, in_plane=True)
    np.testing.assert_allclose(half.astype(jnp.float32), full, atol=0.02)


def test_index_and_weight_agree_wherever_a_position_is_computed():
    """A fused copy of the warp must not take the neighbour's weights."""
    volume = golden.volume(0, (1, 1, 8, 256, 256))
    angle, shift = 0.21, 0.137
    matrix = (
        jnp.eye(4)
        .at[:2, :2]
        .set(
            jnp.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        )
    )
    matrix = matrix.at[0, 3].set(shift)[None]

    @jax.jit
    def warp_and_mirror(volume, matrix):
        warped = sample(volume, matrix, in_plane=True)
        darker = jax.nn.relu(mirror(warped) - warped)
        return warped, darker, warped + darker

    warped, darker, total = warp_and_mirror(volume, matrix)
    np.testing.assert_allclose(warped + darker, total, atol=1e-6)


def test_gradients_of_bfloat16_volumes_are_summed_in_float32():
    """Every place takes the central voxel: in bfloat16 the count would end at 256."""
    volume = jnp.ones((1, 9, 9, 9, 1), jnp.bfloat16)
    centre = jnp.zeros((1, 4, 4)).at[0, 3, 3].set(1)
    out, pull_back = jax.vjp(lambda volume: sample(volume, centre), volume)
    (gradient,) = pull_back(jnp.ones_like(out))
    assert gradient.dtype == jnp.bfloat16
    assert gradient[0, 4, 4, 4, 0] == jnp.bfloat16(729)
