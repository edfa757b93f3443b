"""Everything that is scored of one case: masks, mid-sagittal plane, asymmetry."""

from typing import NamedTuple

import numpy as np

from adn_jax.data.cases import PreparedCase, read_native_lesion
from adn_jax.evaluation.scores import CaseResult, EmptyRule, GridScores, score_masks
from adn_jax.evaluation.uncertainty import score_uncertainty
from adn_jax.inference.maps import CaseMaps, Map
from adn_jax.inference.system import System
from adn_jax.io.paths import Source
from adn_jax.metrics.alignment import Plane, alignment_error, true_plane
from adn_jax.metrics.calibration import Reliability, near_lesion, reliability
from adn_jax.metrics.disentanglement import disentanglement
from adn_jax.metrics.overlap import Mask, Spacing
from adn_jax.prepare.case import to_native


def evaluate_case(
    system: System, case: PreparedCase, files: Source, empty: EmptyRule
) -> CaseResult:
    """Run and score one labelled case."""
    maps, _, uncertainty = system.infer(case)
    assert maps.lesion is not None  # the case is labelled
    brain = case.brain > 0
    grids = {
        "prepared": score_masks(maps.predicted, maps.lesion, maps.spacing_mm, empty)
    }
    native = _score_native(maps, case, files, empty)
    if native is not None:
        grids = {"native": native, **grids}
    alignment = system.model.recipe.system.alignment
    first = "network_alone" if alignment.network else "first_guess"
    scores, truth = _score_disentanglement(maps)
    return CaseResult(
        name=case.name,
        grids=grids,
        alignment=_score_alignment(maps, case, first),
        disentanglement=scores,
        disentanglement_truth=truth,
        pose=maps.pose(case.affine),
        flags=(*case.flags, *maps.midline_flags, *_result_flags(grids)),
        calibration=_score_calibration(maps, maps.lesion, brain),
        uncertainty=None
        if uncertainty is None
        else score_uncertainty(maps, uncertainty, maps.lesion, brain),
    )


def _score_calibration(
    maps: CaseMaps, lesion: Mask, brain: Mask
) -> dict[str, Reliability]:
    """Sums for the calibration on the prepared grid: of the brain's voxels, and of
    those near a lesion."""
    near = near_lesion(maps.prediction, lesion) & brain
    return {
        place: reliability(maps.prediction, lesion, inside=inside)
        for place, inside in {"brain": brain, "near": near}.items()
    }


def _score_native(
    maps: CaseMaps, case: PreparedCase, files: Source, empty: EmptyRule
) -> GridScores | None:
    """Scores on the scan's own grid, thresholded there; None where the label is not
    there."""
    native = native_lesion(maps.prediction, case, files)
    if native is None:
        return None
    return score_masks(
        native.probability >= maps.threshold, native.lesion, native.spacing_mm, empty
    )


class NativeLesion(NamedTuple):
    """Prediction and label on a scan's own grid."""

    probability: Map
    lesion: Mask
    spacing_mm: Spacing


def native_lesion(
    prediction: Map, case: PreparedCase, files: Source
) -> NativeLesion | None:
    """The prediction taken to the scan's own grid by linear interpolation, beside the
    label; None where the label is not there."""
    lesion = read_native_lesion(files)
    if lesion is None:
        return None
    return NativeLesion(
        to_native(prediction, case.geometry).transpose(2, 1, 0),
        lesion.voxels.transpose(2, 1, 0) > 0,
        lesion.spacing_mm[::-1],
    )


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


def _score_disentanglement(maps: CaseMaps) -> tuple[dict[str, float], str]:
    """Scores of P, and what counted as pathological: the known darkening of a
    phantom's infarct, else the lesion label; nothing without P."""
    if maps.pathological is None:
        return {}, ""
    if maps.aligned_truth is not None:
        truth, name = maps.aligned_truth, "darkening by the infarct"
    else:
        assert maps.aligned_lesion is not None  # the case is labelled
        truth, name = maps.aligned_lesion, "lesion label"
    return disentanglement(maps.asymmetry, maps.pathological, truth)._asdict(), name


def _result_flags(grids: dict[str, GridScores]) -> tuple[str, ...]:
    """What deserves a look in a result, a sentence each."""
    scores = next(iter(grids.values()))
    sentences = {
        "both": "Label and prediction are empty.",
        "label": "The label is empty, the prediction is not.",
        "prediction": "Nothing was predicted.",
    }
    if scores.empty != "none":
        return (sentences[scores.empty],)
    return ("Label and prediction do not overlap.",) if scores.dice == 0 else ()
