"""The head that every phantom is a deformation of: tissue, and distance to surfaces."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

TEMPLATE_STEP = 3
"""Distances are kept on every third voxel of the template: they are smooth."""

SKULL_BASE_MM = -15.0


@dataclass(frozen=True)
class Template:
    """ICBM 152 tissue maps (1 mm) and distances to brain and head (3 mm), as x y z.

    Each pair of arrays begins at its origin (mm). Distances are negative inside.
    """

    grey: Float[np.ndarray, "x y z"]
    white: Float[np.ndarray, "x y z"]
    origin: Float[np.ndarray, "3"]
    brain_distance: Float[np.ndarray, "u v w"]
    head_distance: Float[np.ndarray, "u v w"]
    distance_origin: Float[np.ndarray, "3"]


def distance_to_surface(mask: Bool[np.ndarray, "x y z"], voxel_mm: float) -> np.ndarray:
    """Distance in mm to the surface of `mask`, negative inside, slightly smoothed."""
    outside = ndimage.distance_transform_edt(~mask)
    inside = ndimage.distance_transform_edt(mask)
    return ndimage.gaussian_filter(outside - inside, 1.0).astype(np.float32) * voxel_mm


def close_gaps(mask: Bool[np.ndarray, "x y z"], radius: float) -> np.ndarray:
    """Morphological closing with a ball of `radius` voxels."""
    dilated = ndimage.distance_transform_edt(~mask) <= radius
    return ndimage.distance_transform_edt(dilated) > radius


@lru_cache(maxsize=1)
def load_template() -> Template:
    """Read the symmetric ICBM 152 2009a maps carried by nilearn; once a process."""
    from nilearn import datasets

    grey = datasets.load_mni152_gm_template(resolution=1)
    white = datasets.load_mni152_wm_template(resolution=1)
    mask = datasets.load_mni152_brain_mask(resolution=1)
    origin = np.asarray(grey.affine[:3, 3], np.float64)
    start = int(-origin[0]) % TEMPLATE_STEP  # keeps x = 0 on a sample
    brain = np.asarray(mask.dataobj)[(slice(start, None, TEMPLATE_STEP),) * 3] > 0
    pad = 12
    brain = np.pad(brain, ((pad, pad), (pad, pad), (0, pad)))
    # Holes in an axial slice are cisterns, free of bone.
    brain = ndimage.binary_fill_holes(brain, np.ones((3, 3, 1)))
    # The brain stem goes on below the template, so that the skull stays open there.
    brain = np.pad(brain, ((0, 0), (0, 0), (pad, 0)), mode="edge")
    distance_origin = origin + start - TEMPLATE_STEP * pad
    hull = close_gaps(brain, 30.0 / TEMPLATE_STEP)
    base = int((SKULL_BASE_MM - distance_origin[2]) / TEMPLATE_STEP)
    hull[:, :, :base] |= hull[:, :, base : base + 1]
    return Template(
        grey=np.asarray(grey.dataobj, np.float32),
        white=np.asarray(white.dataobj, np.float32),
        origin=origin,
        brain_distance=distance_to_surface(
            close_gaps(brain, 7.5 / TEMPLATE_STEP), float(TEMPLATE_STEP)
        ),
        head_distance=distance_to_surface(hull, float(TEMPLATE_STEP)),
        distance_origin=distance_origin,
    )


def sample_template(
    values: Float[np.ndarray, "i j k"],
    origin: Float[np.ndarray, "3"],
    step: float,
    points: Float[np.ndarray, "3 *shape"],
) -> Float[np.ndarray, "*shape"]:
    """Trilinear values of a template map at points in mm; its edge goes on outside."""
    first = origin.astype(points.dtype).reshape(3, *[1] * (points.ndim - 1))
    index = (points - first) / step
    return ndimage.map_coordinates(values, index, order=1, mode="nearest")
