"""O averaged over poses of a scan: its mirror image, and small turns and shifts.

A network says a little different things of a head and of the same head moved; the mean
keeps what they agree on (test-time augmentation, Wang et al. 2019). Only poses in plane
are taken: slices are too thick for others.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from adn_jax.config import SystemSettings, TtaSettings
from adn_jax.geometry.sampler import mirror, sample
from adn_jax.pipeline.adn import apply_adn
from adn_jax.pipeline.align import matrices
from adn_jax.types import AdnParams, Matrix, Volume

Predict = Callable[[AdnParams, Volume, SystemSettings], Volume]
"""From a scan to O."""


class Pose(NamedTuple):
    """How a scan is moved before the chain sees it."""

    mirrored: bool = False
    turn_deg: float = 0.0
    shift_x: float = 0.0
    """In half-extents."""
    shift_y: float = 0.0
    """In half-extents."""


@partial(jax.jit, static_argnames="system")
def predict_scan(params: AdnParams, volume: Volume, system: SystemSettings) -> Volume:
    """O of the scan as it lies."""
    return apply_adn(params, volume, system).prediction


def averaged_prediction(
    params: AdnParams,
    volume: Volume,
    system: SystemSettings,
    tta: TtaSettings,
    *,
    predict: Predict = predict_scan,
    first: Volume | None = None,
) -> Volume:
    """Mean of O over the scan as it lies and `further_poses`.

    A pose counts where it saw the scan: turned back, its grid does not reach into every
    corner. The poses go through one compiled chain one after the other, so that memory
    for one is enough; inside another jit each is compiled in its place.

    Args:
      params: parameters of the chain.
      volume: I.
      system: the chain.
      tta: which poses; without any, O is what it was.
      predict: runs the chain.
      first: O of the scan as it lies, where it is known already.
    """
    total = predict(params, volume, system) if first is None else first
    weight = jnp.ones_like(total)
    for pose in further_poses(tta):
        moved = predict(params, into_pose(volume, pose, system), system)
        prediction, seen = out_of_pose(moved, pose, system)
        total, weight = total + prediction, weight + seen
    return total / weight


def further_poses(settings: TtaSettings) -> tuple[Pose, ...]:
    """The poses beside the scan as it lies; always the same ones.

    Turns come in pairs of + and - at equal steps up to the largest, shifts go evenly
    round the circle, so that for an even number both have mean 0.
    """
    count = settings.copies
    pairs = (count + 1) // 2
    moved = (
        Pose(
            turn_deg=(-1) ** index * settings.turn_deg * (index // 2 + 1) / pairs,
            shift_x=settings.shift * math.cos(2 * math.pi * index / count),
            shift_y=settings.shift * math.sin(2 * math.pi * index / count),
        )
        for index in range(count)
    )
    return (*[Pose(mirrored=True)] * settings.mirrored, *moved)


def into_pose(volume: Volume, pose: Pose, system: SystemSettings) -> Volume:
    """The scan as the pose shows it, 0 where it comes from outside."""
    if pose.mirrored:
        return mirror(volume)
    matrix, _ = _pose_matrices(pose, volume.shape[0], system)
    return move(volume, matrix)


def out_of_pose(
    prediction: Volume, pose: Pose, system: SystemSettings
) -> tuple[Volume, Volume]:
    """O of a pose back on the scan's grid times the share of each voxel that the pose
    saw, and that share."""
    if pose.mirrored:
        return mirror(prediction), jnp.ones_like(prediction)
    _, inverse = _pose_matrices(pose, prediction.shape[0], system)
    both = jnp.concatenate([prediction, jnp.ones_like(prediction)], axis=-1)
    back, seen = jnp.split(move(both, inverse), 2, axis=-1)
    return back, seen


def _pose_matrices(
    pose: Pose, batch: int, system: SystemSettings
) -> tuple[Matrix, Matrix]:
    """Into a pose that is not mirrored, and back; the same for every scan."""
    turn = math.radians(pose.turn_deg)
    view = jnp.array([0, 0, turn, pose.shift_x, pose.shift_y, 0], jnp.float32)
    return matrices(jnp.broadcast_to(view, (batch, 6)), system)


move = jax.jit(partial(sample, in_plane=True))
"""The sampler for matrices that only turn and shift in plane."""
