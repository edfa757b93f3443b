"""A, Q and the two synthetic volumes (equations 2 and 3)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from adn_jax.config import AsymmetrySettings
from adn_jax.types import Volume


def total_asymmetry(aligned: Volume, mirrored: Volume) -> Volume:
    """A = max(X' - X, 0): how much darker a voxel is than its mirror (equation 2)."""
    return jax.nn.relu(mirrored - aligned)


def within_both_sides(aligned: Volume, mirrored: Volume, rim: int) -> Volume:
    """1 where X and X' are brain, `rim` voxels or more inside it in the slice; else 0.

    The surface of the brain mixes with bone, not alike on both sides, so that A lights
    up along it brighter than most infarcts. Voxels of 0 inside the brain (CSF darker
    than the window) are closed first, as far as they are no wider than two.
    """
    inside = ((aligned > 0) & (mirrored > 0)).astype(aligned.dtype)
    grown = _extremum_in_slice(inside, jax.lax.max, 1)
    return jax.lax.stop_gradient(_extremum_in_slice(grown, jax.lax.min, 1 + rim))


def _extremum_in_slice(volume: Volume, pick: Callable[..., Any], reach: int) -> Volume:
    """The greatest or least value within `reach` voxels along x and y."""
    start = -jnp.inf if pick is jax.lax.max else jnp.inf
    width = 2 * reach + 1
    return jax.lax.reduce_window(
        volume, start, pick, (1, 1, width, width, 1), (1, 1, 1, 1, 1), "SAME"
    )


def anatomical_asymmetry(
    asymmetry: Volume, pathological: Volume, settings: AsymmetrySettings
) -> Volume:
    """Q = A - P, or its positive part in the authors' code."""
    difference = asymmetry - pathological
    if settings.anatomical == "positive_part":
        return jax.nn.relu(difference)
    return difference


def salient_volume(aligned: Volume, anatomical: Volume) -> Volume:
    """X_hat = X + Q: only pathological asymmetry is left (equation 3)."""
    return aligned + anatomical


def compensated_volume(
    aligned: Volume,
    mirrored: Volume,
    pathological: Volume,
    settings: AsymmetrySettings,
) -> Volume:
    """X_tilde = X + P: only anatomical asymmetry is left.

    The authors' code stops at the brighter of the two sides, max(X, X').
    """
    total = aligned + pathological
    if settings.compensated == "clipped":
        return jnp.minimum(total, jnp.maximum(aligned, mirrored))
    return total
