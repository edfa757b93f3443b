"""Scores of one case: the masks on each grid, the mid-sagittal plane, the asymmetry.

The rule for empty masks is in `_apply_empty_rule` and nowhere else.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

import numpy as np

from adn_jax.evaluation.uncertainty import CaseUncertainty
from adn_jax.io.files import nan_for_none, none_for_nan
from adn_jax.metrics.calibration import Reliability
from adn_jax.metrics.overlap import (
    Mask,
    Spacing,
    count_lesions,
    dice,
    hd95,
    surface_distances,
    volume_ml,
)

EmptyRule = Literal["penalise", "leave_out"]

Empty = Literal["none", "label", "prediction", "both"]

EMPTY_RULES: dict[EmptyRule, str] = {
    "penalise": "Label and prediction both empty: Dice 1, lesion F1 1, HD95 0 mm. One "
    "of them empty: Dice 0, lesion F1 0, HD95 the diagonal of the image.",
    "leave_out": "Label and prediction both empty: left out of Dice, lesion F1 and "
    "HD95. One of them empty: Dice 0, lesion F1 0, left out of HD95.",
}
"""What each rule for empty masks says."""


@dataclass(frozen=True)
class GridScores:
    """Scores of one prediction on one grid; NaN where a score is not defined."""

    dice: float
    hd95_mm: float
    """Larger of the two directed 95th percentiles (MONAI's convention)."""
    hd95_pooled_mm: float
    """95th percentile of both directions' distances together (medpy's convention)."""
    lesion_f1: float
    lesion_precision: float
    lesion_recall: float
    label_ml: float
    predicted_ml: float
    volume_error_ml: float
    """Predicted minus true volume."""
    absolute_volume_error_ml: float
    empty: Empty
    """Which of the two masks is empty."""


SCORES = tuple(item.name for item in fields(GridScores) if item.name != "empty")


def score_masks(
    prediction: Mask, lesion: Mask, spacing_mm: Spacing, rule: EmptyRule = "penalise"
) -> GridScores:
    """Score a predicted mask against a label on the same grid."""
    lesions = count_lesions(prediction, lesion)
    label_ml = volume_ml(lesion, spacing_mm)
    predicted_ml = volume_ml(prediction, spacing_mm)
    empty = _which_is_empty(prediction, lesion)
    directed = pooled = float("nan")
    if empty == "none":
        distances = surface_distances(prediction, lesion, spacing_mm)
        directed, pooled = hd95(distances), hd95(distances, "pooled")
    scores = GridScores(
        dice=dice(prediction, lesion),
        hd95_mm=directed,
        hd95_pooled_mm=pooled,
        lesion_f1=lesions.f1,
        lesion_precision=lesions.precision,
        lesion_recall=lesions.recall,
        label_ml=label_ml,
        predicted_ml=predicted_ml,
        volume_error_ml=predicted_ml - label_ml,
        absolute_volume_error_ml=abs(predicted_ml - label_ml),
        empty=empty,
    )
    return _apply_empty_rule(scores, rule, _diagonal_mm(lesion.shape, spacing_mm))


def _apply_empty_rule(
    scores: GridScores, rule: EmptyRule, diagonal: float
) -> GridScores:
    """Fill in what is not defined where a mask is empty (`EMPTY_RULES`)."""
    if rule == "leave_out" or scores.empty == "none":
        return scores
    if scores.empty == "both":
        return replace(scores, dice=1.0, lesion_f1=1.0, hd95_mm=0.0, hd95_pooled_mm=0.0)
    return replace(scores, hd95_mm=diagonal, hd95_pooled_mm=diagonal)


def _which_is_empty(prediction: Mask, lesion: Mask) -> Empty:
    """Which of the two masks has no voxel."""
    if lesion.any():
        return "none" if prediction.any() else "prediction"
    return "label" if prediction.any() else "both"


def _diagonal_mm(shape_zyx: tuple[int, ...], spacing_mm: Spacing) -> float:
    """Length of the image's diagonal."""
    return float(np.linalg.norm(np.multiply(shape_zyx, spacing_mm)))


@dataclass(frozen=True)
class CaseResult:
    """All that is known of one evaluated case."""

    name: str
    grids: dict[str, GridScores]
    """Scores by grid: "native" (where the label is there) and "prepared"."""
    alignment: dict[str, dict[str, float]]
    """Errors `angle_deg` and `offset_mm` of the plane by stage: "final",
    "network_alone" or "first_guess", "input"; empty where the truth is unknown or no
    mid-line was found."""
    disentanglement: dict[str, float]
    """The fields of `metrics.disentanglement.Disentanglement`; empty without D."""
    disentanglement_truth: str
    """What counted as pathological; empty without D."""
    pose: dict[str, float]
    """The estimated mid-sagittal plane in the patient's coordinates: `rotation_deg` and
    `offset_mm`; empty where none was sought or found."""
    flags: tuple[str, ...]
    """What preparation found odd in the scan, and what is odd in the result."""
    calibration: dict[str, Reliability]
    """Sums over the voxels of the "brain", and over those of them "near" a lesion."""
    uncertainty: CaseUncertainty | None = None
    """None where it was not asked for."""

    def to_json(self) -> dict[str, Any]:
        """The result as JSON values, None for NaN."""
        return none_for_nan(asdict(self))

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "CaseResult":
        """The result that `to_json` wrote."""
        uncertainty = content.get("uncertainty", content.get("doubt"))
        grids = {
            grid: GridScores(**nan_for_none(scores))
            for grid, scores in content["grids"].items()
        }
        return cls(
            name=content["name"],
            grids=grids,
            alignment=nan_for_none(content["alignment"]),
            disentanglement=nan_for_none(content["disentanglement"]),
            disentanglement_truth=content["disentanglement_truth"],
            pose=nan_for_none(content["pose"]),
            flags=tuple(content["flags"]),
            calibration={
                place: Reliability(**{k: np.array(v) for k, v in sums.items()})
                for place, sums in content["calibration"].items()
            },
            uncertainty=None
            if uncertainty is None
            else CaseUncertainty.from_json(nan_for_none(uncertainty)),
        )
