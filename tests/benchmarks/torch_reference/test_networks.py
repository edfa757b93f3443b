"""The peer's networks equal ours: outputs and gradients."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adn_jax.config import AlignmentNetSettings, UNetSettings
from adn_jax.models import (
    apply_alignment_net,
    apply_unet,
    init_alignment_net,
    init_unet,
)
from tests.benchmarks.torch_reference.ours import (
    SHAPE,
    channels_first,
    draw_params,
)

torch = pytest.importorskip("torch")
from benchmarks.torch_reference.networks import make_alignment_net, make_unet  # noqa: E402
from benchmarks.torch_reference.parameters import state_of  # noqa: E402

UNET = UNetSettings(widths=(2, 4), outputs=3, groups=2)

T_NET = AlignmentNetSettings(
    widths=(2, 8),
    rotation_limit_deg=(10.0, 20.0, 30.0),
    translation_limit=(0.1, 0.2, 0.3),
)


def compare(network, apply, params, volume):
    """Output, and gradients of a weighted sum by input and by every parameter."""

    def value_and_gradients(params, volume):
        output, pull = jax.vjp(apply, params, volume)
        return output, pull(weights_like(output))

    with jax.default_matmul_precision("highest"):
        expected, (by_params, by_volume) = jax.jit(value_and_gradients)(params, volume)
    network.load_state_dict(state_of(params))
    theirs = torch.tensor(channels_first(volume), requires_grad=True)
    result = network.eval()(theirs)
    result.backward(torch.tensor(channels_first(weights_like(expected))))
    close(result, channels_first(expected))
    close(theirs.grad, channels_first(by_volume))
    wanted = state_of(by_params)
    found = dict(network.named_parameters())
    assert found.keys() == wanted.keys()
    scale = max(gradient.abs().max() for gradient in wanted.values())
    for name, parameter in found.items():
        close(parameter.grad, wanted[name], scale)


def weights_like(output):
    return np.random.default_rng(2).normal(size=output.shape).astype(np.float32)


def close(found, expected, scale=None):
    """Equal to rounding beside `scale`, or else beside the largest number."""
    expected = np.asarray(expected)
    atol = 2e-5 * float(np.abs(expected).max() if scale is None else scale)
    np.testing.assert_allclose(found.detach(), expected, rtol=0, atol=atol)


def random_volume(channels):
    shape = (2, *SHAPE, channels)
    return np.random.default_rng(1).random(shape, np.float32)


@pytest.mark.parametrize("kind", ["residual_unet", "unet"])
def test_u_net_equals_ours(kind):
    settings = replace(UNET, kind=kind)
    params = draw_params(partial(init_unet, settings=settings, inputs=2))
    compare(
        make_unet(settings, 2),
        lambda params, volume: apply_unet(params, volume, settings),
        params,
        random_volume(2),
    )


def test_alignment_net_equals_ours():
    params = draw_params(partial(init_alignment_net, settings=T_NET, shape_zyx=SHAPE))
    compare(
        make_alignment_net(T_NET),
        lambda *given: jnp.concatenate(
            jax.tree.leaves(apply_alignment_net(*given, T_NET)), axis=1
        ),
        params,
        random_volume(1),
    )
