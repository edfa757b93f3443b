import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from adn_jax.distributed.mesh import ROW_SPEC, device_mesh
from adn_jax.losses.segmentation import (
    boundary,
    cross_entropy,
    focal_tversky,
    generalised_dice,
    tissue_cross_entropy,
)
from tests import golden
from tests.losses.arrays import random_map

LOSSES = [cross_entropy, generalised_dice, focal_tversky, boundary]


def authors_pair():
    return tuple(
        jnp.asarray(golden.value(name))[..., None] for name in ("loss_p", "loss_t")
    )


@pytest.mark.parametrize(
    ("loss", "name"), [(cross_entropy, "loss_bce"), (generalised_dice, "loss_gdl")]
)
def test_values_are_the_authors(loss, name):
    assert loss(*authors_pair()) == pytest.approx(float(golden.value(name)), rel=1e-5)


def test_cross_entropy_and_its_gradient_are_torchs_up_to_certainty():
    torch = pytest.importorskip("torch")
    probability = np.array([0, 1, 0, 1, 0.3, 1e-30, 0.7], np.float32)
    label = np.array([0, 1, 1, 0, 1, 1, 0], np.float32)
    source = torch.tensor(probability, requires_grad=True)
    expected = torch.nn.functional.binary_cross_entropy(source, torch.tensor(label))
    expected.backward()
    pair = (jnp.asarray(each).reshape(1, 1, 1, -1, 1) for each in (probability, label))
    value, gradient = jax.value_and_grad(cross_entropy)(*pair)
    assert value == pytest.approx(expected.item(), rel=1e-6)
    between = np.array([4, 6])
    np.testing.assert_allclose(
        gradient.ravel()[between], source.grad.numpy()[between], rtol=1e-6
    )
    assert np.isfinite(gradient).all()


def test_certain_and_wrong_costs_a_hundred():
    ones = jnp.ones((1, 1, 1, 2, 1), jnp.float32)
    assert cross_entropy(ones, 0 * ones) == 100
    assert cross_entropy(0 * ones, ones) == 100
    assert cross_entropy(ones, ones) == 0
    with jax.enable_x64(True):
        small = jnp.full((1, 1, 1, 2, 1), 1e-200, jnp.float64)
        value, slope = jax.value_and_grad(cross_entropy)(small, jnp.ones_like(small))
        assert value == 100
        assert not slope.any()


def test_generalised_dice_is_zero_for_the_label_and_one_for_its_opposite():
    label = (random_map(1) > 0.6).astype(jnp.float32)
    assert generalised_dice(label, label) == pytest.approx(0, abs=1e-6)
    assert generalised_dice(1 - label, label) == pytest.approx(1, abs=1e-6)


def test_generalised_dice_weighs_a_small_lesion_like_the_background():
    label = jnp.zeros((1, 10, 10, 10, 1), jnp.float32).at[0, 0, 0, :4].set(1)
    assert generalised_dice(jnp.zeros_like(label), label) > 0.98


def test_generalised_dice_runs_over_the_batch_not_over_cases():
    probability, label = random_map(2), (random_map(3) > 0.6).astype(jnp.float32)
    label = label.at[1].set(0)
    flat = (1, 1, 1, -1, 1)
    assert generalised_dice(probability, label) == pytest.approx(
        float(generalised_dice(probability.reshape(flat), label.reshape(flat))),
        rel=1e-6,
    )
    alone = [generalised_dice(probability[i : i + 1], label[i : i + 1]) for i in (0, 1)]
    assert abs(generalised_dice(probability, label) - np.mean(alone)) > 0.01


def test_generalised_dice_bounds_each_class_of_a_large_background():
    size, lesion = 4_000_000, 400_000
    label = jnp.zeros((1, 1, 1, size, 1), jnp.float32).at[..., :lesion, :].set(1)
    overlap = 0.25 / lesion + 0.75 / (size - lesion)
    foreground = (0.25 * size + lesion) / lesion**2
    background = (0.75 * size + size - lesion) / (size - lesion) ** 2
    assert background < 1e-6
    assert generalised_dice(jnp.full_like(label, 0.25), label) == pytest.approx(
        1 - 2 * overlap / (foreground + 1e-6), rel=1e-5
    )


def test_generalised_dice_of_a_batch_without_lesion_is_finite():
    label = jnp.zeros((1, 2, 3, 4, 1), jnp.float32)
    value, gradient = jax.value_and_grad(generalised_dice)(
        random_map(4, label.shape), label
    )
    assert value == pytest.approx(1, abs=1e-5)
    assert np.isfinite(gradient).all()


def test_focal_tversky_is_its_equation():
    probability, label = random_map(10), (random_map(11) > 0.7).astype(jnp.float32)
    p, g = (np.asarray(each, np.float64) for each in (probability, label))
    hit, missed, false = 0.0, 0.0, 0.0
    for one, true in zip(p.ravel(), g.ravel(), strict=True):
        hit, missed, false = (
            hit + one * true,
            missed + (1 - one) * true,
            false + one * (1 - true),
        )
    index = (hit + 1) / (hit + 0.7 * missed + 0.3 * false + 1)
    expected = (1 - index) ** 0.75
    assert focal_tversky(probability, label) == pytest.approx(expected, rel=1e-5)


