"""Everything that is scored of one case: masks, mid-sagittal plane, asymmetry."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from adn_jax.data.cases import PreparedCase, read_native_lesion
from adn_jax.errors import counted
from adn_jax.inference.maps import CaseMaps, LesionUncertainty, Map, Uncertainty
from adn_jax.inference.system import System
from adn_jax.io.files import nan_for_none, none_for_nan
from adn_jax.io.image import Image, voxel_steps
from adn_jax.io.paths import Source
from adn_jax.metrics.alignment import Plane, alignment_error, true_plane
from adn_jax.metrics.calibration import (
    Reliability,
    mean_or_nan,
    near_lesion,
    reliability,
)
from adn_jax.metrics.disentanglement import auroc, disentanglement
from adn_jax.metrics.overlap import (
    Mask,
    VoxelSteps,
    count_lesions,
    diagonal_mm,
    dice,
    hd95,
    surface_distances,
    volume_ml,
)
from adn_jax.prepare.case import to_native

EmptyRule = Literal["penalise", "leave_out"]

Empty = Literal["none", "label", "prediction", "both", "lost"]

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
    """Which of the two masks is empty; lost: the label is, on this grid alone."""


SCORES = tuple(item.name for item in fields(GridScores) if item.name != "empty")

OF_LABEL = tuple(name for name in SCORES if name not in {"label_ml", "predicted_ml"})
"""Scores that say nothing where a grid has lost the label."""


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


def score_masks(
    prediction: Mask, lesion: Mask, spacing_mm: VoxelSteps, rule: EmptyRule = "penalise"
) -> GridScores:
    """Score a predicted mask against a label on the same grid."""
    lesions = count_lesions(prediction, lesion)
    label_ml = volume_ml(lesion, spacing_mm)
    predicted_ml = volume_ml(prediction, spacing_mm)
    empty: Empty = "none" if prediction.any() else "prediction"
    if not lesion.any():
        empty = "label" if prediction.any() else "both"
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
    # what is not defined with an empty mask is filled in by the rule
    if rule == "leave_out" or empty == "none":
        return scores
    if empty == "both":
        return replace(scores, dice=1.0, lesion_f1=1.0, hd95_mm=0.0, hd95_pooled_mm=0.0)
    diagonal = diagonal_mm(lesion.shape, spacing_mm)
    return replace(scores, hd95_mm=diagonal, hd95_pooled_mm=diagonal)


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
    """Sums over the voxels of the "brain", and over those of them "near" a lesion;
    empty for masks, and where the label is lost."""
    uncertainty: CaseUncertainty | None = None
    """None if it was not asked for, or where the label is lost."""

    @property
    def has_lost_label(self) -> bool:
        """Whether the prepared grid is too coarse for the label: nothing can be scored
        there."""
        return self.grids["prepared"].empty == "lost"

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


class NativeLesion(NamedTuple):
    """Prediction and label on a scan's own grid."""

    probability: Map
    lesion: Mask
    spacing_mm: VoxelSteps

    @classmethod
    def of(cls, values: Float[np.ndarray, "i j k"], label: Image) -> "NativeLesion":
        """Of a prediction and a label in the order of the scan's file."""
        return cls(
            values.transpose(2, 1, 0),
            label.voxels.transpose(2, 1, 0) > 0,
            voxel_steps(label.affine),
        )


def evaluate_case(
    system: System, case: PreparedCase, files: Source, empty: EmptyRule
) -> CaseResult:
    """Run and score one labelled case."""
    maps, _, uncertainty = system.infer(case)
    assert maps.lesion is not None  # the case is labelled
    native = native_lesion(maps.prediction, case, files)
    result = score_case(
        case,
        maps.prediction,
        native,
        maps.threshold,
        empty,
        maps.flags,
        left_out=len(maps.left_out_ml),
    )
    alignment = system.model.recipe.system.alignment
    first = "network_alone" if alignment.network else "first_guess"
    scores, truth = score_disentanglement(maps)
    return replace(
        result,
        alignment=_score_alignment(maps, case, first),
        disentanglement=scores,
        disentanglement_truth=truth,
        pose=maps.pose(case.affine),
        uncertainty=None
        if uncertainty is None or result.has_lost_label
        else score_uncertainty(maps, uncertainty, maps.lesion, case.brain > 0),
    )


