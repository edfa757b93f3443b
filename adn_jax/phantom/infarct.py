"""Infarcts: how many, how large, where, and how dark."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation
from scipy.special import ndtri

from adn_jax.phantom.head import (
    GridPoints,
    HeadMap,
    SamplePoints,
    evaluate_lattice,
    knots,
    points_in_head,
    ramp,
    random_lattice,
    refine,
)
from adn_jax.phantom.settings import Difficulty

MID_PLANE_GAP_MM = 2.0
"""Beside the mid-sagittal plane the infarct weight rises from 0 to 1 over this."""

WOBBLE_MM = 24.0
"""Wave length of the irregular border."""

WOBBLE_SHARE = 0.25
"""Depth of its waves as a share of the radius; deeper ones tear infarcts apart."""


@dataclass(frozen=True)
class Infarct:
    """One infarct as it was asked for."""

    side: str
    volume_ml: float
    loss_hu: float
    centre_mm: tuple[float, float, float]


def draw_total_ml(rng: np.random.Generator, difficulty: Difficulty) -> float:
    """Total infarct volume: log-normal, with its own width below and above the median.

    So the 10th percentile, the median and the 90th percentile are as set. Volumes
    beyond the limits become the limit.
    """
    low, median, high = np.log(difficulty.infarct_quantiles_ml)
    normal = rng.standard_normal()
    width = (high - median if normal > 0 else median - low) / ndtri(0.9)
    volume = np.exp(median + width * normal)
    return float(np.clip(volume, *difficulty.infarct_limits_ml))


def draw_sizes_ml(
    rng: np.random.Generator, difficulty: Difficulty
) -> tuple[float, ...]:
    """Volumes of all infarcts of one head, the largest first."""
    count = 1 + rng.choice(len(difficulty.infarcts), p=difficulty.infarcts)
    shares = np.sort(rng.dirichlet(np.full(count, 1.5)))[::-1]
    return tuple(float(part) for part in shares * draw_total_ml(rng, difficulty))


def blob_distance(
    rng: np.random.Generator,
    points: Float[np.ndarray, "3 n"],
    centre: Float[np.ndarray, "3"],
) -> Float[np.ndarray, " n"]:
    """Distance from `centre` in mm, stretched along random axes (volume is kept)."""
    ratios = np.exp(rng.normal(0.0, 0.3, 3))
    ratios /= np.cbrt(ratios.prod())
    axes = Rotation.random(random_state=rng).as_matrix() * ratios[:, None]
    away = axes.astype(np.float32) @ (points - centre[:, None])
    return np.sqrt((away**2).sum(0))


def add_infarcts(
    rng: np.random.Generator,
    tissue: HeadMap,
    pose: Float[np.ndarray, "4 4"],
    grid: SamplePoints,
    difficulty: Difficulty,
) -> tuple[HeadMap, HeadMap, tuple[Infarct, ...]]:
    """Draw the infarcts of a head into its `tissue` (grey and white matter, 0 to 1).

    Each grows outward from its centre through the tissue of one side until it has its
    volume. Returns the infarct weight (1 in the core, 0.5 at the border), the loss of
    CT number in HU, and the infarcts.
    """
    position = points_in_head(grid.z, grid.y, grid.x, pose)
    coarse = points_in_head(knots(grid.z), knots(grid.y), knots(grid.x), pose)
    weight, loss = np.zeros_like(tissue), np.zeros_like(tissue)
    infarcts: list[Infarct] = []
    side = int(rng.choice((-1, 1)))
    for number, volume_ml in enumerate(draw_sizes_ml(rng, difficulty)):
        changes = number > 0 and rng.random() < difficulty.other_side
        here = -side if changes else side
        spread, centre = grow(
            rng,
            volume_ml,
            (tissue > 0.5) & (weight < 0.05),
            position,
            coarse,
            grid,
            here,
        )
        within = ramp(spread, difficulty.infarct_rim_mm) * np.minimum(1, 2 * tissue)
        within *= np.clip(here * position[0] / MID_PLANE_GAP_MM, 0, 1)
        loss_hu = rng.uniform(*difficulty.infarct_loss_hu)
        weight = np.maximum(weight, within)
        loss = np.maximum(loss, loss_hu * within * tissue)
        x, y, z = map(float, centre)
        infarcts.append(
            Infarct(
                side="right" if here > 0 else "left",
                volume_ml=volume_ml,
                loss_hu=loss_hu,
                centre_mm=(x, y, z),
            )
        )
    return weight, loss, tuple(infarcts)


def grow(
    rng: np.random.Generator,
    volume_ml: float,
    free: np.ndarray,
    position: GridPoints,
    coarse: Float[np.ndarray, "3 k l m"],
    grid: SamplePoints,
    side: int,
) -> tuple[HeadMap, Float[np.ndarray, "3"]]:
    """Grow one irregular blob in the `free` tissue of a side (-1 left, 1 right).

    Returns how far each point lies inside its border (mm, negative outside), and the
    centre. A blob takes at most 60 % of the side.
    """
    free = free & (side * position[0] > MID_PLANE_GAP_MM / 2)
    candidates = position[:, free]
    centre = candidates[:, rng.integers(candidates.shape[1])]
    radius = np.cbrt(3000.0 * volume_ml / (4 * np.pi))
    wobble = evaluate_lattice(random_lattice(rng, WOBBLE_MM), coarse, WOBBLE_MM)
    distance = blob_distance(rng, position.reshape(3, -1), centre)
    distance = distance.reshape(free.shape) + WOBBLE_SHARE * radius * refine(
        wobble, grid
    )
    sample_ml = np.prod([axis[1] - axis[0] for axis in (grid.z, grid.y, grid.x)]) / 1000
    count = max(1, min(round(volume_ml / sample_ml), int(0.6 * free.sum())))
    return np.partition(distance[free], count - 1)[count - 1] - distance, centre