def test_focal_tversky_charges_missed_voxels_more_than_false_ones():
    label = jnp.zeros((1, 2, 4, 5, 1), jnp.float32).at[0, 0].set(1)
    missed, false = label.at[0, 0, :2].set(0), label.at[0, 1, :2].set(1)
    assert focal_tversky(missed, label) > focal_tversky(false, label) > 0


@pytest.mark.parametrize("found", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("true", [0.0, 1.0])
def test_focal_tversky_and_its_gradient_are_finite_everywhere(found, true):
    shape = (1, 2, 3, 4, 1)
    label = jnp.full(shape, true, jnp.float32)
    value, gradient = jax.value_and_grad(focal_tversky)(
        jnp.full(shape, found, jnp.float32), label
    )
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    assert (value == 0) == (found == true)


def signed_distance_of_scipy(label, spacing):
    """One map a case; 0 where a case has no surface."""
    maps = []
    for inside in np.asarray(label)[..., 0] >= 0.5:
        if inside.all() or not inside.any():
            maps.append(np.zeros(inside.shape))
            continue
        outside = distance_transform_edt(~inside, sampling=spacing)
        maps.append(outside - distance_transform_edt(inside, sampling=spacing))
    return np.stack(maps)[..., None]


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (5.0, 1.2, 1.3)])
def test_boundary_is_the_mean_of_probability_times_scipys_distance(spacing):
    shape = (3, 4, 7, 6, 1)
    probability, label = random_map(12, shape), random_map(13, shape)
    label = jnp.where(label > 0.8, label, 0).at[1].set(0)
    distance = signed_distance_of_scipy(label, spacing)
    compiled = jax.jit(jax.value_and_grad(boundary), static_argnums=2)
    value, gradient = compiled(probability, label, spacing)
    expected = (np.asarray(probability) * distance).mean()
    assert value == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(gradient, distance / distance.size, atol=1e-6)
    assert np.abs(gradient[1]).max() == 0


@pytest.mark.parametrize("space", [1, 2])
def test_boundary_over_two_devices_is_that_of_one(space):
    mesh = device_mesh(2, space)
    probability, label = random_map(14), random_map(15)
    expected = float(jax.jit(boundary)(probability, label))
    rows = jax.sharding.NamedSharding(mesh, ROW_SPEC)
    with jax.set_mesh(mesh):
        value = jax.jit(boundary)(*jax.device_put((probability, label), rows))
    assert value == pytest.approx(expected, rel=1e-5)


def test_boundary_is_least_for_the_label_and_grows_with_the_distance():
    label = jnp.zeros((1, 3, 8, 9, 1), jnp.float32).at[0, 1, 2:5, 2:5].set(1)
    near, far = (label.at[0, 1, 3, x].set(1) for x in (5, 8))
    compiled = jax.jit(boundary)
    values = [float(compiled(each, label)) for each in (label, near, far, 1 - label)]
    assert values == sorted(values)
    assert values[0] < 0
    assert len(set(values)) == 4


@pytest.mark.parametrize("loss", LOSSES)
def test_jit_equals_eager_and_gradient_is_the_finite_difference(loss):
    probability, label = random_map(5), (random_map(6) > 0.6).astype(jnp.float32)
    value, gradient = jax.jit(jax.value_and_grad(loss))(probability, label)
    assert value == pytest.approx(float(loss(probability, label)), rel=1e-6)
    with jax.enable_x64(True):
        compiled = jax.jit(loss)
        wide = [np.asarray(each, np.float64) for each in (probability, label)]
        for index in [(0, 1, 2, 3, 0), (1, 0, 0, 5, 0)]:
            step = np.zeros(probability.shape)
            step[index] = 1e-5
            high, low = (
                float(
                    compiled(jnp.asarray(wide[0] + sign * step), jnp.asarray(wide[1]))
                )
                for sign in (1, -1)
            )
            assert gradient[index] == pytest.approx((high - low) / 2e-5, rel=1e-4)


@pytest.mark.parametrize("loss", LOSSES)
def test_vmap_equals_loop(loss):
    probability, label = random_map(7), (random_map(8) > 0.6).astype(jnp.float32)
    together = jax.vmap(lambda p, g: loss(p[None], g[None]))(probability, label)
    compiled = jax.jit(loss)
    loop = [compiled(probability[i : i + 1], label[i : i + 1]) for i in (0, 1)]
    np.testing.assert_allclose(together, jnp.stack(loop), rtol=1e-6)


def test_tissue_cross_entropy_is_the_mean_over_voxels_inside():
    random = np.random.default_rng(9)
    logits = random.standard_normal((2, 2, 3, 4, 5)).astype(np.float32)
    labels = random.integers(0, 4, (2, 2, 3, 4))
    inside = (random.random(labels.shape) > 0.3).astype(np.float32)
    log_total = np.log(np.exp(logits).sum(-1))
    true = np.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    expected = ((log_total - true) * inside).sum() / inside.sum()
    arrays = [jnp.asarray(each) for each in (logits, labels, inside)]
    for form in (tissue_cross_entropy, jax.jit(tissue_cross_entropy)):
        assert form(*arrays) == pytest.approx(expected, rel=1e-5)
    assert tissue_cross_entropy(arrays[0], arrays[1], 0 * arrays[2]) == 0
