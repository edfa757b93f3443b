"""What a prepared data set holds: `DIR/manifest.json`, its splits, cases in shards.

Each case is a folder (`data.cases`), or in a packed data set a record of one of few
large ArrayRecord files: a case's folder, zipped. Either can be read from an object
store, a packed case in any order and without its neighbours.
"""

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from adn_jax.config import PrepareSettings, Recipe
from adn_jax.config.serialization import settings_from_json, settings_to_json
from adn_jax.data.cases import SCAN_AND_LABEL, case_checksums
from adn_jax.errors import UserError, one_line
from adn_jax.io.files import (
    atomic_path,
    fingerprint,
    is_there,
    read_json,
    write_json,
)
from adn_jax.io.paths import Place, Source, as_place, read_bytes

MANIFEST_FORMAT = 1
"""Version of `manifest.json`."""

SPLITS = ("train", "validation", "test")

SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}
"""Shares of a drawn split."""

SHARD_OPTIONS = "group_size:1,zstd"
"""A record is read and unpacked without its neighbours."""

OPEN_SHARDS = 512
"""Shards that a process keeps open; each is a file handle."""


class Fold(NamedTuple):
    """Part `index` (from 0) of `count` parts of the cases; this one validates."""

    index: int
    count: int

    def __str__(self) -> str:
        """As on the command line: 0/5."""
        return f"{self.index}/{self.count}"


@dataclass(frozen=True)
class Manifest:
    """What a prepared data set holds.

    `failed` says why a case could not be prepared, `left_out` why it was left out on
    purpose; `layout` is that of the raw data set, empty if it is not known.
    `lacking` names the cases without a lesion label, those without tissue maps, and
    ("infarct") those whose label marks no infarct. `flags` says what deserves a look.
    Packed cases lie in `shards`, in the order of `cases`, `cases_per_shard` in each.
    `files_sha256` has a checksum over the scans and labels of each split; empty in old
    data sets.
    """

    settings: PrepareSettings
    cases: tuple[str, ...]
    splits: dict[str, tuple[str, ...]]
    folder: Place
    failed: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    layout: str = ""
    lacking: dict[str, tuple[str, ...]] = field(default_factory=dict)
    shards: tuple[str, ...] = ()
    cases_per_shard: int = 0
    flags: dict[str, tuple[str, ...]] = field(default_factory=dict)
    files_sha256: dict[str, str] = field(default_factory=dict)

    @cached_property
    def index(self) -> dict[str, int]:
        """Case -> its place in `cases`."""
        return {name: index for index, name in enumerate(self.cases)}

    @property
    def digest(self) -> str:
        """A checksum over the names of the cases and their splits."""
        cases = json.dumps([self.cases, self.splits], sort_keys=True)
        return hashlib.sha256(cases.encode()).hexdigest()

    @property
    def learnt_sha256(self) -> str | None:
        """A checksum over the scans and labels to learn from and to validate on,
        whatever the fold; None in old data sets."""
        if not self.files_sha256:
            return None
        return fingerprint([self.files_sha256.get(split) for split in SPLITS[:2]])

    def with_checksums(self) -> "Manifest":
        """The same with `files_sha256`, by the checksums of each case."""
        total = {}
        for split, names in self.splits.items():
            digest = hashlib.sha256()
            for name in sorted(names):
                files = case_checksums(self.case_folder(name)) or {}
                known = {each: files.get(each) for each in SCAN_AND_LABEL}
                digest.update(fingerprint(name, known).encode())
            total[split] = digest.hexdigest()
        return replace(self, files_sha256=total)

    def case_folder(self, name: str) -> Source:
        """Where the files of a case are read from; a packed case is in memory then."""
        if not self.shards:
            return self.folder / name
        shard, record = divmod(self.index[name], self.cases_per_shard)
        return read_packed(self.folder / self.shards[shard], record, name)

    def with_fold(self, fold: Fold | None) -> "Manifest":
        """The data set with the splits of a fold (`fold_splits`); None: its own."""
        if fold is None:
            return self
        return replace(self, splits=fold_splits(self.splits, fold))

    def write(self) -> None:
        """Write `manifest.json` into the data set's folder."""
        content = {
            "format": MANIFEST_FORMAT,
            "settings": settings_to_json(self.settings),
            "cases": self.cases,
            "splits": self.splits,
            "failed": self.failed,
            "left_out": self.left_out,
            "layout": self.layout,
            "lacking": self.lacking,
            "shards": self.shards,
            "cases_per_shard": self.cases_per_shard,
            "flags": self.flags,
            "files_sha256": self.files_sha256,
        }
        write_json(self.folder / "manifest.json", content)


