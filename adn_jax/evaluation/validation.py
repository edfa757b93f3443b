"""Thresholds of a system chosen on cases that validated it and trained none of it.

What each candidate makes of a validation case is computed once and kept in
`RUN/evaluation/validation-thresholds.json`.
"""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from rich.progress import track

from adn_jax.data.cases import read_case
from adn_jax.data.manifest import Manifest
from adn_jax.errors import UserError
from adn_jax.evaluation.case import native_lesion
from adn_jax.evaluation.scores import EmptyRule
from adn_jax.evaluation.source import (
    case_checksums,
    check_grid,
    find_data,
    fingerprint,
    split_cases,
)
from adn_jax.evaluation.thresholds import (
    CANDIDATES,
    CaseCurves,
    Choice,
    choice_in_words,
    choose_thresholds,
    dice_curve,
    volume_curve,
)
from adn_jax.inference.system import System
from adn_jax.io.files import none_for_nan, read_json, write_json
from adn_jax.io.paths import Place, to_place
from adn_jax.training.runs import Run

CURVES_FORMAT = 1
"""Version of the file: raise it when its numbers change."""

Record = dict[str, Any]
"""Of one validation case: its name, Dice at each candidate by grid ("native" where its
label is there, and "prepared"), and the predicted mL on the prepared grid."""


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
    state: Any,
    empty: EmptyRule,
) -> Chosen:
    """The thresholds with the best mean Dice on the validation split.

    Members of an ensemble that validated on different cases (folds) are each asked
    alone about their own ones: each case has trained some of the others.

    Args:
        system: what is to be scored.
        data: the data set to take where a run's own one is not there.
        state: what the predictions depend on, as JSON values.
        empty: rule for empty masks.

    Raises `UserError` where there is no labelled validation case.
    """
    cases = [
        (part, manifest, name)
        for part, manifest in _validation_parts(system, data)
        for name in split_cases(manifest, "validation")
    ]
    checksums = [
        (part.names, name, case_checksums(manifest.case_folder(name)))
        for part, manifest, name in cases
    ]
    key = fingerprint(state, checksums, CANDIDATES, CURVES_FORMAT)
    suffix = "-ensemble" if len(system.members) > 1 else ""
    folder = system.model.run.folder / "evaluation"
    path = folder / f"validation-thresholds{suffix}.json"
    known: dict[str, Any] = read_json(path) if path.is_file() else {}
    if known.get("key") != key:
        measured = track(cases, description="choose thresholds")
        records = [record for each in measured if (record := measure_case(*each))]
        known = {"key": key, "thresholds": CANDIDATES, "cases": none_for_nan(records)}
        write_json(path, known)
    return choose_from(known["cases"], system.model.recipe.threshold, empty)


def measure_case(system: System, manifest: Manifest, name: str) -> Record | None:
    """What each candidate makes of a case; None where it has no label."""
    files = manifest.case_folder(name)
    case = read_case(files)
    if case.lesion is None:
        return None
    maps = system.infer(case).maps
    assert maps.lesion is not None  # it is the case's
    dice = {"prepared": dice_curve(maps.prediction, maps.lesion)}
    native = native_lesion(maps.prediction, case, files)
    if native is not None:
        dice["native"] = dice_curve(native.probability, native.lesion)
    volume = volume_curve(maps.prediction, maps.spacing_mm)
    return {"case": name, "dice": dice, "predicted_ml": volume}


def choose_from(records: Sequence[Record], fixed: float, empty: EmptyRule) -> Chosen:
    """The choice on the native grid, unless a case has no label there."""
    if not records:
        raise UserError(
            "no case of the validation split has a lesion label, so no threshold can "
            "be chosen there; leave out --threshold auto."
        )
    native = all("native" in record["dice"] for record in records)
    grid = "native" if native else "prepared"
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
    system = replace(system, samples=0, thresholds=None)
    if len({split_cases(manifest, "validation") for manifest in manifests}) == 1:
        return [(system, manifests[0])]
    alone = [
        replace(system, members=(member,), names=(name,))
        for member, name in zip(system.members, system.names, strict=True)
    ]
    return list(zip(alone, manifests, strict=True))


def _validation_data(run: Run, data: Place | None) -> Manifest:
    """The data set that a run was trained on, else the given one."""
    there = run.data is not None and to_place(run.data).is_dir()
    return find_data(run, None if there else data)
