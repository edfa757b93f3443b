import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from adn_jax.losses.segmentation import cross_entropy
from adn_jax.models import probability_of

LOGITS = np.linspace(-40, 40, 161, dtype=np.float32)


def test_it_is_the_sigmoid_and_below_1():
    found = np.asarray(jax.jit(probability_of)(LOGITS))
    np.testing.assert_allclose(found, expit(LOGITS.astype(float)), rtol=1e-6, atol=5e-7)
    assert found.max() < 1


def test_its_slope_is_that_of_the_sigmoid_where_that_has_one():
    exact = expit(LOGITS.astype(float))
    slope = jax.vmap(jax.grad(probability_of))(LOGITS)
    np.testing.assert_allclose(slope, exact * (1 - exact), rtol=2e-6, atol=5e-7)
    assert (np.asarray(slope) > 0).all()


@pytest.mark.parametrize("logit", [14.0, 17.0, 80.0])
@pytest.mark.parametrize("label", [0.0, 1.0])
def test_what_is_surest_and_wrong_has_the_slope_of_the_cross_entropy(logit, label):
    """The plain sigmoid has none from 17 on."""

    def loss(sigmoid, z):
        volume = jnp.full((1, 1, 1, 1, 1), z)
        return cross_entropy(sigmoid(volume), jnp.full_like(volume, label))

    sign = 1 if label == 0 else -1
    slope = jax.grad(lambda z: loss(probability_of, z))(sign * logit)
    assert slope == pytest.approx(sign, rel=1e-5)
    if label == 0 and logit >= 17:
        assert jax.grad(lambda z: loss(jax.nn.sigmoid, z))(sign * logit) == 0


def test_interpolation_keeps_it_below_1():
    weights = np.random.default_rng(0).dirichlet(np.ones(8), 2000).astype(np.float32)
    surest = probability_of(jnp.full(8, 50.0))
    mixed = jnp.sum(jnp.asarray(weights) * surest, axis=1)
    assert float(mixed.max()) < 1