def score_case(
    case: PreparedCase,
    prediction: Map,
    native: NativeLesion | None,
    threshold: float,
    empty: EmptyRule,
    flags: Sequence[str] = (),
    calibrated: bool = True,
    left_out: int = 0,
) -> CaseResult:
    """Score the prediction of one labelled case, whatever it was made by.

    Args:
        case: the prepared case.
        prediction: probability of infarct on its grid.
        native: the prediction and the label on the scan's own grid; None: no label.
        threshold: from which probability a voxel is called infarct.
        empty: rule for empty masks.
        flags: what the tool found odd.
        calibrated: whether the values are probabilities; of masks calibration says
            nothing.
        left_out: how many predicted lesions are below the threshold, for they were too
            small or doubtful to count.
    """
    lesion, brain = np.asarray(case.lesion) >= 0.5, case.brain > 0
    is_lost = is_label_lost(lesion, native)
    predicted = prediction >= threshold
    grids = {"prepared": score_masks(predicted, lesion, case.spacing_mm, empty)}
    if is_lost:
        grids["prepared"] = _with_label_lost(grids["prepared"])
    if native is not None:
        predicted = native.probability >= threshold
        scored = score_masks(predicted, native.lesion, native.spacing_mm, empty)
        grids = {"native": scored, **grids}
    places = {"brain": brain, "near": near_lesion(prediction, lesion) & brain}
    return CaseResult(
        name=case.name,
        grids=grids,
        alignment={},
        disentanglement={},
        disentanglement_truth="",
        pose={},
        flags=(*case.flags, *flags, *_result_flags(grids, left_out)),
        calibration={
            place: reliability(prediction, lesion, inside=inside)
            for place, inside in places.items()
            if calibrated and not is_lost
        },
    )


def is_label_lost(lesion: Mask, native: NativeLesion | None) -> bool:
    """Whether a scan has a label of which the prepared grid, which holds `lesion`, is
    too coarse to keep anything."""
    return native is not None and bool(native.lesion.any()) and not lesion.any()


def _with_label_lost(scores: GridScores) -> GridScores:
    """Scores on a grid that is too coarse for the label: volumes alone. By the rule for
    empty masks a tool that misses the infarct would be right."""
    return replace(scores, **dict.fromkeys(OF_LABEL, float("nan")), empty="lost")


def native_lesion(
    prediction: Map, case: PreparedCase, files: Source
) -> NativeLesion | None:
    """The prediction taken to the scan's own grid by linear interpolation, beside the
    label; None if the label is not there."""
    lesion = read_native_lesion(files)
    if lesion is None:
        return None
    return NativeLesion.of(to_native(prediction, case.geometry), lesion)


def _score_alignment(
    maps: CaseMaps, case: PreparedCase, first: str
) -> dict[str, dict[str, float]]:
    """Errors of the plane at the end, after the first guess, and before any step;
    empty where the pose is not known or was not sought."""
    head_to_world = case.truth.get("head_to_world")
    if head_to_world is None or maps.plane is None or maps.first_plane is None:
        return {}
    truth = true_plane(np.array(head_to_world, float), case.affine, case.volume.shape)
    untouched = Plane(np.array([1.0, 0.0, 0.0]), np.zeros(3))
    planes = {"final": maps.plane, first: maps.first_plane, "input": untouched}
    return {
        stage: alignment_error(plane, truth)._asdict()
        for stage, plane in planes.items()
    }


def score_disentanglement(maps: CaseMaps) -> tuple[dict[str, float], str]:
    """Scores of P, and what counted as pathological: the known darkening of a
    phantom's infarct, else the lesion label; nothing without P, or without the mid-line
    that A and P belong to."""
    if maps.pathological is None or maps.plane is None:
        return {}, ""
    if maps.aligned_truth is not None:
        truth, name = maps.aligned_truth, "darkening by the infarct"
    else:
        assert maps.aligned_lesion is not None  # the case is labelled
        truth, name = maps.aligned_lesion, "lesion label"
    return disentanglement(maps.asymmetry, maps.pathological, truth)._asdict(), name


def _result_flags(grids: dict[str, GridScores], left_out: int = 0) -> tuple[str, ...]:
    """What deserves a look in a result, a sentence each; `left_out` lesions were
    predicted and do not count."""
    scores = next(iter(grids.values()))
    but = ""
    if left_out:
        but = f" but for {counted(left_out, 'lesion')} too small or doubtful to count"
    sentences = {
        "both": f"Label and prediction are empty{but}.",
        "label": "The label is empty, the prediction is not.",
        "prediction": f"Nothing was predicted{but}.",
        "none": "Label and prediction do not overlap.",
    }
    flags = []
    if scores.empty != "none" or scores.dice == 0:
        flags.append(sentences[scores.empty])
    if grids["prepared"].empty == "lost":
        flags.append("The prepared grid is too coarse for the label: none is left.")
    return tuple(flags)
