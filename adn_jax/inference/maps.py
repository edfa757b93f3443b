"""The maps of one case as NumPy arrays, for scores, figures and files."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from adn_jax.metrics.alignment import Plane
from adn_jax.metrics.overlap import Mask, Spacing

Map = Float[np.ndarray, "z y x"]


@dataclass(frozen=True)
class CaseMaps:
    """Every map of one case (letters: `adn_jax.types`).

    `volume`, `prediction` and `lesion` are on I's grid, the rest on X's. The planes
    are the estimated mid-sagittal plane in I, at the end and after T alone; None where
    the recipe does not look for one, or found none (`midline_missed`). Maps of D are
    None where the recipe has no D.
    """

    name: str
    spacing_mm: Spacing
    window_hu: tuple[float, float]
    threshold: float
    volume: Map
    prediction: Map
    aligned: Map
    asymmetry: Map
    aligned_prediction: Map
    plane: Plane | None = None
    first_plane: Plane | None = None
    midline_missed: bool = False
    """Whether a mid-line was sought and none found."""
    knows_sides: bool = True
    """Whether X's right is the patient's right for sure."""
    midline_flags: tuple[str, ...] = ()
    """What deserves a look about the mid-line, a sentence each."""
    pathological: Map | None = None
    anatomical: Map | None = None
    salient: Map | None = None
    compensated: Map | None = None
    lesion: Mask | None = None
    aligned_lesion: Mask | None = None
    aligned_truth: Mask | None = None
    """Where the infarct darkened the scan (phantoms), on X's grid."""

    @property
    def predicted(self) -> Mask:
        """Infarct mask on I's grid."""
        return self.prediction >= self.threshold

    @property
    def aligned_predicted(self) -> Mask:
        """Infarct mask on X's grid."""
        return self.aligned_prediction >= self.threshold
