"""What is multiplied, and what is summed, in which type."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from adn_jax.config import (
    AlignmentNetSettings,
    DeepMedicSettings,
    SymmetryNetSettings,
    UNetSettings,
)
from adn_jax.losses.segmentation import cross_entropy
from adn_jax.models import (
    apply_alignment_net,
    apply_unet,
    init_alignment_net,
    init_unet,
    network,
)
from adn_jax.models.convolution import (
    convolve,
    convolve_relu,
    convolve_strided,
    convolve_upsampled,
)
from adn_jax.models.precision import add_to_channels, project, repeat

KEY = jax.random.key(0)
SHAPE = (2, 8, 32, 32)
WORDS = {"float32": "HIGHEST", "tensorfloat32": "HIGH", "bfloat16": "DEFAULT"}


def gradient_of_ones(function, *shape, of=SHAPE):
    """Gradient of a float32 parameter of ones for bfloat16 maps and cotangents of
    ones: it counts voxels, and in bfloat16 the count would end at 256."""
    maps = jnp.ones((*of, 1), jnp.bfloat16)
    out, pull_back = jax.vjp(lambda each: function(maps, each), jnp.ones(shape))
    assert out.dtype == jnp.bfloat16
    (gradient,) = pull_back(jnp.ones_like(out))
    assert gradient.dtype == jnp.float32
    return gradient


def test_gradients_of_parameters_count_every_voxel():
    voxels = np.prod(SHAPE)
    assert gradient_of_ones(add_to_channels, 1).item() == voxels
    assert gradient_of_ones(project, 1, 1).item() == voxels


@pytest.mark.parametrize(
    ("function", "sides"),
    [
        (lambda maps, kernel: convolve(maps, kernel, 1), (3, 3, 3)),
        (lambda maps, kernel: convolve(maps, kernel, 0), (2, 2, 2)),
        (lambda maps, kernel: convolve(maps, kernel, (0, 1, 1)), (1, 3, 3)),
        (lambda maps, kernel: convolve_relu(maps, kernel, None), (3, 3, 3)),
        (convolve_strided, (4, 4, 4)),
        (convolve_upsampled, (3, 3, 3)),
    ],
)
def test_gradients_of_kernels_count_every_voxel(function, sides):
    gradient = gradient_of_ones(function, *sides, 1, 1)[..., 0, 0]
    maps = jnp.ones((*SHAPE, 1))
    kernel = jnp.ones((*sides, 1, 1))
    out, pull_back = jax.vjp(lambda each: function(maps, each), kernel)
    (exact,) = pull_back(jnp.ones_like(out))
    assert exact.max() > 2000
    np.testing.assert_allclose(gradient, exact[..., 0, 0], rtol=1e-6)


def test_repeated_voxels_add_up_in_float32():
    maps = jnp.ones((1, 2, 2, 2, 1), jnp.bfloat16)
    out, pull_back = jax.vjp(lambda maps: repeat(maps, (1, 3, 5)), maps)
    assert out.shape == (1, 2, 6, 10, 1)
    # 257 is no number of bfloat16, nor is any sum with 1 on the way to it
    cotangent = jnp.ones_like(out).at[0, 0, 0, 0].set(256)
    (gradient,) = pull_back(cotangent)
    assert gradient[0, 0, 0, 0, 0] == jnp.bfloat16(256 + 14)
    assert (gradient[0, 1] == 15).all()


def unet(kind):
    settings = UNetSettings(kind, widths=(8, 16), groups=4, dropout=0.0)
    return init_unet(KEY, settings), lambda params, volume, precision: apply_unet(
        params, volume, settings, precision=precision
    )


def patches(settings):
    variables = network(settings).init(KEY)
    form = network(settings).patches(SHAPE[1:])

    def logits(weights, volume, precision):
        both = {**variables, "weights": weights}
        return form.apply(both, volume, settings, key=KEY, precision=precision)[0]

    return variables["weights"], logits


def alignment_net():
    settings = AlignmentNetSettings(widths=(8, 16))
    params = init_alignment_net(KEY, settings, SHAPE[1:])

    def numbers(params, volume, precision):
        pose = apply_alignment_net(params, volume, settings, precision=precision)
        return jnp.concatenate([pose.rotation, pose.translation], axis=1)

    return params, numbers


NETWORKS = {
    "residual_unet": lambda: unet("residual_unet"),
    "unet": lambda: unet("unet"),
    "alignment_net": alignment_net,
    "deepmedic": lambda: patches(
        DeepMedicSettings(
            widths=(6, 6),
            steps=(1, 3),
            residual=(),
            joined_widths=(8,),
            joined_kernels=(3,),
            joined_residual=(),
            dropout=(0.0, 0.0),
        )
    ),
    "sean": lambda: patches(SymmetryNetSettings(widths=(8, 16), neighbours=1)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_in_bfloat16_have_the_size_of_those_in_float32(name):
    params, apply = NETWORKS[name]()
    # Weights that both types hold: rounded ones are those of another network, where
    # the terms of a gradient that nearly cancel do so at another value.
    params = jax.tree.map(lambda each: jnp.float32(jnp.bfloat16(each)), params)
    slices = 3 if name == "sean" else 21 if name == "deepmedic" else 16
    side = 21 if name == "deepmedic" else 64
    volume = smooth((2, slices, side, side, 1))

    def gradient(precision):
        def loss(params):
            out = apply(params, volume, precision)
            if out.ndim == 2:
                return jnp.sum(jnp.square(out - 0.3))
            label = jnp.zeros_like(out).at[:, :, :20].set(1)
            return cross_entropy(jax.nn.sigmoid(out), label)

        return flatten_dict(jax.jit(jax.grad(loss))(params), sep="/")

    exact, half = gradient("float32"), gradient("bfloat16")
    largest = max(norm(each) for each in exact.values())
    ratios = {
        path: norm(half[path]) / norm(exact[path])
        for path in exact
        # what a norm behind it takes away has no gradient but that of rounding
        if norm(exact[path]) > 1e-4 * largest
    }
    assert len(ratios) > 0.6 * len(exact)
    wrong = {path: ratio for path, ratio in ratios.items() if abs(ratio - 1) > 0.1}
    assert not wrong


def smooth(shape):
    """A volume that is no noise: a head's parts have one sign over many voxels."""
    z, y, x = jnp.meshgrid(*(jnp.linspace(-1, 1, n) for n in shape[1:4]), indexing="ij")
    inside = z**2 + y**2 + x**2 < 0.9
    values = jnp.where(inside, 0.5 + 0.2 * jnp.sin(7 * x) * jnp.cos(5 * y + z), 0)
    return jnp.stack([values, values[:, ::-1]])[..., None]