def has_manifest(folder: Place) -> bool:
    """Whether a folder is a prepared data set."""
    return is_there(folder / "manifest.json")


def read_manifest(folder: Place | str) -> Manifest:
    """Read `manifest.json`.

    Raises `UserError` if `folder` is no prepared data set, or a packed one in a store
    from which packed cases cannot be read.
    """
    folder = as_place(folder)
    path = folder / "manifest.json"
    if not is_there(path):
        raise UserError(
            f"{folder} is no prepared data set (it has no manifest.json); "
            "make one with `adn prepare RAW OUT`."
        )
    content = {"flags": {}} | read_json(path)
    try:
        settings, failed = content["settings"], dict(content["failed"])
        left_out = dict(content.get("left_out", {}))
        splits, lacking, flags = (
            {name: tuple(found) for name, found in content[key].items()}
            for key in ("splits", "lacking", "flags")
        )
        cases, shards = tuple(content["cases"]), tuple(content.get("shards", ()))
        cases_per_shard = int(content.get("cases_per_shard", 0))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} lacks or spoils {error}; prepare the data set again."
        ) from error
    if shards:
        check_reach(folder)
    settings = settings_from_json(PrepareSettings, settings, f"{path} settings")
    layout = str(content.get("layout", ""))
    return Manifest(
        settings,
        cases,
        splits,
        folder,
        failed,
        left_out,
        layout,
        lacking,
        shards,
        cases_per_shard,
        flags,
        dict(content.get("files_sha256", {})),
    )


def check_grid(recipe: Recipe, manifest: Manifest) -> None:
    """Raise `UserError` if the data set was prepared unlike the run's."""
    for name in ("shape", "spacing_mm", "window_hu"):
        here, wanted = (
            getattr(manifest.settings, name),
            getattr(recipe.system.prepare, name),
        )
        if here != wanted:
            raise UserError(
                f"{manifest.folder} was prepared with {name} {here}, the run needs "
                f"{wanted}; prepare the data with the run's settings."
            )


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
    are all of train and validation; other splits stay. Raises `UserError` if there
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


def write_shard(path: Place, folders: Sequence[Path]) -> None:
    """Pack the folders of cases into one file, whole or not at all."""
    with atomic_path(path) as temporary:
        try:
            writer = ArrayRecordWriter(str(temporary), SHARD_OPTIONS)
            for folder in folders:
                writer.write(zipped(folder))
            writer.close()
        except RuntimeError as error:  # a full disk, for instance
            raise OSError(one_line(error)) from error


def zipped(folder: Path) -> bytes:
    """A folder as a zip archive, which holds it by its name; the same at any time."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for file in sorted(folder.iterdir()):
            entry = zipfile.ZipInfo(f"{folder.name}/{file.name}")
            archive.writestr(entry, read_bytes(file))
    return content.getvalue()


def check_reach(folder: Place) -> None:
    """Raise `UserError` if ArrayRecord cannot read from a place: in s3://."""
    if str(folder).startswith("s3://"):
        raise UserError(
            f"{folder} is for packed cases, but of the object stores these can be read "
            "from gs:// alone; put them there or on a disk, or give a data set that is "
            "not packed."
        )


def read_packed(path: Place, record: int, name: str) -> zipfile.Path:
    """The folder `name` in a record (from 0), to be read like one on a disk.

    Raises `UserError` if the shard is missing or damaged, or holds another case.
    """
    try:
        content = _open_shard(str(path)).read([record])[0]
        archive = zipfile.ZipFile(io.BytesIO(content))
        archive.filename = f"{path}/{record}"
        folder = zipfile.Path(archive, f"{name}/")
    except (RuntimeError, IndexError, zipfile.BadZipFile) as error:
        raise UserError(
            f"record {record} of {path} could not be read ({one_line(error)}); restore "
            "the file, or delete it and pack the data set again."
        ) from error
    if not folder.exists():  # is_dir only looks at the name
        raise UserError(
            f"record {record} of {path} does not hold {name}; pack the data set again."
        )
    return folder


_open_shard = lru_cache(maxsize=OPEN_SHARDS)(ArrayRecordReader)
"""Path -> the shard, opened once a process."""
