import jax.numpy as jnp
import numpy as np

from adn_jax.geometry.sampler import mirror


def test_mirror_flips_the_left_right_axis_alone():
    volume = jnp.arange(24).reshape(1, 2, 2, 3, 2)
    np.testing.assert_array_equal(mirror(volume), np.asarray(volume)[:, :, :, ::-1])
    np.testing.assert_array_equal(mirror(mirror(volume)), volume)
