"""What a prepared data set holds: `DIR/manifest.json` over all of its cases.

Each case is a folder (`data.cases`), or in a packed data set a record of one of few
large files (`data.shards`). Either can be read from an object store.
"""

import hashlib
import json
from dataclasses import dataclass, field, replace
from functools import cached_property

from adn_jax.config import PrepareSettings
from adn_jax.config.serialization import settings_from_json, settings_to_json
from adn_jax.data.shards import check_reach, read_packed
from adn_jax.data.splits import Fold, fold_splits
from adn_jax.errors import UserError
from adn_jax.io.files import is_there, read_json, write_json
from adn_jax.io.paths import Place, Source, as_place

FORMAT = 1
"""Version of the file."""


@dataclass(frozen=True)
class Manifest:
    """What a prepared data set holds.

    `failed` says why a case could not be prepared, `left_out` why it was left out on
    purpose; `layout` is that of the raw data set, empty where it is not known.
    `lacking` names the cases without a lesion label, those without tissue maps, and
    ("infarct") those whose label marks no infarct. `flags` says what deserves a look.
    Packed cases lie in `shards`, in the order of `cases`, `cases_per_shard` in each.
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

    @cached_property
    def index(self) -> dict[str, int]:
        """Case -> its place in `cases`."""
        return {name: index for index, name in enumerate(self.cases)}


def case_folder(manifest: Manifest, name: str) -> Source:
    """Where the files of a case are read from; a packed case is in memory then."""
    if not manifest.shards:
        return manifest.folder / name
    shard, record = divmod(manifest.index[name], manifest.cases_per_shard)
    return read_packed(manifest.folder / manifest.shards[shard], record, name)


def fold_manifest(manifest: Manifest, fold: Fold | None) -> Manifest:
    """The data set with the splits of a fold (`splits.fold_splits`); None: its own."""
    if fold is None:
        return manifest
    return replace(manifest, splits=fold_splits(manifest.splits, fold))


def cases_digest(manifest: Manifest) -> str:
    """A checksum over the names of the cases and their splits."""
    cases = json.dumps([manifest.cases, manifest.splits], sort_keys=True)
    return hashlib.sha256(cases.encode()).hexdigest()


def write_manifest(manifest: Manifest) -> None:
    """Write `manifest.json` into the data set's folder."""
    content = {
        "format": FORMAT,
        "settings": settings_to_json(manifest.settings),
        "cases": manifest.cases,
        "splits": manifest.splits,
        "failed": manifest.failed,
        "left_out": manifest.left_out,
        "layout": manifest.layout,
        "lacking": manifest.lacking,
        "shards": manifest.shards,
        "cases_per_shard": manifest.cases_per_shard,
        "flags": manifest.flags,
    }
    write_json(manifest.folder / "manifest.json", content)


def has_manifest(folder: Place) -> bool:
    """Whether a folder is a prepared data set."""
    return is_there(folder / "manifest.json")


def read_manifest(folder: Place | str) -> Manifest:
    """Read `manifest.json`.

    Raises `UserError` where `folder` is no prepared data set, or packed where packed
    cases cannot be read from.
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
    )
