"""How well uncertainty tells the errors of a prediction."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from adn_jax.inference.maps import CaseMaps, Doubt, LesionDoubt
from adn_jax.metrics.calibration import near_lesion
from adn_jax.metrics.disentanglement import auroc
from adn_jax.metrics.overlap import Mask


@dataclass(frozen=True)
class CaseDoubt:
    """How well doubt tells errors in one labelled case; NaN where not defined."""

    entropy_right: float
    """Mean doubt of rightly called voxels near a lesion, in bits."""
    entropy_wrong: float
    """The same of wrongly called ones."""
    error_auroc: float
    """Chance that a wrong voxel near a lesion is more doubtful than a right one."""
    lesions: tuple[LesionDoubt, ...]
    """The predicted lesions, the largest first."""

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "CaseDoubt":
        """From the values of `dataclasses.asdict`."""
        lesions = tuple(LesionDoubt(**lesion) for lesion in content["lesions"])
        fields: dict[str, Any] = {**content, "lesions": lesions}
        return cls(**fields)


def score_doubt(maps: CaseMaps, doubt: Doubt, lesion: Mask, brain: Mask) -> CaseDoubt:
    """How well the doubt of a labelled case tells its errors.

    Voxels count where the brain is near a lesion (`metrics.calibration.near_lesion`).
    """
    near = near_lesion(maps.prediction, lesion) & brain
    entropy, wrong = doubt.entropy[near], (maps.predicted != lesion)[near]
    return CaseDoubt(
        entropy_right=mean_or_nan(entropy[~wrong]),
        entropy_wrong=mean_or_nan(entropy[wrong]),
        error_auroc=auroc(entropy, wrong),
        lesions=doubt.lesions(maps.predicted, maps.spacing_mm, lesion),
    )


def mean_or_nan(values: Float[np.ndarray, " n"]) -> float:
    """The mean; NaN of no values."""
    return float(values.mean(dtype=np.float64)) if values.size else float("nan")
