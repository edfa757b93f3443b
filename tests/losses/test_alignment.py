from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adn_jax.geometry.rigid import Pose
from adn_jax.geometry.sampler import mirror as flip
from adn_jax.geometry.sampler import sample
from adn_jax.losses import alignment
from adn_jax.losses.recipes import ALIGNMENT
from tests import golden
from tests.losses.arrays import random_alignment


def test_values_are_the_equations():
    outputs = random_alignment()
    i, x, flipped, back = (
        np.asarray(getattr(outputs, name), np.float64)
        for name in ("volume", "aligned", "mirrored", "reconstruction")
    )
    in_view = [
        np.abs(x[case] - flipped[case]).mean() / (x[case].mean() / i[case].mean())
        for case in (0, 1)
    ]
    pose, search_pose = map(golden.six_of, (outputs.pose, outputs.search_pose))
    expected = {
        "mirror": np.abs(x - flipped).mean(),
        "mirror_in_view": np.mean(in_view),
        "reconstruction": np.abs(i - back).mean(),
        "pose_regression": ((pose - search_pose) ** 2).sum() / 2,
    }
    assert set(expected) == set(ALIGNMENT)
    for name, value in expected.items():
        assert ALIGNMENT[name](outputs) == pytest.approx(value, rel=1e-5), name


def head(shape=(2, 32, 32)):
    """An ellipse with one dark spot: nearly, but not quite, symmetric."""
    _, y, x = np.meshgrid(
        *[(2 * np.arange(n) + 1) / n - 1 for n in shape], indexing="ij"
    )
    inside = (x / 0.6) ** 2 + (y / 0.8) ** 2 < 1
    spot = (x - 0.3) ** 2 + (y - 0.1) ** 2 < 0.02
    return jnp.asarray(inside * (0.5 - 0.3 * spot), jnp.float32)[None, ..., None]


def pushed(shift):
    """The losses' input after a shift of the head along x, in half-extents."""
    volume = head()
    pose = Pose(jnp.zeros((1, 3)), jnp.asarray([[shift, 0.0, 0.0]]))
    aligned = sample(volume, pose.matrices()[0], in_plane=True)
    return alignment.AlignOutputs(volume, aligned, flip(aligned), volume, pose, pose)


def test_pushing_the_head_out_pays_in_mirror_but_not_in_mirror_in_view():
    shifts = [0, 0.3, 0.6, 1.0, 1.3, 1.55]
    plain = [float(alignment.mirror_loss(pushed(shift))) for shift in shifts]
    weighed = [float(alignment.mirror_in_view(pushed(shift))) for shift in shifts]
    assert plain[-1] < plain[0]
    assert min(weighed[1:]) > 3 * weighed[0]
    assert all(np.diff(weighed) > -1e-3)


def test_a_head_wholly_out_of_view_gives_finite_numbers():
    outputs = pushed(5.0)
    value, gradient = jax.value_and_grad(
        lambda aligned: alignment.mirror_in_view(replace(outputs, aligned=aligned))
    )(outputs.aligned)
    assert value == 0
    assert np.isfinite(gradient).all()
    black = replace(outputs, volume=0 * outputs.volume)
    assert alignment.mirror_in_view(black) == 0


def test_each_head_is_weighed_by_its_own_share_in_view():
    inside, outside = pushed(0.0), pushed(1.0)
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), inside, outside)
    mean = (alignment.mirror_in_view(inside) + alignment.mirror_in_view(outside)) / 2
    assert alignment.mirror_in_view(both) == pytest.approx(float(mean), rel=1e-5)


@pytest.mark.parametrize("name", list(ALIGNMENT))
def test_jit_equals_eager_and_gradient_is_the_finite_difference(name):
    outputs = random_alignment()
    arrays, structure = jax.tree.flatten(outputs)

    @jax.jit
    def loss(arrays):
        return ALIGNMENT[name](jax.tree.unflatten(structure, arrays))

    assert loss(arrays) == pytest.approx(float(ALIGNMENT[name](outputs)), rel=1e-6)
    gradients = jax.jit(jax.grad(loss))(arrays)
    steps = [1e-3 * np.sign(gradient) for gradient in gradients]
    assert any(step.any() for step in steps)
    high, low = (
        float(loss([a + sign * step for a, step in zip(arrays, steps, strict=True)]))
        for sign in (1, -1)
    )
    slope = sum(np.sum(g * s) for g, s in zip(gradients, steps, strict=True))
    assert slope == pytest.approx((high - low) / 2, rel=2e-2)
