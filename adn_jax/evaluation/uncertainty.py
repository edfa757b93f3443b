"""How well uncertainty tells the errors of a prediction."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from adn_jax.inference.maps import CaseMaps, LesionUncertainty, Uncertainty
from adn_jax.metrics.calibration import near_lesion
from adn_jax.metrics.disentanglement import auroc
from adn_jax.metrics.overlap import Mask


@dataclass(frozen=True)
class CaseUncertainty:
    """How well uncertainty tells errors in one labelled case; NaN where not defined."""

    entropy_right: float
    """Mean uncertainty of rightly called voxels near a lesion, in bits."""
    entropy_wrong: float
    """The same of wrongly called ones."""
    error_auroc: float
    """Chance that a wrong voxel near a lesion is more uncertain than a right one."""
    lesions: tuple[LesionUncertainty, ...]
    """The predicted lesions, the largest first."""

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "CaseUncertainty":
        """From the values of `dataclasses.asdict`."""
        lesions = tuple(LesionUncertainty(**lesion) for lesion in content["lesions"])
        fields: dict[str, Any] = {**content, "lesions": lesions}
        return cls(**fields)


def score_uncertainty(
    maps: CaseMaps, uncertainty: Uncertainty, lesion: Mask, brain: Mask
) -> CaseUncertainty:
    """How well the uncertainty of a labelled case tells its errors.

    Voxels count where the brain is near a lesion (`metrics.calibration.near_lesion`).
    """
    near = near_lesion(maps.prediction, lesion) & brain
    entropy, wrong = uncertainty.entropy[near], (maps.predicted != lesion)[near]
    return CaseUncertainty(
        entropy_right=mean_or_nan(entropy[~wrong]),
        entropy_wrong=mean_or_nan(entropy[wrong]),
        error_auroc=auroc(entropy, wrong),
        lesions=uncertainty.lesions(maps.predicted, maps.spacing_mm, lesion),
    )


def mean_or_nan(values: Float[np.ndarray, " n"]) -> float:
    """The mean; NaN of no values."""
    return float(values.mean(dtype=np.float64)) if values.size else float("nan")
