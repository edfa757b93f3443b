"""How much of a lesion a prediction covers: voxels, volumes, and whole lesions."""

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Bool, Float, Num
from scipy import ndimage
from scipy.spatial import KDTree

Mask = Bool[np.ndarray, "z y x"]

Spacing = tuple[float, float, float]
"""Voxel size in mm, (z, y, x)."""

VoxelSteps = Spacing | Float[np.ndarray, "3 3"]
"""Voxel size in mm; of a grid whose axes lean, as a tilted gantry leaves it, the step
in mm to the next voxel along z, y and x, a column each."""

TOUCHING = np.ones((3, 3, 3), bool)
"""26-connectivity: voxels that share a corner belong to one lesion."""

Convention = Literal["directed", "pooled"]

CONVENTIONS: tuple[Convention, ...] = get_args(Convention)

PERCENTILE = 95.0


def dice(prediction: Mask, lesion: Mask) -> float:
    """Dice coefficient 2 |B and G| / (|B| + |G|); NaN if both are empty.

    >>> lesion = np.zeros((4, 8, 8), bool)
    >>> lesion[1:3, 2:6, 2:6] = True
    >>> dice(np.roll(lesion, 1, axis=2), lesion)
    0.75
    """
    total = np.count_nonzero(prediction) + np.count_nonzero(lesion)
    if total == 0:
        return float("nan")
    return 2.0 * int(np.count_nonzero(prediction & lesion)) / int(total)


def voxel_ml(spacing_mm: VoxelSteps) -> float:
    """Volume of a voxel in millilitres."""
    if isinstance(spacing_mm, tuple):
        return float(np.prod(spacing_mm)) / 1000.0
    return float(abs(np.linalg.det(spacing_mm))) / 1000.0


def volume_ml(mask: Mask, spacing_mm: VoxelSteps) -> float:
    """Volume of a mask in millilitres."""
    return int(np.count_nonzero(mask)) * voxel_ml(spacing_mm)


def _to_mm(
    index: Num[np.ndarray, "*n 3"], spacing_mm: VoxelSteps
) -> Float[np.ndarray, "*n 3"]:
    """Places of voxels (z, y, x) in mm from the first voxel, in some upright frame."""
    if isinstance(spacing_mm, tuple):
        return index * np.asarray(spacing_mm, float)
    return index @ spacing_mm.T


def diagonal_mm(shape: tuple[int, ...], spacing_mm: VoxelSteps) -> float:
    """Length of the diagonal of a grid."""
    return float(np.linalg.norm(_to_mm(np.array(shape), spacing_mm)))


@dataclass(frozen=True)
class LesionCounts:
    """Whole lesions, as 26-connected components; any shared voxel counts as a hit."""

    true: int
    """Components of the label."""
    found: int
    """Components of the label that a predicted voxel touches."""
    predicted: int
    """Components of the prediction."""
    right: int
    """Components of the prediction that touch the label."""

    @property
    def recall(self) -> float:
        """Found share of the true lesions; NaN if there are none."""
        return self.found / self.true if self.true else float("nan")

    @property
    def precision(self) -> float:
        """Right share of the predicted lesions; NaN if there are none."""
        return self.right / self.predicted if self.predicted else float("nan")

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 0 where only one side has lesions,
        NaN if neither has."""
        if not self.true and not self.predicted:
            return float("nan")
        if not self.found:
            return 0.0
        return 2.0 * self.precision * self.recall / (self.precision + self.recall)


def count_lesions(prediction: Mask, lesion: Mask) -> LesionCounts:
    """Count the lesions on both sides and those that overlap by at least one voxel.

    >>> lesion = np.zeros((4, 8, 8), bool)
    >>> lesion[1, 2:4, 2:4] = lesion[3, 6, 6] = True
    >>> counts = count_lesions(lesion & (np.arange(8) < 5), lesion)
    >>> counts.recall, counts.precision
    (0.5, 1.0)
    """
    true, found = _components_touching(lesion, prediction)
    predicted, right = _components_touching(prediction, lesion)
    return LesionCounts(true=true, found=found, predicted=predicted, right=right)


def _components_touching(mask: Mask, other: Mask) -> tuple[int, int]:
    """Number of components of `mask`, and of those that share a voxel with `other`."""
    labels, count = ndimage.label(mask, structure=TOUCHING)
    return int(count), np.unique(labels[mask & other]).size


class SurfaceDistances(NamedTuple):
    """Distance in mm of each surface voxel to the nearest one of the other surface."""

    from_prediction: Float[np.ndarray, " m"]
    from_lesion: Float[np.ndarray, " n"]


def surface_points_mm(mask: Mask, spacing_mm: VoxelSteps) -> Float[np.ndarray, "n 3"]:
    """Centres of the surface voxels, in mm from the first voxel.

    A voxel is on the surface if one of its six face neighbours is outside the mask or
    outside the image.
    """
    box = ndimage.find_objects(mask.astype(np.uint8))
    if not box:
        return np.zeros((0, 3))
    inside = mask[box[0]]
    edge = inside & ~ndimage.binary_erosion(inside)
    corner = np.array([part.start for part in box[0]])
    return _to_mm(np.argwhere(edge) + corner, spacing_mm)


def surface_distances(
    prediction: Mask, lesion: Mask, spacing_mm: VoxelSteps
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
    """95th percentile of the Hausdorff distance in mm.

    "directed" is the larger one of the percentiles of the two directions, "pooled" the
    percentile of both together.

    >>> lesion = np.zeros((4, 8, 8), bool)
    >>> lesion[1:3, 2:6, 2:6] = True
    >>> hd95(surface_distances(np.roll(lesion, 1, axis=2), lesion, (6.0, 1.0, 1.5)))
    1.5
    """
    if convention == "pooled":
        return float(np.percentile(np.concatenate(distances), PERCENTILE))
    return float(max(np.percentile(side, PERCENTILE) for side in distances))
