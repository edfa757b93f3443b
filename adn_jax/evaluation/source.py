"""Which cases a run is scored on: data set, fold and split; checks that they fit."""

import sys
from collections.abc import Sequence

from adn_jax.data.manifest import Manifest, read_manifest
from adn_jax.errors import UserError, few_of
from adn_jax.io.paths import Place, to_place
from adn_jax.training.learnt import learnt_cases, not_known
from adn_jax.training.runs import Run


def find_data(run: Run, data: Place | None) -> Manifest:
    """The data set given, or the one the run was trained on; in the run's splits."""
    if data is not None:
        return run.splits_of(read_manifest(data))
    if run.data is None:
        raise UserError(
            f"{run.folder} was trained on drawn heads, or not here, so it names no "
            "data set; give --data DIR."
        )
    trained_on = to_place(run.data)
    if not trained_on.is_dir():
        raise UserError(
            f"{run.folder} was trained on {run.data}, which is not there any more; "
            "give the prepared data set with --data DIR."
        )
    found = run.splits_of(read_manifest(trained_on))
    if run.cases_sha256 not in {None, found.digest}:
        raise UserError(
            f"{trained_on} has other cases or splits than when {run.folder} was "
            "trained on it, which may have learnt from those to be scored; restore it, "
            "or give it with --data DIR to score its own splits."
        )
    return found


def cases_of_split(manifest: Manifest, split: str) -> tuple[str, ...]:
    """Cases of a split; `UserError`, naming those there are, where it has none."""
    cases = manifest.splits.get(split, ())
    if not cases:
        filled = [name for name, names in manifest.splits.items() if names]
        raise UserError(
            f"{manifest.folder} has no cases in split {split!r}; "
            f"those with cases are: {', '.join(filled) or 'none'}."
        )
    return cases


def labelled_cases(manifest: Manifest, split: str) -> tuple[str, ...]:
    """Those cases of a split that can be scored; `UserError` if there are none."""
    lacking = set(manifest.lacking.get("lesion", ()))
    cases = cases_of_split(manifest, split)
    labelled = tuple(name for name in cases if name not in lacking)
    if not labelled:
        raise no_label(manifest, split)
    return labelled


def no_label(manifest: Manifest, split: str) -> UserError:
    """Why nothing can be scored."""
    return UserError(
        f"no case of split {split!r} in {manifest.folder} has a lesion label; "
        "prepare the data set with labels, or use predict."
    )


def check_unseen(runs: Sequence[Run], split: str, data: Place | None) -> None:
    """Raise `UserError` if members of an ensemble learned from the cases that are to
    be scored: folds that took turns, or, unless `data` is given, runs of other cases or
    splits than the first's, whose cases are scored."""
    if split == "validation" and len({run.fold for run in runs}) > 1:
        raise UserError(
            "the runs have different folds, so that each case of split 'validation' "
            "has trained some of them; score the ensemble on the test split, or each "
            "run alone."
        )
    first = runs[0]
    if data is not None or first.data is None or len(runs) == 1:
        return
    manifest = read_manifest(to_place(first.data))
    for run in runs[1:]:
        if run.cases_sha256 not in {None, run.splits_of(manifest).digest}:
            raise UserError(
                f"{run.folder} was trained on other cases or splits than "
                f"{first.folder} and may have seen those that are to be scored; name "
                "runs of one data set, or give one that none has seen with --data "
                "DIR."
            )


def check_not_learnt(run: Run, manifest: Manifest, cases: Sequence[str]) -> None:
    """Raise `UserError` if a run has learnt from the scans of cases that another data
    set, or the same with other splits, has elsewhere, or began with a run that has;
    tell it if that is not known."""
    own = run.splits_of(manifest)
    if run.cases_sha256 == own.digest:  # its training cases may be scored as such
        cases = [name for name in cases if name not in own.splits.get("train", ())]
    seen = learnt_cases(run, manifest, cases)
    if seen is None:
        print(f"adn: {not_known(run, manifest)}", file=sys.stderr)
    elif seen:
        raise UserError(
            f"{run.folder} has learnt from {few_of(seen)}, so that scores of this "
            f"split of {manifest.folder} would tell too much; score cases that it has "
            "not learnt from."
        )
