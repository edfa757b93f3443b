"""The probability from which a voxel is called infarct, chosen on validation cases.

Two thresholds are chosen, since a network is often too careful with small infarcts: one
for all cases, and another for those in which the first finds less than `SMALL_ML`.
"""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from rich.progress import track

from adn_jax.data.cases import case_checksums, read_case
from adn_jax.data.manifest import Manifest, check_grid
from adn_jax.errors import UserError
from adn_jax.evaluation.case import EmptyRule, is_label_lost, native_lesion
from adn_jax.evaluation.source import (
    cases_of_split,
    find_data,
)
from adn_jax.inference.maps import SMALL_ML, Map, Thresholds
from adn_jax.inference.system import System
from adn_jax.io.files import fingerprint, none_for_nan, read_json, write_json
from adn_jax.io.paths import Place
from adn_jax.metrics.overlap import Spacing, voxel_ml
from adn_jax.training.runs import Run

CANDIDATES = tuple(round(0.05 * step, 2) for step in range(1, 20))
"""Thresholds to choose from."""

FEW_CASES = 8
"""With fewer validation cases a choice is called weak."""

ThresholdCurve = Float[np.ndarray, " candidates"]
"""A number for each of `CANDIDATES`."""

CURVES_FORMAT = 2
"""Version of the file: raise it when its numbers change."""

MeasuredCase = dict[str, Any]
"""Of one validation case: its name, Dice at each candidate by grid ("native" where its
label is there, and "prepared" unless this has lost it), and the predicted mL on the
prepared grid."""


@dataclass(frozen=True)
class CaseCurves:
    """What each candidate makes of one validation case."""

    dice: ThresholdCurve
    """NaN if prediction and label are both empty."""
    predicted_ml: ThresholdCurve


@dataclass(frozen=True)
class Choice:
    """The thresholds chosen, and what they were chosen by."""

    thresholds: Thresholds
    cases: int
    """Validation cases."""
    small_cases: int
    """Those of them that are small."""
    dice: ThresholdCurve
    """Mean Dice of all cases at each candidate."""
    small_dice: ThresholdCurve
    """The same of the small ones; NaN without any."""


def dice_curve(
    probability: Float[np.ndarray, "*shape"], lesion: Bool[np.ndarray, "*shape"]
) -> ThresholdCurve:
    """Dice at each candidate; NaN where prediction and label are both empty."""
    hits, predicted = (_counts_above(p) for p in (probability[lesion], probability))
    total = predicted + np.count_nonzero(lesion)
    return np.where(total > 0, 2.0 * hits / np.maximum(total, 1), np.nan)


def volume_curve(probability: Map, spacing_mm: Spacing) -> ThresholdCurve:
    """Predicted volume in mL at each candidate."""
    return _counts_above(probability) * voxel_ml(spacing_mm)


def _counts_above(probability: Float[np.ndarray, "*shape"]) -> ThresholdCurve:
    """How many voxels have at least each candidate's probability."""
    edges = np.asarray(CANDIDATES, probability.dtype)
    reached = np.searchsorted(edges, probability.ravel(), side="right")
    counts = np.bincount(reached, minlength=len(CANDIDATES) + 1)
    return np.cumsum(counts[::-1])[::-1][1:].astype(float)


def choose_thresholds(
    cases: Sequence[CaseCurves], fixed: float, rule: EmptyRule = "penalise"
) -> Choice:
    """The thresholds with the best mean Dice; of equally good ones that next to
    `fixed`.

    Without any small case the general threshold serves for those, too.
    """
    everything = _mean_dice(cases, rule)
    best = best_candidate(everything, fixed)
    small = [case for case in cases if case.predicted_ml[best] < SMALL_ML]
    of_small = _mean_dice(small, rule)
    best_small = best_candidate(of_small, CANDIDATES[best])
    return Choice(
        Thresholds(CANDIDATES[best], CANDIDATES[best_small]),
        len(cases),
        len(small),
        everything,
        of_small,
    )


def _mean_dice(cases: Sequence[CaseCurves], rule: EmptyRule) -> ThresholdCurve:
    """Mean over cases at each candidate, by the rule for empty masks; NaN of none."""
    scores = np.array([case.dice for case in cases], float)
    scores = scores.reshape(len(cases), len(CANDIDATES))
    if rule == "penalise":
        scores = np.nan_to_num(scores, nan=1.0)
    count = np.count_nonzero(~np.isnan(scores), axis=0)
    return np.where(count > 0, np.nansum(scores, 0) / np.maximum(count, 1), np.nan)


def best_candidate(scores: ThresholdCurve, near: float) -> int:
    """Place of the highest score, of equal ones that next to the threshold `near`."""
    filled = np.nan_to_num(scores, nan=-1.0)
    equal = np.flatnonzero(filled >= filled.max() - 1e-9)
    distance = np.abs(np.array(CANDIDATES) - near)[equal]
    return int(equal[np.argmin(np.round(distance, 9))])


def choice_in_words(choice: Choice, grid: str) -> str:
    """A choice as a reader sees it, with a warning where it is weak."""
    chosen = choice.thresholds
    few = f"; a weak choice: fewer than {FEW_CASES} cases"
    return (
        f"{chosen.general:.2f}, below {chosen.small_ml:g} mL {chosen.small:.2f} "
        f"(chosen on {choice.cases} validation cases, {grid} grid, "
        f"{choice.small_cases} of them small{few if choice.cases < FEW_CASES else ''})"
    )


