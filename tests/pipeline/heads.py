"""Synthetic heads for the pipeline tests: smooth, symmetric, turned by known poses."""

import jax.numpy as jnp
import numpy as np

from adn_jax.config import (
    AlignmentNetSettings,
    AlignmentSettings,
    PrepareSettings,
    Recipe,
    SystemSettings,
    UNetSettings,
)
from adn_jax.geometry.rigid import Pose
from adn_jax.geometry.sampler import sample
from adn_jax.pipeline.align import Alignment

SHAPE = (8, 32, 32)


def small_recipe(**alignment) -> Recipe:
    """Tiny networks on a small grid."""
    return Recipe(
        name="small",
        system=SystemSettings(
            prepare=PrepareSettings(shape=SHAPE, spacing_mm=(10.0, 6.0, 6.0)),
            alignment=AlignmentSettings(**alignment),
            alignment_net=AlignmentNetSettings(widths=(8, 8), identity_start=True),
            disentangle_net=UNetSettings(widths=(8, 16), dropout=0.2),
            segment_net=UNetSettings(widths=(8, 16), dropout=0.2),
        ),
        tissue_net=UNetSettings(widths=(8, 16), outputs=5),
    )


def symmetric_head(shape=SHAPE, taper=0.0) -> np.ndarray:
    """An ellipsoid with a pair of ventricles, `1 z y x 1`, symmetric in x.

    With `taper` it grows narrower to the front, as brains do.
    """
    z, y, x = np.meshgrid(
        *((2 * np.arange(n) + 1) / n - 1 for n in shape), indexing="ij"
    )

    def blob(centre_x, centre_y, width_x, width_y):
        return np.exp(
            -(((x - centre_x) / width_x) ** 2 + ((y - centre_y) / width_y) ** 2)
        )

    radius = (z / 1.2) ** 2 + (y / 0.78) ** 2 + (x / 0.6 / (1 - taper * y)) ** 2
    head = 0.5 / (1 + np.exp((radius - 1) * 12)) * (radius < 1.3)
    ventricles = blob(0.15, 0.2, 0.08, 0.25) + blob(-0.15, 0.2, 0.08, 0.25)
    return (head * (1 - 0.6 * ventricles)).astype(np.float32)[None, ..., None]


def turned_heads(degrees, shifts, recipe: Recipe, taper=0.0) -> np.ndarray:
    """I such that the pose (rotation, shift along x) brings it back to symmetric."""
    angle, shift = jnp.deg2rad(jnp.asarray(degrees)), jnp.asarray(shifts)
    pose = Pose.in_plane(angle, shift, 0 * shift)
    head = jnp.repeat(jnp.asarray(symmetric_head(taper=taper)), len(degrees), axis=0)
    return sample(head, Alignment.of(pose, recipe.system).inverse)
