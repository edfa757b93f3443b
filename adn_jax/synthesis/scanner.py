"""What the scanner and the preparation make of a head: artefacts, blur, noise, mask."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from adn_jax.config.stream import StreamSettings
from adn_jax.phantom.head import ramp
from adn_jax.synthesis.fields import (
    Maps,
    ScanGrid,
    between,
    grid_noise,
    materialise,
    uniform,
    voxels_apart,
    white_noise,
)
from adn_jax.synthesis.shape import ScanPose
from adn_jax.synthesis.tissue import Anatomy
from adn_jax.types import Key

BAND_MM = np.array([-24.0, -32.0], np.float32)
"""Height of pons and petrous bones in the template: y, z."""

STREAKS = 4

SULCUS_MM = 4.5
"""Distance of the values of the field between whose signs own sulci lie."""

SHADING_MM = 70.0
"""Distance from the head's middle at which shading has its stated size."""

MOST_GHOST = 0.4
"""Share of doubled contours at most."""

BRIGHTEST_SOFT_HU = 90.0
"""What is brighter is part bone, which the preparation leaves out of the mean."""


class Scanner(NamedTuple):
    """One scanner and its protocol."""

    slice_mm: Float[Array, ""]
    phase: Float[Array, ""]
    """Where the first slice lies, in slices."""
    sharpness: Float[Array, ""]
    noise_hu: Float[Array, ""]
    """Before the kernel and the slices."""
    offset_hu: Float[Array, ""]
    gain: Float[Array, ""]
    ghost: Float[Array, ""]
    """Share of doubled contours."""


def draw_scanner(key: Key, settings: StreamSettings) -> Scanner:
    """Draw the scanner of one head."""
    drawn = jax.random.uniform(key, (8,))
    return Scanner(
        slice_mm=between(drawn[0], settings.slice_mm),
        phase=drawn[1],
        sharpness=between(drawn[2], settings.sharpness),
        noise_hu=between(drawn[3] ** 2, settings.noise_hu),
        offset_hu=between(drawn[4], settings.offset_hu),
        gain=between(drawn[5], settings.gain),
        ghost=(drawn[6] < settings.motion) * MOST_GHOST * drawn[7],
    )


def slice_jitter(
    key: Key, grid: ScanGrid, ghost: Float[Array, ""], settings: StreamSettings
) -> Float[Array, "3 z 1 1"]:
    """Displacement of each slice of a head that moved, in mm."""
    away = settings.motion_mm * white_noise(key, (3, len(grid.z), 1, 1))
    return jnp.where(ghost > 0, away, 0.0)


def artefacts(
    key: Key,
    anatomy: Anatomy,
    grid: ScanGrid,
    scanner: Scanner,
    settings: StreamSettings,
) -> Maps:
    """CT numbers that scanner and bone add and take: hardened beams, streaks, a slope
    across the head, part bone."""
    scalar_key, streak_key, slope_key = jax.random.split(key, 3)
    drawn = jax.random.uniform(scalar_key, (5,))
    points = anatomy.points
    low = jnp.exp(-(((points[2] - BAND_MM[1]) / 10) ** 2))
    band = low * jnp.exp(-(((points[1] - BAND_MM[0]) / 9) ** 2))
    dark = between(drawn[0], settings.hardening_hu) * band
    streaks = between(drawn[1], settings.streak_hu) * low * _streaks(streak_key, grid)
    depth = jnp.maximum(anatomy.depth, 0.0)
    cupping = between(drawn[2], settings.cupping_hu) * jnp.exp(-depth / 12)
    bone = between(drawn[3], settings.bone_hu)
    # in thick slices the vertex and the base lie aslant
    slant = jnp.clip((points[2] - 30) / 45, 0.0, 1.0) ** 2 + 0.35 * anatomy.base
    reach = between(drawn[4], settings.bone_mm) + 0.45 * scanner.slice_mm * slant
    part = jnp.exp(-depth / reach) * jnp.clip(0.7 + 0.5 * anatomy.rim, 0.0, 2.0)
    slope = settings.shading_hu * jax.random.normal(slope_key, (3,))
    shading = sum(slope[axis] * points[axis] for axis in range(3)) / SHADING_MM
    return streaks + cupping + shading + bone * part * (1 + 0.5 * anatomy.base) - dark


