"""From the results of cases to `summary.json` and `per_case.csv`."""

import csv
from collections.abc import Sequence
from io import StringIO
from typing import Any

import numpy as np
from jaxtyping import Float

from adn_jax.config import Recipe
from adn_jax.data.manifest import Manifest
from adn_jax.evaluation.scores import EMPTY_RULES, SCORES, CaseResult, EmptyRule
from adn_jax.evaluation.statistics import summarise, summarise_tail
from adn_jax.evaluation.uncertainty import mean_or_nan
from adn_jax.io.files import none_for_nan
from adn_jax.metrics.calibration import (
    NEAR,
    Reliability,
    bin_means,
    brier_score,
    expected_calibration_error,
    maximum_calibration_error,
)
from adn_jax.metrics.disentanglement import (
    ASYMMETRY_THRESHOLD,
    PATHOLOGY_THRESHOLD,
    Disentanglement,
    auroc,
)
from adn_jax.pipeline.align import aligns
from adn_jax.runtime.platform import versions

CALIBRATION = {"ece": expected_calibration_error, "brier": brier_score}
"""Scores of calibration that a single case has voxels enough for."""


def summarise_results(
    results: Sequence[CaseResult],
    recipe: Recipe,
    manifest: Manifest,
    rule: EmptyRule,
    uncertainty_source: str = "",
) -> dict[str, Any]:
    """The content of `summary.json`: the headline grid on top, both grids below.

    The headline is the native grid, unless a case has no label there.
    """
    grid = _headline_grid(results)
    grids = {
        name: _summarise_grid(results, name, rule)
        for name in ("native", "prepared")
        if all(name in result.grids for result in results)
    }
    low, high = recipe.system.prepare.window_hu
    return {
        "cases": len(results),
        "grid": grid,
        "label_rule": label_rule(manifest),
        "hd95_convention": "directed (larger of the two directed 95th percentiles, "
        "as MONAI); hd95_pooled_mm: 95th percentile of both directions together",
        "lesion_rule": "26-connected components; one shared voxel is a hit",
        "threshold": recipe.threshold,
        **grids[grid],
        "alignment_error_deg": _summarise_alignment(results, "angle_deg"),
        "alignment_offset_mm": _summarise_alignment(results, "offset_mm"),
        "midline_not_found": _count_missed(results) if aligns(recipe.system) else None,
        "disentanglement": _summarise_disentanglement(results, high - low),
        "calibration": _summarise_calibration(results),
        "uncertainty": _summarise_uncertainty(results, uncertainty_source),
        "grids": grids,
        "recipe": recipe.name,
        "versions": versions(),
    }


def _headline_grid(results: Sequence[CaseResult]) -> str:
    """ "native" where every case has its label there, else "prepared"."""
    native = all("native" in result.grids for result in results)
    return "native" if native else "prepared"


def _summarise_grid(
    results: Sequence[CaseResult], grid: str, rule: EmptyRule
) -> dict[str, Any]:
    """Statistics of every score on one grid, and which of them the rule for empty masks
    decides: Dice and HD95 of the other cases stand beside."""
    scores = [result.grids[grid] for result in results]
    empty = [score.empty for score in scores]
    measured = [score for score in scores if score.empty == "none"]
    return {
        **{
            name: summarise(getattr(score, name) for score in scores) for name in SCORES
        },
        "empty": {
            **{kind: empty.count(kind) for kind in ("label", "prediction", "both")},
            "decided": len(scores) - len(measured),
            "rule": EMPTY_RULES[rule],
            **{
                f"{name}_of_others": summarise(
                    getattr(score, name) for score in measured
                )
                for name in ("dice", "hd95_mm")
            },
        },
    }


def _summarise_alignment(
    results: Sequence[CaseResult], what: str
) -> dict[str, Any] | None:
    """Errors of the final plane, those of each earlier stage beside it; None where
    the truth is not known."""
    known = [result.alignment for result in results if result.alignment]
    if not known:
        return None
    stages = {
        stage: summarise_tail(errors[stage][what] for errors in known)
        for stage in known[0]
    }
    return {**stages.pop("final"), **stages}


def _count_missed(results: Sequence[CaseResult]) -> int:
    """Cases in which no mid-line was found; they are in no error of the alignment."""
    return sum(not result.pose for result in results)


