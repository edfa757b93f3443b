"""Prepared cases on a device, and their augmentation, as `adn_jax.data.augment`."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from adn_jax.benchmarks.job import draw_cases
from adn_jax.config import AugmentSettings, Recipe
from benchmarks.torch_reference.chain import (
    Channels,
    Map,
    Pose,
    mirror,
    rigid_matrices,
    sample_in_plane,
)


@dataclass(frozen=True)
class Cases:
    """A batch: the scans and the labels that its use needs, if any.

    Lesion and tissue (0 to 3) are channels of one array: they are warped at once.
    """

    volume: Map
    labels: Channels | None


@dataclass(frozen=True)
class Draws:
    """Exponent, whether to mirror, and the motion in plane of every case."""

    gamma: Float[Tensor, " b"]
    flip: Bool[Tensor, " b"]
    motion: Pose


def made_up_cases(
    recipe: Recipe, batch: int, device: str, labels: tuple[str, ...]
) -> Cases:
    """The cases that our side gets, too, with the named labels."""
    arrays = draw_cases(recipe.system.prepare.shape, batch)
    arrays["lesion"] = arrays["lesion"] / 255

    def place(*names: str) -> Tensor:
        values = np.stack([arrays[name] for name in names], axis=1)
        return torch.from_numpy(values.astype(np.float32)).to(device)

    return Cases(place("volume"), place(*labels) if labels else None)


def draw(cases: Cases, settings: AugmentSettings) -> Draws:
    """Random draws for every case."""
    size, device = len(cases.volume), cases.volume.device

    def uniform(limit: float, *shape: int) -> Tensor:
        return limit * (2 * torch.rand(size, *shape, device=device) - 1)

    motion = Pose(*torch.zeros(2, size, 3, device=device))
    motion.rotation[:, 2] = uniform(math.radians(settings.rotation_deg))
    motion.translation[:, :2] = uniform(settings.translation, 2)
    flip = torch.rand(size, device=device) < 0.5
    return Draws(1 + uniform(settings.gamma), flip, motion)


def augment(
    cases: Cases,
    draws: Draws,
    settings: AugmentSettings,
    spacing_mm: tuple[float, float, float],
) -> Cases:
    """Mirror, move in plane and change the contrast, each where the settings ask."""
    volume, labels = cases.volume, cases.labels
    gamma, flip = (d[:, None, None, None, None] for d in (draws.gamma, draws.flip))
    if settings.mirror:
        volume = torch.where(flip, mirror(volume), volume)
    if settings.mirror and labels is not None:
        labels = torch.where(flip, mirror(labels), labels)
    if settings.rotation_deg > 0 or settings.translation > 0:
        matrix, _ = rigid_matrices(draws.motion, volume.shape[2:], spacing_mm)
        volume = sample_in_plane(volume, matrix).clamp_(0, 1)
        if labels is not None:
            labels = sample_in_plane(labels, matrix, "nearest")
    return Cases(volume**gamma if settings.gamma > 0 else volume, labels)


def pose_of_upright(
    draws: Draws,
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
) -> Pose:
    """Pose of each augmented head that lay upright before: the motion undone."""
    _, inverse = rigid_matrices(draws.motion, shape, spacing_mm)
    return Pose(-draws.motion.rotation, inverse[:, :3, 3])
