"""Hausdorff distances between two surfaces in mm, on grids of any voxel size.

The 95th percentile is taken in one of two ways, which differ by millimetres on the same
masks, so a figure is only comparable where its convention is named:

- `directed` (the default, as MONAI's `compute_hausdorff_distance(percentile=95)`): the
  larger of the two directed 95th percentiles;
- `pooled` (as medpy's `hd95`): the 95th percentile of both directions' distances
  together.
"""

from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float
from scipy import ndimage
from scipy.spatial import KDTree

from adn_jax.metrics.overlap import Mask, Spacing

Convention = Literal["directed", "pooled"]
CONVENTIONS: tuple[Convention, ...] = get_args(Convention)
PERCENTILE = 95.0


class SurfaceDistances(NamedTuple):
    """Distance in mm of each surface voxel to the nearest one of the other surface."""

    from_prediction: Float[np.ndarray, " m"]
    from_lesion: Float[np.ndarray, " n"]


def surface_points_mm(mask: Mask, spacing_mm: Spacing) -> Float[np.ndarray, "n 3"]:
    """Centres of the surface voxels, (z, y, x) in mm from the first voxel.

    A voxel is on the surface if one of its six face neighbours is outside the mask or
    outside the image.
    """
    box = ndimage.find_objects(mask.astype(np.uint8))
    if not box:
        return np.zeros((0, 3))
    inside = mask[box[0]]
    edge = inside & ~ndimage.binary_erosion(inside)
    corner = np.array([part.start for part in box[0]])
    return (np.argwhere(edge) + corner) * np.asarray(spacing_mm, float)


def surface_distances(
    prediction: Mask, lesion: Mask, spacing_mm: Spacing
) -> SurfaceDistances:
    """Distances between the surfaces of two masks, in both directions.

    Raises:
        ValueError: one of the masks is empty; a distance is not defined then.
    """
    ours = surface_points_mm(prediction, spacing_mm)
    truth = surface_points_mm(lesion, spacing_mm)
    if not ours.size or not truth.size:
        raise ValueError("surface distances need two masks that are not empty")
    return SurfaceDistances(
        from_prediction=KDTree(truth).query(ours)[0],
        from_lesion=KDTree(ours).query(truth)[0],
    )


def hd95(distances: SurfaceDistances, convention: Convention = "directed") -> float:
    """95th percentile of the Hausdorff distance in mm (conventions: see the module)."""
    if convention == "pooled":
        return float(np.percentile(np.concatenate(distances), PERCENTILE))
    return float(max(np.percentile(side, PERCENTILE) for side in distances))
