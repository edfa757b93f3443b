"""Which cases train, validate and test: given with the data, drawn by a seed, or in
turn by folds."""

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from adn_jax.errors import UserError

SPLITS = ("train", "validation", "test")

SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}
"""Shares of a drawn split."""


def choose_splits(
    given: Any,
    cases: Sequence[str],
    source: Path,
    seed: int = 0,
    failed: Collection[str] = (),
) -> dict[str, tuple[str, ...]]:
    """The split of a raw data set: the given one, checked, or a drawn one for None.

    Where the given one names no validation cases, a tenth of its training cases, drawn
    by `seed`, validates. `source` is where messages say that it was read. What is drawn
    is drawn from the cases that have not `failed`, so that these empty no split.
    """
    if given is None:
        return draw_splits((name for name in cases if name not in failed), seed)
    checked = check_splits(given, cases, source)
    splits = {
        split: tuple(name for name in names if name not in failed)
        for split, names in checked.items()
    }
    if checked["validation"] or len(splits["train"]) < 2:
        return splits
    shares = {"train": 0.9, "validation": 0.1}
    return {**splits, **draw_splits(splits["train"], seed, shares)}


def draw_splits(
    cases: Iterable[str], seed: int, shares: dict[str, float] = SHARES
) -> dict[str, tuple[str, ...]]:
    """Draw disjoint splits of the given shares; the same cases give the same draw.

    Each split but the first gets at least one case while the first keeps one.
    """
    names = sorted(cases)
    order = np.random.default_rng(seed).permutation(len(names))
    first, *rest = shares
    splits: dict[str, tuple[str, ...]] = {}
    start = 0
    for split in rest:
        wanted = max(1, round(shares[split] * len(names)))
        stop = min(start + wanted, max(len(names) - 1, 0))
        splits[split] = tuple(sorted(names[i] for i in order[start:stop]))
        start = stop
    return {first: tuple(sorted(names[i] for i in order[start:])), **splits}


def check_splits(
    content: Any, cases: Iterable[str], path: Path
) -> dict[str, tuple[str, ...]]:
    """Check a table of splits, read from `path`, against the cases that exist.

    Raises `UserError` for another layout, unknown split or case names, and a case that
    is named twice.
    """
    if not isinstance(content, dict) or not all(
        isinstance(names, (list, tuple))
        and all(isinstance(name, str) for name in names)
        for names in content.values()
    ):
        raise UserError(
            f"{path} is no table of case names; write it as "
            '{"train": ["a", "b"], "validation": ["c"], "test": ["d"]}.'
        )
    if unknown := sorted(set(content) - set(SPLITS)):
        raise UserError(
            f"{path} has a split named {unknown[0]!r}; use {', '.join(SPLITS)}."
        )
    named = [name for names in content.values() for name in names]
    if missing := sorted(set(named) - set(cases)):
        raise UserError(
            f"{path} names {missing[0]!r}, which is no case folder beside it; "
            f"correct the name or add the case ({len(missing)} such in all)."
        )
    if twice := sorted({name for name in named if named.count(name) > 1}):
        raise UserError(
            f"{path} names {twice[0]!r} twice; a case belongs to one split."
        )
    return {split: tuple(content.get(split, ())) for split in SPLITS}


class Fold(NamedTuple):
    """Part `index` (from 0) of `count` parts of the cases; this one validates."""

    index: int
    count: int

    def __str__(self) -> str:
        """As on the command line: 0/5."""
        return f"{self.index}/{self.count}"


def parse_fold(text: str) -> Fold:
    """The fold that a text like 0/5 names; `UserError` for any other text."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    fold = Fold(*map(int, match.groups())) if match else Fold(0, 0)
    if fold.count < 2 or fold.index >= fold.count:
        raise UserError(
            f"the fold is {text!r}; two whole numbers INDEX/COUNT with COUNT of at "
            "least 2 and INDEX below it are wanted, for example 0/5 to 4/5."
        )
    return fold


def fold_splits(
    splits: Mapping[str, tuple[str, ...]], fold: Fold
) -> dict[str, tuple[str, ...]]:
    """Splits whose validation is one of several equal parts of train and validation.

    The parts depend on the names of the cases alone, not on their order, and together
    are all of train and validation; other splits stay. Raises `UserError` where there
    are more parts than cases.
    """
    names = [*splits.get("train", ()), *splits.get("validation", ())]
    if fold.count > len(names):
        raise UserError(
            f"the fold is {fold}, but the train and validation splits have only "
            f"{len(names)} cases together; ask for at most as many parts as cases."
        )
    drawn = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    part = drawn[fold.index :: fold.count]
    return {
        **splits,
        "train": tuple(sorted(set(names) - set(part))),
        "validation": tuple(sorted(part)),
    }
