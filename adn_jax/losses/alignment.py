"""The terms of L_T, which train network T without labels of the mid-line."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from adn_jax.geometry.rigid import Pose
from adn_jax.types import Scalar, Volume, register_arrays

LEAST_IN_VIEW = 0.01
"""Share of the head below which `mirror_in_view` stops rising."""


@register_arrays
@dataclass(frozen=True)
class AlignOutputs:
    """What T makes of a batch: I, X, X', X' warped back by M^-1, and the pose.

    `search_pose` is the answer of the coarse search that T may learn from.
    """

    volume: Volume
    aligned: Volume
    mirrored: Volume
    reconstruction: Volume
    pose: Pose
    search_pose: Pose


def mirror_loss(outputs: AlignOutputs) -> Scalar:
    """L_T = mean |X - X'| (equation 1)."""
    return jnp.mean(jnp.abs(outputs.aligned - outputs.mirrored))


def mirror_in_view(outputs: AlignOutputs) -> Scalar:
    """mean |X - X'| of each head over the share of its intensity still in view.

    An empty X is perfectly symmetric; divided by what is left of the head, pushing it
    out does not pay. The share is no smaller than 0.01.
    """
    axes = (1, 2, 3, 4)
    distance = jnp.mean(jnp.abs(outputs.aligned - outputs.mirrored), axes)
    brightness = jnp.maximum(jnp.mean(outputs.volume, axes), 1e-6)
    in_view = jnp.mean(outputs.aligned, axes) / brightness
    return jnp.mean(distance / jnp.maximum(in_view, LEAST_IN_VIEW))


def reconstruction(outputs: AlignOutputs) -> Scalar:
    """mean |I - sample(X', M^-1)| of the authors' code (transform_net.py)."""
    return jnp.mean(jnp.abs(outputs.volume - outputs.reconstruction))


def pose_regression(outputs: AlignOutputs) -> Scalar:
    """Squared distance of the pose's six numbers to the search's, mean of the heads.

    Radians and half-extents count alike: both move a point at the rim of the volume
    by one half-extent a unit.
    """
    difference = jax.tree.map(jnp.subtract, outputs.pose, outputs.search_pose)
    numbers = jnp.concatenate([difference.rotation, difference.translation], axis=1)
    return jnp.mean(jnp.sum(jnp.square(numbers), axis=1))