def norm(values):
    return float(jnp.linalg.norm(values.ravel()))


@pytest.mark.parametrize("precision", WORDS)
@pytest.mark.parametrize("name", ["residual_unet", "sean", "alignment_net"])
def test_products_are_as_exact_as_the_precision_says(name, precision):
    """In the programs for a GPU and for a TPU, forward and backward."""
    params, apply = NETWORKS[name]()
    volume = jnp.ones((1, 3 if name == "sean" else 8, 8, 8, 1))

    def total(params):
        return apply(params, volume, precision).sum()

    traced = jax.jit(jax.grad(total)).trace(params)
    words = "HIGHEST" if name == "alignment_net" else WORDS[precision]
    for platform in ("cuda", "tpu"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        found = products(text, "convolution")
        assert len(found) > 5
        assert set(found) == {(words, words)}
        # T's head and the folding of kernels for up-sampling are exact at each
        exact = ("HIGHEST", "HIGHEST")
        assert set(products(text, "dot_general")) <= {(words, words), exact}


def products(text, operation):
    """Precisions of both operands of every product in a lowered program."""
    lines = [line for line in text.splitlines() if f"stablehlo.{operation}" in line]
    found = [tuple(re.findall(r"\b(HIGHEST|HIGH|DEFAULT)\b", line)) for line in lines]
    return [each or ("DEFAULT", "DEFAULT") for each in found]
