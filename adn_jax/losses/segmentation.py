"""How far a probability map is from a label; averages run over the whole batch."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from adn_jax.types import Volume

LOWEST_LOG = -100.0
"""What torch's binary cross-entropy takes for the logarithm of 0."""

SMALLEST_WEIGHT = 1e-6
"""Least square of a class's size, and least share of a class in the denominator."""


def cross_entropy(probability: Volume, label: Volume) -> Float[Array, ""]:
    """Binary cross-entropy, -mean(G log p + (1 - G) log(1 - p)) (equation 4).

    Logarithms stop at -100, as torch's do, and have no gradient there.
    """
    inside, outside = _bounded_log(probability), _bounded_log(1 - probability)
    return -jnp.mean(label * inside + (1 - label) * outside)


def generalised_dice(probability: Volume, label: Volume) -> Float[Array, ""]:
    """1 - 2 sum_c w_c sum(p_c G_c) / sum_c max(w_c sum(p_c + G_c), 1e-6).

    The classes c are foreground and background; w_c = 1 / max(sum(G_c)^2, 1e-6), so
    that a small lesion counts as much as the background (Sudre et al. 2017). Sums run
    over the whole batch, as in the authors' code (unet3d/losses.py); its lower bound
    in the denominator matters for classes of more than about two million voxels.
    """
    classes = ((probability, label), (1 - probability, 1 - label))
    overlap = total = 0.0
    for predicted, true in classes:
        weight = 1 / jnp.maximum(jnp.square(jnp.sum(true)), SMALLEST_WEIGHT)
        overlap += weight * jnp.sum(predicted * true)
        total += jnp.maximum(weight * jnp.sum(predicted + true), SMALLEST_WEIGHT)
    return 1 - 2 * overlap / total


def tissue_cross_entropy(
    logits: Float[Array, "b z y x k"],
    labels: Integer[Array, "b z y x"],
    inside: Float[Array, "b z y x"],
) -> Float[Array, ""]:
    """Mean cross-entropy of k tissue classes over the voxels where `inside` is 1."""
    true = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    losses = -jnp.sum(true * jax.nn.log_softmax(logits), axis=-1)
    return jnp.sum(losses * inside) / jnp.maximum(jnp.sum(inside), 1)


def _bounded_log(probability: Volume) -> Volume:
    """Logarithm with a finite value and a zero gradient at 0."""
    positive = probability >= jnp.finfo(probability.dtype).tiny
    return jnp.where(positive, jnp.log(jnp.where(positive, probability, 1)), LOWEST_LOG)