def _summarise_disentanglement(
    results: Sequence[CaseResult], window_width_hu: float
) -> dict[str, Any] | None:
    """Statistics of the disentanglement scores; None where no case has one."""
    known = [result for result in results if result.disentanglement]
    if not known:
        return None
    return {
        **{
            name: summarise(result.disentanglement[name] for result in known)
            for name in Disentanglement._fields
        },
        "truth": sorted({result.disentanglement_truth for result in known}),
        "asymmetric_above_hu": ASYMMETRY_THRESHOLD * window_width_hu,
        "pathological_above_hu": PATHOLOGY_THRESHOLD * window_width_hu,
    }


def _summarise_calibration(results: Sequence[CaseResult]) -> dict[str, Any]:
    """Errors and bins of the voxels of all cases together."""
    brain, near = (pooled(results, place) for place in ("brain", "near"))
    return none_for_nan(
        {
            "ece": expected_calibration_error(brain),
            "mce": maximum_calibration_error(brain),
            "brier": brier_score(brain),
            "ece_near": expected_calibration_error(near),
            "mce_near": maximum_calibration_error(near),
            "brier_near": brier_score(near),
            "voxels": int(brain.count.sum()),
            "voxels_near": int(near.count.sum()),
            "bins": {
                "count": brain.count,
                "mean_probability": bin_means(brain.probability, brain),
                "share_of_infarct": bin_means(brain.label, brain),
            },
            "counted": "voxels of the brain on the prepared grid, all cases together; "
            f"near: those of them where the probability is above {NEAR} or the label "
            "is infarct",
        }
    )


def pooled(results: Sequence[CaseResult], place: str) -> Reliability:
    """The sums of all cases; `place` is "brain" or "near"."""
    first, *rest = (result.calibration[place] for result in results)
    return sum(rest, first)


def _summarise_uncertainty(
    results: Sequence[CaseResult], uncertainty_source: str
) -> dict[str, Any] | None:
    """How well uncertainty tells wrong voxels and false lesions; None if not asked."""
    known = [result.uncertainty for result in results if result.uncertainty is not None]
    if not known:
        return None
    lesions = [lesion for uncertainty in known for lesion in uncertainty.lesions]
    false = np.array([not lesion.hit for lesion in lesions], bool)

    def of_lesions(name: str) -> Float[np.ndarray, " n"]:
        return np.array([getattr(lesion, name) for lesion in lesions], float)

    entropy = of_lesions("entropy")
    return none_for_nan(
        {
            "source": uncertainty_source,
            "unit": "bits; entropy of the mean probability",
            **{
                name: summarise(getattr(uncertainty, name) for uncertainty in known)
                for name in ("error_auroc", "entropy_right", "entropy_wrong")
            },
            "lesions": len(lesions),
            "false_lesions": int(false.sum()),
            "lesion_entropy_true": mean_or_nan(entropy[~false]),
            "lesion_entropy_false": mean_or_nan(entropy[false]),
            "false_lesion_auroc": auroc(entropy, false),
            "false_lesion_auroc_mutual_information": auroc(
                of_lesions("mutual_information"), false
            ),
            "false_lesion_auroc_probability": auroc(-of_lesions("probability"), false),
            "counted": "voxels near a lesion, a score a case; predicted lesions of all "
            "cases together, false where they share no voxel with the label",
        }
    )


def label_rule(manifest: Manifest) -> str:
    """Which label values counted as infarct."""
    values = ", ".join(str(value) for value in manifest.settings.infarct_labels)
    return f"label values {values} are infarct"


def per_case_csv(results: Sequence[CaseResult]) -> str:
    """One line a case: every score of every grid, pose, errors, flags."""
    rows = [flat_row(result) for result in results]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    buffer = StringIO()
    writer = csv.DictWriter(buffer, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def flat_row(result: CaseResult) -> dict[str, Any]:
    """The numbers of a case under one name each; an undefined one is left empty."""
    row: dict[str, Any] = {"case": result.name}
    for grid, scores in result.grids.items():
        for name in (*SCORES, "empty"):
            row[f"{grid}_{name}"] = getattr(scores, name)
    row |= result.pose
    for stage, errors in result.alignment.items():
        row |= {f"error_{stage}_{name}": value for name, value in errors.items()}
    row |= result.disentanglement
    row |= {
        f"{name}_{place}": score(sums)
        for place, sums in result.calibration.items()
        for name, score in CALIBRATION.items()
    }
    if result.uncertainty is not None:
        names = ("error_auroc", "entropy_right", "entropy_wrong")
        row |= {
            f"uncertainty_{name}": getattr(result.uncertainty, name) for name in names
        }
    row["flags"] = " ".join(result.flags)
    return {name: "" if value != value else value for name, value in row.items()}
