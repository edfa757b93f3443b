"""A, Q and the two synthetic volumes (equations 2 and 3)."""

import jax
import jax.numpy as jnp

from adn_jax.config import AsymmetrySettings
from adn_jax.types import Volume


def total_asymmetry(aligned: Volume, mirrored: Volume) -> Volume:
    """A = max(X' - X, 0): how much darker a voxel is than its mirror (equation 2)."""
    return jax.nn.relu(mirrored - aligned)


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
