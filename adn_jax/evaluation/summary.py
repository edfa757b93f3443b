"""From the results of cases to `summary.json` and `per_case.csv`."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import stats

from adn_jax.data.manifest import Manifest
from adn_jax.errors import counted
from adn_jax.evaluation.case import (
    EMPTY_RULES,
    SCORES,
    CaseResult,
    EmptyRule,
)
from adn_jax.io.files import none_for_nan
from adn_jax.metrics.calibration import (
    NEAR,
    Reliability,
    bin_means,
    brier_score,
    expected_calibration_error,
    maximum_calibration_error,
    mean_or_nan,
)
from adn_jax.metrics.disentanglement import (
    ASYMMETRY_THRESHOLD,
    PATHOLOGY_THRESHOLD,
    Disentanglement,
    auroc,
)
from adn_jax.report.pages import format_number
from adn_jax.runtime.platform import versions

SeedsByCases = Float[np.ndarray, "seeds cases"]

RESAMPLES = 10_000

SEED = 0

FEWEST_CASES = 5
"""Of fewer there is no interval: draws of two or three cases, each with replacement,
tell hardly more than which there are."""

Summary = dict[str, float | int | list[float] | None]

CALIBRATION = {"ece": expected_calibration_error, "brier": brier_score}
"""Scores of calibration that a single case has voxels enough for."""


def summarise(values: Iterable[float]) -> Summary:
    """Mean, median, standard deviation, 95 % interval of the mean, and count.

    NaN marks a case where the number is not defined; it is left out of everything,
    `n` included. Fields that need more cases than there are become None: the standard
    deviation (of the sample, n - 1) needs two, the interval `FEWEST_CASES`.
    """
    known = defined(values)
    if not known.size:
        return {"mean": None, "median": None, "std": None, "ci95": None, "n": 0}
    enough = known.size >= FEWEST_CASES
    return {
        "mean": float(known.mean()),
        "median": float(np.median(known)),
        "std": float(known.std(ddof=1)) if known.size > 1 else None,
        "ci95": list(bootstrap_interval(known)) if enough else None,
        "n": int(known.size),
    }


def summarise_tail(values: Iterable[float]) -> Summary:
    """Mean, median, 95th percentile, largest value and count, for errors."""
    known = defined(values)
    if not known.size:
        return {"mean": None, "median": None, "p95": None, "max": None, "n": 0}
    return {
        "mean": float(known.mean()),
        "median": float(np.median(known)),
        "p95": float(np.percentile(known, 95)),
        "max": float(known.max()),
        "n": int(known.size),
    }


def over_fewer(statistics: Mapping[str, Any], cases: int) -> str:
    """Words behind a statistic that is not over all cases: " over 3 cases"."""
    number = statistics["n"]
    return "" if number == cases else f" over {counted(number, 'case')}"


def no_midline(summary: Mapping[str, Any]) -> str:
    """Of how many heads no mid-line was found, in words; empty if there are none."""
    missed = summary["midline_not_found"]
    return f"none found in {missed} of {summary['cases']}" if missed else ""


def by_rule(summary: Mapping[str, Any], score: str, digits: int = 2) -> str:
    """Words behind a score of which the rule for empty masks gives a part: of how many
    cases, and the mean of the others."""
    empty = summary["empty"]
    if not empty.get("decided"):  # old evaluations do not tell
        return ""
    others = format_number(empty[f"{score}_of_others"]["mean"], digits)
    return (
        f"; {empty['decided']} of {counted(summary['cases'], 'case')} by the rule for "
        f"empty masks, mean of the others {others}"
    )


def label_lost(empty: Mapping[str, Any]) -> str:
    """Of how many cases a grid has lost the label, in words; empty if of none. Old
    evaluations do not tell."""
    lost = empty.get("label_lost", 0)
    return f"label lost in {counted(lost, 'case')}" if lost else ""


def bootstrap_interval(
    values: Float[np.ndarray, " n"], level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean: cases drawn anew with replacement.

    Same values, same interval: the draw is seeded.
    """
    generator = np.random.default_rng(SEED)
    draws = generator.integers(values.size, size=(RESAMPLES, values.size))
    tail = 100.0 * (1.0 - level) / 2.0
    low, high = np.percentile(values[draws].mean(axis=1), [tail, 100.0 - tail])
    return float(low), float(high)


def defined(values: Iterable[float]) -> Float[np.ndarray, " n"]:
    """The values that are not NaN."""
    array = np.fromiter(values, np.float64)
    return array[~np.isnan(array)]


def mean_of_seeds(values: SeedsByCases) -> Float[np.ndarray, " cases"]:
    """Mean over the seeds of each case; NaN where no seed has a value."""
    known = ~np.isnan(values)
    count = known.sum(axis=0)
    total = np.where(known, values, 0.0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def interval_over_seeds(
    values: SeedsByCases, level: float = 0.95
) -> tuple[float, float] | None:
    """Percentile bootstrap interval of the mean over seeds and cases; None of fewer
    cases than `FEWEST_CASES`. Of one seed it is `bootstrap_interval`.

    Cases and seeds are both drawn anew with replacement, each of them whole (the
    pigeonhole bootstrap, Owen 2007): the luck of a seed moves all of its cases, so
    that seeds drawn for each case on its own would make the interval too narrow.
    """
    values = values[:, ~np.isnan(values).all(axis=0)]
    seeds, cases = values.shape
    if cases < FEWEST_CASES:
        return None
    if seeds == 1:
        return bootstrap_interval(values[0], level)
    generator = np.random.default_rng(SEED)
    by_case = generator.multinomial(cases, np.full(cases, 1 / cases), RESAMPLES)
    by_seed = generator.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES)
    known = ~np.isnan(values)
    total, count = (
        np.einsum("rs,sc,rc->r", by_seed, table, by_case, optimize=True)
        for table in (np.where(known, values, 0.0), known.astype(float))
    )
    tail = 100.0 * (1.0 - level) / 2.0
    means = total[count > 0] / count[count > 0]
    low, high = np.percentile(means, [tail, 100.0 - tail])
    return float(low), float(high)


