import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from adn_jax.losses.segmentation import signed_distance, squared_distance


def random_mask(share, shape=(2, 5, 9, 6)):
    return np.random.default_rng(0).random(shape) < share


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (5.0, 1.2, 0.7)])
@pytest.mark.parametrize("share", [0.02, 0.5])
def test_squared_distance_is_scipys(share, spacing):
    mask = random_mask(share)
    expected = [distance_transform_edt(~each, sampling=spacing) for each in mask]
    for form in (squared_distance, jax.jit(squared_distance, static_argnums=1)):
        found = np.sqrt(form(jnp.asarray(mask), spacing))
        np.testing.assert_allclose(found, np.stack(expected), rtol=1e-6)


def test_signed_distance_is_negative_inside_and_zero_without_a_surface():
    mask = random_mask(0.3, (3, 4, 5, 6))
    mask[1], mask[2] = False, True
    spacing = (2.0, 1.0, 1.5)
    found = jax.jit(signed_distance, static_argnums=1)(jnp.asarray(mask), spacing)
    outside = distance_transform_edt(~mask[0], sampling=spacing)
    inside = distance_transform_edt(mask[0], sampling=spacing)
    np.testing.assert_allclose(found[0], outside - inside, rtol=1e-6)
    assert np.abs(found[1:]).max() == 0


def test_no_voxel_to_measure_to_is_infinitely_far():
    nothing = jnp.zeros((1, 2, 3, 4), bool)
    assert np.isinf(squared_distance(nothing, (1.0, 1.0, 1.0))).all()
