"""A run scored on the cases of a split: per case, in sum, in figures, in a report.

Each case's result is a file, so a second call only does what is missing; a result is
redone when the weights, the case, the rule for empty masks or the source of doubt have
changed.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.progress import track

from adn_jax.config import Recipe
from adn_jax.config_checks import settings_to_json
from adn_jax.data.cases import read_case
from adn_jax.data.manifest import Manifest, case_folder, read_manifest
from adn_jax.errors import UserError
from adn_jax.evaluation.case import evaluate_case
from adn_jax.evaluation.gallery import write_figures
from adn_jax.evaluation.report import render_report
from adn_jax.evaluation.scores import CaseResult, EmptyRule
from adn_jax.evaluation.summary import per_case_csv, summarise_results
from adn_jax.evaluation.system import System, load_system
from adn_jax.runtime.files import read_json, write_json, write_text
from adn_jax.runtime.places import Place, spelled_out, to_place
from adn_jax.training.runs import TrainedModel, read_finished

RESULT_FORMAT = 2
"""Version of the results of single cases: raise it when a score changes."""


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found, and where it was written."""

    summary: dict[str, Any]
    folder: Place


def evaluate_run(
    run: Place,
    data: Place | None = None,
    split: str = "test",
    empty: EmptyRule = "penalise",
    samples: int = 0,
    ensemble: Sequence[Place] = (),
) -> Evaluation:
    """Score a finished run; writes `RUN/evaluation/<split>/`.

    An ensemble's scores go to `RUN/evaluation/<split>-ensemble/`, in place of those of
    an earlier ensemble.

    Args:
        run: the run's folder.
        data: the prepared data set; None: the one that the run was trained on.
        split: which of the data set's splits.
        empty: rule for empty masks (`scores.EMPTY_RULES`).
        samples: passes with dropout that tell the run's doubt; 0: none. What is scored
            stays the prediction without dropout.
        ensemble: further runs; the mean of all predictions is scored, and their
            disagreement tells the doubt.

    Raises:
        UserError: no run, no data, another grid, no such split, no labelled case, no
            dropout to sample.
    """
    system = load_system(run, samples, ensemble)
    model = system.model
    manifest = find_data(model, run, data)
    check_grid(model.recipe, manifest)
    cases = split_cases(manifest, split)
    folder = run / "evaluation" / (f"{split}-ensemble" if ensemble else split)
    state = {
        "members": [
            (settings_to_json(member.recipe), read_finished(place))
            for member, place in zip(system.members, (run, *ensemble), strict=True)
        ],
        "samples": samples,
        "empty": empty,
        "format": RESULT_FORMAT,
    }
    results = [
        result
        for name in track(cases, description=f"evaluate {split}")
        if (result := case_result(system, manifest, name, folder, state, empty))
    ]
    if not results:
        raise UserError(
            f"no case of split {split!r} in {manifest.folder} has a lesion label; "
            "prepare the data set with labels, or use predict."
        )
    summary = {
        "split": split,
        **summarise_results(results, model.recipe, manifest, empty, system.doubts),
        "without_label": len(cases) - len(results),
        "run": run.name,
        "members": list(system.names),
        "data": spelled_out(manifest.folder),
        "steps": model.steps,
    }
    figures = write_figures(
        system, manifest, results, summary["grid"], folder / "figures"
    )
    write_text(folder / "per_case.csv", per_case_csv(results))
    write_text(
        folder / "report.html", render_report(summary, results, figures, model.recipe)
    )
    write_json(folder / "summary.json", summary)
    return Evaluation(summary, folder)


def find_data(model: TrainedModel, run: Place, data: Place | None) -> Manifest:
    """The data set given, or the one the run was trained on."""
    if data is not None:
        return read_manifest(data)
    if model.data is None:
        raise UserError(
            f"{run} was not trained here, so it names no data set; give --data DIR."
        )
    trained_on = to_place(model.data)
    if not trained_on.is_dir():
        raise UserError(
            f"{run} was trained on {model.data}, which is not there any more; "
            "give the prepared data set with --data DIR."
        )
    return read_manifest(trained_on)


def check_grid(recipe: Recipe, manifest: Manifest) -> None:
    """Raise `UserError` where the data set was prepared unlike the run's."""
    for name in ("shape", "spacing_mm", "window_hu"):
        here, wanted = getattr(manifest.settings, name), getattr(recipe.prepare, name)
        if here != wanted:
            raise UserError(
                f"{manifest.folder} was prepared with {name} {here}, the run needs "
                f"{wanted}; prepare the data with the run's settings."
            )


def split_cases(manifest: Manifest, split: str) -> tuple[str, ...]:
    """Cases of a split; `UserError`, naming those there are, where it has none."""
    cases = manifest.splits.get(split, ())
    if not cases:
        filled = [name for name, names in manifest.splits.items() if names]
        raise UserError(
            f"{manifest.folder} has no cases in split {split!r}; "
            f"those with cases are: {', '.join(filled) or 'none'}."
        )
    return cases


def case_result(
    system: System,
    manifest: Manifest,
    name: str,
    folder: Place,
    state: dict[str, Any],
    empty: EmptyRule,
) -> CaseResult | None:
    """The result of a case, from its file if that is still true; None: no label."""
    files = case_folder(manifest, name)
    key = fingerprint(state, read_json(files / "case.json").get("sha256"))
    path = folder / "cases" / f"{name}.json"
    if path.is_file():
        known = read_json(path)
        if known.get("key") == key:
            return CaseResult.from_json(known)
    case = read_case(files)
    if case.lesion is None:
        return None
    result = evaluate_case(system, case, files, empty)
    write_json(path, {"key": key, **result.to_json()})
    return result


def fingerprint(*values: Any) -> str:
    """A checksum over JSON values."""
    text = json.dumps(values, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