def signed_rank_p(differences: Float[np.ndarray, " cases"]) -> float | None:
    """Two-sided p of the paired Wilcoxon signed-rank test; None without a case.

    Zero differences take part in the ranking (Pratt 1959); where all are zero, p is 1.
    """
    known = defined(differences)
    if not known.size:
        return None
    if not known.any():
        return 1.0
    return float(stats.wilcoxon(known, zero_method="pratt").pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """p values of several tests, corrected for their number (Holm 1979).

    The smallest is multiplied by the number of tests, the next by one less, and so on;
    none becomes smaller than the one before it, or larger than 1.
    """
    order = np.argsort(p_values)
    factors = np.arange(len(p_values), 0, -1)
    stepped = np.maximum.accumulate(np.asarray(p_values, float)[order] * factors)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(stepped, 1.0)
    return corrected.tolist()


def summarise_results(
    results: Sequence[CaseResult],
    manifest: Manifest,
    rule: EmptyRule,
    name: str,
    threshold: float,
    seeks_midline: bool = False,
    uncertainty_source: str = "",
) -> dict[str, Any]:
    """The content of `summary.json`: the headline grid on top, both grids below.

    The headline is the native grid, unless a case has no label there.

    Args:
        results: the scored cases.
        manifest: their data set.
        rule: rule for empty masks.
        name: of the recipe, or of another tool.
        threshold: from which probability a voxel is called infarct.
        seeks_midline: whether a case without pose is one whose mid-line was missed.
        uncertainty_source: in words; empty: none.
    """
    native = all("native" in result.grids for result in results)
    grid = "native" if native else "prepared"
    grids = {
        name: _summarise_grid(results, name, rule)
        for name in ("native", "prepared")
        if all(name in result.grids for result in results)
    }
    low, high = manifest.settings.window_hu
    missed = sum(not result.pose for result in results)  # in no error of the alignment
    return {
        "cases": len(results),
        "grid": grid,
        "label_rule": label_rule(manifest),
        "hd95_convention": "directed (larger of the two directed 95th percentiles, "
        "as MONAI); hd95_pooled_mm: 95th percentile of both directions together",
        "lesion_rule": "26-connected components; one shared voxel is a hit",
        "threshold": threshold,
        **grids[grid],
        "alignment_error_deg": _summarise_alignment(results, "angle_deg"),
        "alignment_offset_mm": _summarise_alignment(results, "offset_mm"),
        "midline_not_found": missed if seeks_midline else None,
        "disentanglement": _summarise_disentanglement(results, high - low),
        "calibration": _summarise_calibration(results),
        "uncertainty": _summarise_uncertainty(results, uncertainty_source),
        "grids": grids,
        "recipe": name,
        "versions": versions(),
    }


def _summarise_grid(
    results: Sequence[CaseResult], grid: str, rule: EmptyRule
) -> dict[str, Any]:
    """Statistics of every score on one grid, and which of them the rule for empty masks
    decides: Dice and HD95 of the other cases stand beside. Cases whose label the grid
    has lost have no scores."""
    scores = [result.grids[grid] for result in results]
    empty = [score.empty for score in scores]
    measured = [score for score in scores if score.empty == "none"]
    counts = {kind: empty.count(kind) for kind in ("label", "prediction", "both")}
    return {
        **{
            name: summarise(getattr(score, name) for score in scores) for name in SCORES
        },
        "empty": {
            **counts,
            "decided": sum(counts.values()),
            "label_lost": empty.count("lost"),
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
    """Errors of the final plane, those of each earlier stage beside it; None if
    the truth is not known."""
    known = [result.alignment for result in results if result.alignment]
    if not known:
        return None
    stages = {
        stage: summarise_tail(errors[stage][what] for errors in known)
        for stage in known[0]
    }
    return {**stages.pop("final"), **stages}


def _summarise_disentanglement(
    results: Sequence[CaseResult], window_width_hu: float
) -> dict[str, Any] | None:
    """Statistics of the disentanglement scores; None if no case has one."""
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


def _summarise_calibration(results: Sequence[CaseResult]) -> dict[str, Any] | None:
    """Errors and bins of the voxels of all `calibrated` cases together; None if there
    are none."""
    known = calibrated(results)
    if not known:
        return None
    brain, near = (pooled(known, place) for place in ("brain", "near"))
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


def calibrated(results: Sequence[CaseResult]) -> list[CaseResult]:
    """The cases that tell about calibration: all but those whose label the prepared
    grid has lost; none where there are masks."""
    kept = [result for result in results if not result.has_lost_label]
    return kept if all(result.calibration for result in kept) else []


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
    row["flags"] = "; ".join(flag.rstrip(".") for flag in result.flags)
    return {name: "" if value != value else value for name, value in row.items()}