def _streaks(key: Key, grid: ScanGrid) -> Float[Array, "1 y x"]:
    """Parallel bands in a few directions, -1 to 1."""
    drawn = jax.random.uniform(key, (3, STREAKS))
    turn = between(drawn[0], (-0.6, 0.6))
    wave = between(drawn[1], (7.0, 30.0))
    phase = 2 * np.pi * drawn[2]
    y, x = grid.y[:, None], grid.x[None, :]
    bands = [
        jnp.cos(
            2 * np.pi * (jnp.cos(turn[one]) * y + jnp.sin(turn[one]) * x) / wave[one]
            + phase[one]
        )
        for one in range(STREAKS)
    ]
    return jnp.stack(bands).mean(0, keepdims=True)


def slice_mix(grid: ScanGrid, scanner: Scanner) -> Float[Array, "z z"]:
    """Share of each of the grid's slices in what is seen at each.

    Slices of the scanner average the head over their thickness; the preparation
    interpolates between them. Those thinner than the grid's leave it as it is.
    """
    z = jnp.asarray(grid.z)
    spacing = float(grid.z[1] - grid.z[0])
    thick = jnp.maximum(scanner.slice_mm, spacing)
    at = (z - z[0]) / thick + scanner.phase
    lower = jnp.floor(at)
    share = at - lower
    mixed = jnp.zeros((len(grid.z), len(grid.z)))
    for step, weight in ((0, 1 - share), (1, share)):
        middle = (lower + step - scanner.phase) * thick + z[0]
        middle = jnp.clip(middle, z[0], z[-1])  # beyond the grid the edge goes on
        # overlap of a slice with each slice of the grid
        overlap = jnp.clip(
            (thick + spacing) / 2 - jnp.abs(middle[:, None] - z), 0.0, spacing
        )
        total = jnp.maximum(overlap.sum(1, keepdims=True), 1e-3)
        mixed += weight[:, None] * overlap / total
    thin = scanner.slice_mm <= spacing
    return jnp.where(thin, jnp.eye(len(grid.z)), mixed)


def through_slices(mix: Float[Array, "z z"], maps: Float[Array, "c z y x"]) -> Array:
    """Maps as slices of that thickness show them."""
    return jnp.einsum("wz,czyx->cwyx", mix, maps, precision="highest")


def through_kernel(values: Maps, scanner: Scanner, real: Bool[Array, ""]) -> Maps:
    """A map as kernel and motion show it; of a sum of maps it is the sum."""
    values = values + scanner.sharpness * (values - _blur(values))
    values = materialise(values, real)
    doubled = (jnp.roll(values, 1, 2) + jnp.roll(values, -1, 2)) / 2
    return values + scanner.ghost * (doubled - values)


def expose(
    key: Key,
    hu: Maps,
    grid: ScanGrid,
    scanner: Scanner,
    real: Bool[Array, ""],
) -> Maps:
    """The CT numbers as this scanner shows them: kernel, motion, noise, error."""
    hu = through_kernel(hu, scanner, real)
    white = materialise(white_noise(key, hu.shape), real)
    smooth = jnp.clip(0.5 - scanner.sharpness, 0.0, 1.0)
    noise = white + smooth * (_blur(white) - white)
    hu = through_slices(
        slice_mix(grid, scanner), (hu + scanner.noise_hu * noise)[None]
    )[0]
    return jnp.minimum(scanner.gain * hu + scanner.offset_hu, BRIGHTEST_SOFT_HU)


def _blur(values: Maps) -> Maps:
    """1 2 1 along y and x."""
    for axis in (1, 2):
        ahead, behind = jnp.roll(values, 1, axis), jnp.roll(values, -1, axis)
        values = 0.5 * values + 0.25 * (ahead + behind)
    return values


def brain_mask(
    key: Key,
    anatomy: Anatomy,
    pose: ScanPose,
    grid: ScanGrid,
    settings: StreamSettings,
) -> Bool[Array, "z y x"]:
    """The voxels that a skull strip takes for brain, within the field of view."""
    reach = uniform(key, settings.mask_mm)
    inside = anatomy.depth + reach + 0.5 * anatomy.rim > 0
    z = jnp.asarray(grid.z)[:, None, None]
    return inside & (z >= pose.ends_mm[0]) & (z <= pose.ends_mm[1])


def own_sulci(key: Key, grid: ScanGrid) -> Maps:
    """Sheets of a head's own sulci, 0 to 1: where a field changes its sign."""
    factor = voxels_apart(SULCUS_MM, float(grid.half_mm[0]))
    field = grid_noise(key, (len(grid.z), len(grid.y), len(grid.x)), factor)
    return ramp(0.25 - jnp.abs(field), 0.4)