@dataclass(frozen=True)
class Chosen:
    """Thresholds of a system, and how they were chosen."""

    choice: Choice
    grid: str
    """Whose Dice was looked at."""
    fixed: float
    """The recipe's threshold, which they take the place of."""
    names: tuple[str, ...]
    """The validation cases."""

    def to_json(self, scored: Collection[str]) -> dict[str, Any]:
        """For `summary.json`; `scored` names the cases that are scored with it."""
        seen = "; the scored cases are among them" if {*scored} & {*self.names} else ""
        return none_for_nan(
            {
                **asdict(self.choice.thresholds),
                "fixed": self.fixed,
                "validation": {
                    "cases": self.choice.cases,
                    "small_cases": self.choice.small_cases,
                    "grid": self.grid,
                    "thresholds": CANDIDATES,
                    "dice": self.choice.dice,
                    "small_dice": self.choice.small_dice,
                },
                "in_words": choice_in_words(self.choice, self.grid) + seen,
            }
        )


def choose_on_validation(
    system: System,
    data: Place | None,
    folder: Place,
    state: Any,
    empty: EmptyRule,
) -> Chosen:
    """The thresholds with the best mean Dice on the validation split.

    Members of an ensemble that validated on different cases (folds) are each asked
    alone about their own ones: each case has trained some of the others.

    Args:
        system: what is to be scored.
        data: the data set to take where a run's own one is not there.
        folder: where what was measured is kept for the next time.
        state: what the predictions depend on, as JSON values.
        empty: rule for empty masks.

    Raises `UserError` if there is no labelled validation case.
    """
    cases = [
        (part, manifest, name)
        for part, manifest in _validation_parts(system, data)
        for name in cases_of_split(manifest, "validation")
    ]
    checksums = [
        (part.names, name, case_checksums(manifest.case_folder(name)))
        for part, manifest, name in cases
    ]
    key = fingerprint(state, checksums, CANDIDATES, CURVES_FORMAT)
    suffix = "-ensemble" if len(system.members) > 1 else ""
    path = folder / f"validation-thresholds{suffix}.json"
    known: dict[str, Any] = read_json(path) if path.is_file() else {}
    if known.get("key") != key:
        measured = track(cases, description="choose thresholds")
        records = [record for each in measured if (record := measure_case(*each))]
        known = {"key": key, "thresholds": CANDIDATES, "cases": none_for_nan(records)}
        write_json(path, known)
    return choose_from(known["cases"], system.model.recipe.threshold, empty)


def measure_case(system: System, manifest: Manifest, name: str) -> MeasuredCase | None:
    """What each candidate makes of a case; None if it has no label."""
    files = manifest.case_folder(name)
    case = read_case(files)
    if case.lesion is None:
        return None
    maps = system.infer(case).maps
    assert maps.lesion is not None  # it is the case's
    native = native_lesion(maps.prediction, case, files)
    dice = {}
    if not is_label_lost(maps.lesion, native):
        dice["prepared"] = dice_curve(maps.prediction, maps.lesion)
    if native is not None:
        dice["native"] = dice_curve(native.probability, native.lesion)
    volume = volume_curve(maps.prediction, maps.spacing_mm)
    return {"case": name, "dice": dice, "predicted_ml": volume}


def choose_from(
    records: Sequence[MeasuredCase], fixed: float, empty: EmptyRule
) -> Chosen:
    """The choice on the native grid, unless a case has no label there; then without
    the cases whose label the prepared grid has lost."""
    if not records:
        raise UserError(
            "no case of the validation split has a lesion label, so no threshold can "
            "be chosen there; leave out --threshold auto."
        )
    native = all("native" in record["dice"] for record in records)
    grid = "native" if native else "prepared"
    records = [record for record in records if grid in record["dice"]]
    cases = [
        CaseCurves(
            dice=np.array(record["dice"][grid], float),
            predicted_ml=np.array(record["predicted_ml"], float),
        )
        for record in records
    ]
    names = tuple(record["case"] for record in records)
    return Chosen(choose_thresholds(cases, fixed, empty), grid, fixed, names)


def _validation_parts(
    system: System, data: Place | None
) -> list[tuple[System, Manifest]]:
    """Who is asked about the validation cases of which data set."""
    manifests = [_validation_data(member.run, data) for member in system.members]
    for member, manifest in zip(system.members, manifests, strict=True):
        check_grid(member.recipe, manifest)
    every_lesion = tuple(
        replace(
            member, recipe=replace(member.recipe, least_lesion_ml=0.0), lesions=None
        )
        for member in system.members
    )
    system = replace(system, members=every_lesion, samples=0, thresholds=None)
    if len({cases_of_split(manifest, "validation") for manifest in manifests}) == 1:
        return [(system, manifests[0])]
    alone = [replace(system, members=(member,)) for member in system.members]
    return list(zip(alone, manifests, strict=True))


def _validation_data(run: Run, data: Place | None) -> Manifest:
    """The data set that a run was trained on, if it is there as it was; else the given
    one."""
    try:
        return find_data(run, None)
    except UserError:
        if data is None:
            raise
        return find_data(run, data)
