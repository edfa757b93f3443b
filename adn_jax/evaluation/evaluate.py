"""A run, or what another tool predicted, scored on the cases of a split: per case, in
sum, in figures, in a report.

Each case's result is a file, so a second call only does what is missing; a result is
redone when the weights or the prediction, the case, the test-time augmentation, the
thresholds, the rule for empty masks or the source of uncertainty have changed.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rich.progress import track

from adn_jax.config.serialization import settings_to_json
from adn_jax.data.cases import PreparedCase, case_checksums, read_case
from adn_jax.data.manifest import Manifest, check_grid, read_manifest
from adn_jax.errors import UserError
from adn_jax.evaluation.case import CaseResult, EmptyRule, evaluate_case, score_case
from adn_jax.evaluation.index import write_index
from adn_jax.evaluation.peers import THRESHOLD, Peer, find_peer
from adn_jax.evaluation.report import (
    Pictures,
    remove_older,
    render_report,
    write_figures,
    write_peer_figures,
)
from adn_jax.evaluation.source import (
    cases_of_split,
    check_not_learnt,
    check_unseen,
    find_data,
    labelled_cases,
    no_label,
)
from adn_jax.evaluation.summary import per_case_csv, summarise_results
from adn_jax.evaluation.thresholds import choose_on_validation
from adn_jax.inference.system import System, load_system
from adn_jax.io.files import (
    fingerprint,
    is_there,
    only_one,
    read_json,
    remove_remains,
    write_json,
    write_text,
)
from adn_jax.io.paths import Place, Source, as_place, spelled_out
from adn_jax.pipeline.align import aligns
from adn_jax.training.runs import BUNDLED, Run, run_name

ThresholdRule = Literal["recipe", "auto"]
"""Take the recipe's threshold, or choose two on the validation split."""

RESULT_FORMAT = 6
"""Version of the results of cases and of their summary: raise it when a score
changes."""


