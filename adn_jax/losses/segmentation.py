"""How far a probability map is from a label; averages run over the whole batch."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from adn_jax.distributed.mesh import replicate_rows
from adn_jax.types import Volume

LOWEST_LOG = -100.0
"""What torch's binary cross-entropy takes for the logarithm of 0."""

SMALLEST_WEIGHT = 1e-6
"""Least square of a class's size, and least share of a class in the denominator."""

SMALLEST_SHARE = 1e-6
"""Least 1 - T of the focal Tversky loss that has a gradient."""

MISSED, FALSE = 0.7, 0.3
"""alpha and beta of the focal Tversky loss: what a missed and a false voxel count."""

FOCUS = 3 / 4
"""Its power, 1 / gamma with gamma = 4/3."""

VOXELS = (1.0, 1.0, 1.0)
"""Voxel size with which distances are counted in voxels."""

BatchMask = Bool[Array, "b z y x"]

Distance = Float[Array, "b z y x"]

ROWS_AT_ONCE = 4
"""Places of a line that one turn of the loop compares with: it saves memory traffic."""


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

    >>> label = jnp.zeros((1, 2, 4, 4, 1)).at[0, :, 1:3, 1:3].set(1)
    >>> [round(float(generalised_dice(p, label)), 3) for p in (label, 1 - label)]
    [0.0, 1.0]
    """
    classes = ((probability, label), (1 - probability, 1 - label))
    overlap = total = 0.0
    for predicted, true in classes:
        weight = 1 / jnp.maximum(jnp.square(jnp.sum(true)), SMALLEST_WEIGHT)
        overlap += weight * jnp.sum(predicted * true)
        total += jnp.maximum(weight * jnp.sum(predicted + true), SMALLEST_WEIGHT)
    return 1 - 2 * jnp.asarray(overlap) / total


def focal_tversky(probability: Volume, label: Volume) -> Float[Array, ""]:
    """(1 - T)^(3/4), T = (hit + 1) / (hit + 0.7 missed + 0.3 false + 1).

    hit = sum(p G), missed = sum((1 - p) G), false = sum(p (1 - G)) over the whole
    batch; the voxel added to both sides is what makes a batch without lesion one
    without loss where nothing is found (Abraham and Khan 2019, class of the lesion
    alone). Below 1 - T = 1e-6, where the power is infinitely steep, there is no
    gradient.
    """
    hit = jnp.sum(probability * label)
    missed = MISSED * jnp.sum((1 - probability) * label)
    false = FALSE * jnp.sum(probability * (1 - label))
    loss = (missed + false) / (hit + missed + false + 1)
    steep = loss < SMALLEST_SHARE
    return jnp.where(steep, 0, jnp.where(steep, 1, loss) ** FOCUS)


def boundary(
    probability: Volume,
    label: Volume,
    spacing_mm: tuple[float, float, float] = VOXELS,
) -> Float[Array, ""]:
    """mean(p d): d is the signed distance to the surface of G (Kervadec et al. 2019).

    Probability costs the more the farther it lies outside and gains the more the
    deeper it lies inside, so the least value is below 0. d is in the unit of
    `spacing_mm` (z y x), between voxel centres; G is cut at one half. A case without
    lesion has no surface and does not count.
    """
    inside = replicate_rows(label)[..., 0] >= 0.5
    distance = signed_distance(inside, spacing_mm)[..., None]
    return jnp.mean(probability * distance.astype(probability.dtype))


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
    """Logarithm that stops at -100, with a zero gradient there."""
    tiny = float(jnp.finfo(probability.dtype).tiny)
    positive = probability >= max(tiny, math.exp(LOWEST_LOG))
    return jnp.where(positive, jnp.log(jnp.where(positive, probability, 1)), LOWEST_LOG)


def signed_distance(
    inside: BatchMask, spacing_mm: tuple[float, float, float]
) -> Distance:
    """Distance in mm to the nearest voxel on the other side, negative inside.

    Distances are between voxel centres, so the surface lies half a voxel from either
    side's first voxels. A case that has no surface, all inside or all outside, is 0.
    `spacing_mm` is the voxel size z y x.

    >>> inside = jnp.array([False, True, True, True, False, False]).reshape(1, 1, 1, 6)
    >>> signed_distance(inside, (5.0, 1.0, 2.0)).ravel()
    Array([ 2., -2., -4., -2.,  2.,  4.], dtype=float32)
    """
    axes = (1, 2, 3)
    to_inside = jnp.sqrt(squared_distance(inside, spacing_mm))
    to_outside = jnp.sqrt(squared_distance(~inside, spacing_mm))
    has_surface = inside.any(axes, keepdims=True) & ~inside.all(axes, keepdims=True)
    return jnp.where(has_surface, jnp.where(inside, -to_outside, to_inside), 0)


def squared_distance(
    mask: BatchMask, spacing_mm: tuple[float, float, float]
) -> Distance:
    """Squared distance in mm^2 of each voxel to the nearest of `mask`; inf without any.

    Axis by axis each voxel takes the least, over its line, of what was found so far and
    the squared distance along the line (Felzenszwalb and Huttenlocher 2012). Every pair
    of a line is compared, n^2 for n voxels, instead of their lower envelope: a few
    vector operations and no branches.
    """
    nearest = jnp.where(mask, 0.0, jnp.inf).astype(jnp.float32)
    for axis, spacing in zip((1, 2, 3), spacing_mm, strict=True):
        nearest = _along(nearest, axis, spacing)
    return nearest


def _along(nearest: Distance, axis: int, spacing: float) -> Distance:
    size = nearest.shape[axis]
    shape = [size if each == axis else 1 for each in range(nearest.ndim)]
    places = jnp.arange(size, dtype=jnp.float32).reshape(shape)

    def compare(place: Array, least: Distance) -> Distance:
        found = jax.lax.dynamic_slice_in_dim(nearest, place, 1, axis)
        apart = (places - place.astype(jnp.float32)) * spacing
        return jnp.minimum(least, found + jnp.square(apart))

    return jax.lax.fori_loop(0, size, compare, nearest, unroll=min(ROWS_AT_ONCE, size))
