"""O averaged over copies of a scan: its mirror image, and small turns and shifts.

A network says a little different things of a head and of the same head moved; the mean
keeps what they agree on (test-time augmentation, Wang et al. 2019). Only motions in
plane are taken: slices are too thick for others.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from adn_jax.config import SystemSettings, TtaSettings
from adn_jax.geometry.rigid import Pose
from adn_jax.geometry.sampler import mirror, sample
from adn_jax.pipeline.adn import AdnParams, apply_adn
from adn_jax.pipeline.align import Alignment
from adn_jax.types import Volume

Predictor = Callable[[AdnParams, Volume, SystemSettings], Volume]
"""From a scan to O."""


class ScanCopy(NamedTuple):
    """How a copy of a scan is moved before the chain sees it."""

    mirrored: bool = False
    turn_deg: float = 0.0
    shift_x: float = 0.0
    """In half-extents."""
    shift_y: float = 0.0
    """In half-extents."""

    def of(self, volume: Volume, system: SystemSettings) -> Volume:
        """The scan moved, 0 where it comes from outside."""
        if self.mirrored:
            return mirror(volume)
        return move(volume, self._alignment(volume.shape[0], system).matrix)

    def undo(self, prediction: Volume, system: SystemSettings) -> tuple[Volume, Volume]:
        """O of the copy back on the scan's grid times the share of each voxel that the
        copy saw, and that share."""
        if self.mirrored:
            return mirror(prediction), jnp.ones_like(prediction)
        inverse = self._alignment(prediction.shape[0], system).inverse
        both = jnp.concatenate([prediction, jnp.ones_like(prediction)], axis=-1)
        back, seen = jnp.split(move(both, inverse), 2, axis=-1)
        return back, seen

    def _alignment(self, batch: int, system: SystemSettings) -> Alignment:
        """From the scan to a copy that is not mirrored; the same for every scan."""
        numbers = (math.radians(self.turn_deg), self.shift_x, self.shift_y)
        angle, x, y = (jnp.full(batch, number, jnp.float32) for number in numbers)
        return Alignment.of(Pose.in_plane(angle, x, y), system)


move = jax.jit(partial(sample, in_plane=True))
"""The sampler for matrices that only turn and shift in plane."""


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
    predict: Predictor = predict_scan,
    first: Volume | None = None,
) -> Volume:
    """Mean of O over the scan as it lies and its `further_copies`.

    A copy counts where it saw the scan: turned back, its grid does not reach into every
    corner. The copies go through one compiled chain one after the other, so that memory
    for one is enough; inside another jit each is compiled in its place.

    Args:
        params: parameters of the chain.
        volume: I.
        system: the chain.
        tta: which copies; without any, O is what it was.
        predict: runs the chain.
        first: O of the scan as it lies, where it is known already.
    """
    total = predict(params, volume, system) if first is None else first
    weight = jnp.ones_like(total)
    for copy in further_copies(tta):
        moved = predict(params, copy.of(volume, system), system)
        prediction, seen = copy.undo(moved, system)
        total, weight = total + prediction, weight + seen
    return total / weight


def further_copies(settings: TtaSettings) -> tuple[ScanCopy, ...]:
    """The copies beside the scan as it lies; always the same ones.

    Turns come in pairs of + and - at equal steps up to the largest, shifts go evenly
    round the circle, so that for an even number both have mean 0.
    """
    count = settings.copies
    pairs = (count + 1) // 2
    moved = (
        ScanCopy(
            turn_deg=(-1) ** index * settings.turn_deg * (index // 2 + 1) / pairs,
            shift_x=settings.shift * math.cos(2 * math.pi * index / count),
            shift_y=settings.shift * math.sin(2 * math.pi * index / count),
        )
        for index in range(count)
    )
    return (*[ScanCopy(mirrored=True)] * settings.mirrored, *moved)
