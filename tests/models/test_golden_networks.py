"""The networks against the authors' PyTorch code on seeded weights."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adn_jax.config import AlignmentNetSettings, UNetSettings
from adn_jax.models import apply_alignment_net, apply_unet
from adn_jax.models.torch_names import from_torch, to_torch
from tests import golden, quick

WIDTHS = (8, 16, 32, 64)
KINDS = {"resunet": "residual_unet", "unet": "unet"}


@pytest.mark.parametrize("name", KINDS)
def test_unet_equals_the_authors_code(name):
    settings = UNetSettings(kind=KINDS[name], widths=WIDTHS)
    params = from_torch(golden.parameters(f"{name}_f8", 1003), settings, "D")
    volume = golden.volume(1004, (2, 1, 16, 32, 32))
    cotangent = golden.volume(1005, (2, 1, 16, 32, 32))

    @partial(jax.jit, compiler_options=quick.AS_EVER)
    def outputs_and_gradients(params, volume):
        def probability(params, volume):
            return jax.nn.sigmoid(apply_unet(params, volume, settings))

        out, pull_back = jax.vjp(probability, params, volume)
        return out, *pull_back(jnp.asarray(cotangent))

    with jax.default_matmul_precision("highest"):
        out, by_params, by_volume = outputs_and_gradients(params, volume)
    np.testing.assert_allclose(out, golden.value(f"{name}_out"), rtol=0, atol=5e-5)
    assert relative_distance(by_volume, golden.value(f"{name}_dx")) < 5e-3

    norms = {k: np.linalg.norm(v) for k, v in to_torch(by_params, settings).items()}
    names = list(golden.parameter_shapes(f"{name}_f8"))
    expected = dict(zip(names, golden.value(f"{name}_grad_norms"), strict=True))
    assert set(norms) == set(expected)
    for parameter in set(names) - {"decoders.2.upsampling.conv3d.bias"}:
        assert norms[parameter] == pytest.approx(expected[parameter], rel=5e-3)


@pytest.mark.shared
@pytest.mark.slow
def test_alignment_net_equals_the_authors_code_at_full_size(shared):
    from scipy.ndimage import uniform_filter

    degree = float(np.rad2deg(1.0))
    settings = AlignmentNetSettings(
        rotation_limit_deg=(degree,) * 3, translation_limit=(1.0, 1.0, 1.0)
    )
    params = from_torch(golden.parameters("T", 1017), settings, "T")
    noise = golden.volume(1018, (1, 1, 40, 256, 256))
    volume = uniform_filter(noise, (1, 5, 5, 5, 1), mode="constant")
    with jax.default_matmul_precision("highest"):
        pose = apply_alignment_net(params, jnp.asarray(volume), settings)
    stored = np.load(shared / "golden" / "values.npz")["T_view"]
    np.testing.assert_allclose(golden.six_of(pose), stored, rtol=0, atol=1e-3)


def relative_distance(value, expected) -> float:
    return float(np.linalg.norm(value - expected) / np.linalg.norm(expected))