RESULT_FOLDERS = ("cases", "figures", "scans")
"""Folders in that of an evaluation."""


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found, and where it was written."""

    summary: dict[str, Any]
    folder: Place


def evaluate_run(
    run: Place | str,
    data: Place | str | None = None,
    split: str = "test",
    empty: EmptyRule = "penalise",
    samples: int = 0,
    ensemble: Sequence[Place] = (),
    tta: Mapping[str, Any] | None = None,
    threshold: ThresholdRule = "recipe",
    out: Place | str | None = None,
    least_lesion_ml: float | None = None,
    least_ppv: float | None = None,
) -> Evaluation:
    """Score a finished run; writes `RUN/evaluation/<split>/` and `RUN/index.html`.

    An ensemble's scores go to `RUN/evaluation/<split>-ensemble/`, in place of those of
    an earlier ensemble.

    Args:
        run: the run's folder.
        data: the prepared data set; None: the one that the run was trained on.
        split: which of the data set's splits.
        empty: rule for empty masks (`case.EMPTY_RULES`).
        samples: passes with dropout that tell the run's uncertainty; 0: none. What is
            scored stays the prediction without dropout.
        ensemble: further runs; the mean of all predictions is scored, and their
            disagreement tells the uncertainty.
        tta: fields of `TtaSettings` that replace those of the runs' recipes.
        threshold: "auto" chooses thresholds on the validation split of the run's data.
        out: folder of the results in place of `RUN/evaluation`.
        least_lesion_ml: smaller predicted lesions are left out; None: the recipe's.
        least_ppv: predicted lesions that are more rarely true are left out
            (`data.known_lesions`); None: as the run has it.

    Raises:
        UserError: no run, no data, another grid, no such split, no labelled case, no
            dropout to sample, members that may have seen the cases, or scores of
            another run or of other data where these are to be written.
    """
    run, data = as_place(run), None if data is None else as_place(data)
    if run == BUNDLED and out is None:
        raise UserError(
            "the package's own folder is no place for results; give --out FOLDER."
        )
    if least_ppv is not None and threshold == "auto":
        raise UserError(
            "least_ppv is given with a chosen threshold, but how often lesions are "
            "true was measured for the recipe's; leave one of the two out."
        )
    system = load_system(run, samples, ensemble, tta, least_lesion_ml, least_ppv)
    manifest = find_data(system.model.run, data)
    check_grid(system.model.recipe, manifest)
    check_unseen([member.run for member in system.members], split, data)
    cases = cases_of_split(manifest, split)
    for member in system.members:
        check_not_learnt(member.run, manifest, cases)
    labelled_cases(manifest, split)  # before anything is written
    parent = run / "evaluation" if out is None else as_place(out)
    folder = parent / (f"{split}-ensemble" if ensemble else split)
    more = {}
    with _held(folder):
        own = None if out is None else system.model.run
        _check_scores_there(folder, manifest, split, own)
        if threshold == "auto":
            chosen = choose_on_validation(system, data, parent, _made_by(system), empty)
            system = replace(system, thresholds=chosen.choice.thresholds)
            more = {"threshold": chosen.to_json(cases)}
        return _evaluate_system(system, manifest, split, folder, empty, more)


def _check_scores_there(
    folder: Place, manifest: Manifest, split: str, scored: Run | Peer | None
) -> None:
    """Raise `UserError` if a folder holds scores of other data, or, if one is given, of
    another run or tool: by their places, or, if data or run were moved, what they
    hold."""
    path = folder / "summary.json"
    if not is_there(path):
        return
    there = read_json(path)
    place, files = spelled_out(manifest.folder), manifest.files_sha256.get(split)
    is_moved = files is not None and there.get("files_sha256") == files
    is_of_other_data = there.get("data") != place and not is_moved
    is_of_another = scored is not None and _is_of_another(there, scored)
    if is_of_other_data or is_of_another:
        raise UserError(
            f"{folder} holds the scores of {there.get('run')} on {there.get('data')}; "
            "give another folder with --out, or remove this one."
        )


def _is_of_another(summary: Mapping[str, Any], scored: Run | Peer) -> bool:
    """Whether a summary is of another run or tool; a run that was moved keeps its name
    and its steps."""
    if summary.get("run_folder") == run_name(scored.folder):
        return False
    if isinstance(scored, Peer):
        return True
    there = summary.get("run"), summary.get("steps")
    return there != (scored.folder.name, scored.steps)


def _is_own(run: Run, manifest: Manifest) -> bool:
    """Whether a data set is the one that a run has learnt from, as far as is known."""
    if run.cases_sha256 is None:
        return run.data in {None, spelled_out(manifest.folder)}
    return not run.other_cases(manifest)


def _made_by(system: System) -> list[Any]:
    """What the members of a system are, as JSON values."""
    return [
        (settings_to_json(member.recipe), member.run.finished)
        for member in system.members
    ]


def _evaluate_system(
    system: System,
    manifest: Manifest,
    split: str,
    folder: Place,
    empty: EmptyRule,
    more: Mapping[str, Any],
) -> Evaluation:
    """Score a system and write everything; `more` joins the summary."""
    model, thresholds = system.model, system.thresholds
    state = {
        "members": _made_by(system),
        "samples": system.samples,
        "thresholds": None if thresholds is None else asdict(thresholds),
        "empty": empty,
        "format": RESULT_FORMAT,
    }
    known = settings_to_json(system.known_lesions)
    if known is not None:
        state["known_lesions"] = known
    results = _labelled_results(
        manifest,
        split,
        folder,
        lambda _: state,
        lambda case, files: evaluate_case(system, case, files, empty),
    )
    summary: dict[str, Any] = {
        "format": RESULT_FORMAT,
        "split": split,
        **summarise_results(
            results,
            manifest,
            empty,
            model.recipe.name,
            model.recipe.threshold,
            aligns(model.recipe.system),
            system.uncertainty_source,
        ),
        **more,
        "adds_up": model.recipe.system.asymmetry.adds_up,
        "tta": settings_to_json(system.tta),
        "least_lesion_ml": model.recipe.least_lesion_ml,
        "known_lesions": known,
        "without_label": len(cases_of_split(manifest, split)) - len(results),
        "run": model.run.folder.name,
        "run_folder": run_name(model.run.folder),
        "members": list(system.names),
        "data": spelled_out(manifest.folder),
        "own_data": _is_own(model.run, manifest),
        "files_sha256": manifest.files_sha256.get(split),
        "steps": model.run.steps,
    }
    in_run = folder.parent == model.run.folder / "evaluation"
    if _retract(folder, summary) and in_run:
        write_index(model.run)  # it names the numbers that are gone
    pictures = write_figures(system, manifest, results, summary["grid"], folder)
    index = "../../index.html" if in_run else None
    _write_results(manifest, results, summary, pictures, folder, index)
    if in_run:
        write_index(model.run)
    return Evaluation(summary, folder)


def evaluate_predictions(
    predictions: Path,
    data: Place | str,
    split: str = "test",
    empty: EmptyRule = "penalise",
    name: str = "",
    out: Place | str | None = None,
) -> Evaluation:
    """Score what another tool predicted; writes `PREDICTIONS/evaluation/<split>/`.

    Cases, labels, grids, rules and statistics are those of `evaluate_run`.

    Args:
        predictions: folder with a prediction of each case (`peers.find_files`).
        data: the prepared data set.
        split: which of its splits.
        empty: rule for empty masks (`case.EMPTY_RULES`).
        name: what to call the tool; empty: as the folder.
        out: folder of the results in place of `PREDICTIONS/evaluation`.

    Raises:
        UserError: no data, no such split, no labelled case, predictions that are
            missing, on another grid, or no probabilities, or an `out` with scores of
            other data or of another tool; nothing is written then.
    """
    manifest = read_manifest(as_place(data))
    peer = find_peer(predictions, manifest, split, name)
    return evaluate_peer(peer, manifest, split, empty, out=out)


def evaluate_peer(
    peer: Peer,
    manifest: Manifest,
    split: str,
    empty: EmptyRule = "penalise",
    wait: bool = False,
    out: Place | str | None = None,
) -> Evaluation:
    """Score predictions that were found; arguments as of `evaluate_predictions`.

    Scores of other data that lie beside the predictions are replaced: a table has no
    other place for them.

    `wait`: until another process that scores them has ended, which else is refused.
    """
    parent = peer.folder / "evaluation" if out is None else as_place(out)
    folder = parent / split
    with _held(folder, wait):
        if out is not None:
            _check_scores_there(folder, manifest, split, peer)
        return _score_peer(peer, manifest, split, folder, empty)


def _score_peer(
    peer: Peer, manifest: Manifest, split: str, folder: Place, empty: EmptyRule
) -> Evaluation:
    """Score predictions and write everything."""

    def score(case: PreparedCase, files: Source) -> CaseResult:
        prediction, native = peer.predict(case, files)
        return score_case(
            case, prediction, native, THRESHOLD, empty, calibrated=peer.calibrated
        )

    def state_of(case: str) -> dict[str, Any]:
        return {
            "file": peer.sha256[case],
            "soft": peer.calibrated,
            "empty": empty,
            "format": RESULT_FORMAT,
        }

    results = _labelled_results(manifest, split, folder, state_of, score)
    summary: dict[str, Any] = {
        "format": RESULT_FORMAT,
        "split": split,
        **summarise_results(results, manifest, empty, peer.name, THRESHOLD),
        "tta": None,
        "least_lesion_ml": 0.0,
        "known_lesions": None,
        "without_label": len(cases_of_split(manifest, split)) - len(results),
        "run": str(peer.folder),
        "run_folder": run_name(peer.folder),
        "members": [peer.name],
        "masks": sorted(peer.mask_cases if peer.soft_cases else ()),
        "data": spelled_out(manifest.folder),
        "files_sha256": manifest.files_sha256.get(split),
        "steps": {},
    }
    _retract(folder, summary)
    pictures = write_peer_figures(peer, manifest, results, summary["grid"], folder)
    _write_results(manifest, results, summary, pictures, folder)
    return Evaluation(summary, folder)


def _labelled_results(
    manifest: Manifest,
    split: str,
    folder: Place,
    state_of: Callable[[str], Any],
    score: Callable[[PreparedCase, Source], CaseResult],
) -> list[CaseResult]:
    """The results of the split's cases that have a label, from their files if these are
    still true: of the same case and state, the JSON values that its scores depend on.

    Raises:
        UserError: none has one.
    """
    results = []
    for name in track(labelled_cases(manifest, split), f"evaluate {split}"):
        files = manifest.case_folder(name)
        key = fingerprint(state_of(name), case_checksums(files))
        path = folder / "cases" / f"{name}.json"
        known = read_json(path) if path.is_file() else {}
        if known.get("key") == key:
            results.append(CaseResult.from_json(known))
            continue
        case = read_case(files)
        if case.lesion is not None:
            result = score(case, files)
            write_json(path, {"key": key, **result.to_json()})
            results.append(result)
    if not results:
        raise no_label(manifest, split)
    return results


@contextmanager
def _held(folder: Place, wait: bool = False) -> Generator[None]:
    """Hold the folder of an evaluation as `only_one`, rid of what a kill left."""
    with only_one(folder, wait):
        if isinstance(folder, Path):
            for place in (folder, *(folder / name for name in RESULT_FOLDERS)):
                remove_remains(place)
        yield


def _retract(folder: Place, summary: Mapping[str, Any]) -> bool:
    """Remove the summary, report and table of an earlier evaluation, before pictures
    are drawn: an interrupted evaluation leaves no old numbers beside new pictures.
    Returns whether there were any.

    Where the summary there says the same as the new one, all stays: shards of a table
    read it without the lock while another of them draws.
    """
    path = folder / "summary.json"
    if is_there(path) and read_json(path) == summary:
        return False
    places = [path, folder / "report.html", folder / "per_case.csv"]
    old = [place for place in places if is_there(place)]
    for place in old:
        place.unlink()
    return bool(old)


def _write_results(
    manifest: Manifest,
    results: list[CaseResult],
    summary: dict[str, Any],
    pictures: Pictures,
    folder: Place,
    index: str | None = None,
) -> None:
    """Write scores and report; the summary last, as the sign of the whole."""
    write_text(folder / "per_case.csv", per_case_csv(results))
    report = render_report(summary, results, pictures, manifest.settings, index)
    write_text(folder / "report.html", report)
    remove_older(folder, pictures)
    write_json(folder / "summary.json", summary)
