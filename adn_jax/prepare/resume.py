"""What earlier runs left in a prepared data set: whole cases, half ones, orphans."""

import hashlib
import json
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.progress import track

from adn_jax.config import PrepareSettings, ReadSettings
from adn_jax.config.serialization import settings_to_json
from adn_jax.data.cases import check_sums
from adn_jax.data.manifest import Manifest
from adn_jax.datasets.raw import RawCase
from adn_jax.errors import UserError
from adn_jax.io.files import check_fetched, is_there, read_json, remove_remains

VERSION = 3
"""Raised when the same input would be prepared differently: all cases are redone."""

READERS = 8
"""Threads that compare checksums: reading waits for the disk, not for Python."""


def unfinished_cases(
    cases: Sequence[RawCase],
    out: Path,
    settings: PrepareSettings,
    reading: ReadSettings,
) -> list[RawCase]:
    """The cases that are not in `out` whole, made from the same input."""
    check = partial(is_done, out=out, settings=settings, reading=reading)
    with ThreadPoolExecutor(READERS) as threads:
        checks = threads.map(check, cases)
        try:
            done = list(track(checks, "checking", len(cases), transient=True))
        except KeyboardInterrupt:
            threads.shutdown(cancel_futures=True)
            raise
    return [case for case, whole in zip(cases, done, strict=True) if not whole]


def is_done(
    case: RawCase, out: Path, settings: PrepareSettings, reading: ReadSettings
) -> bool:
    """Whether a case is in `out` whole, made from the same input in the same way."""
    folder = out / case.name
    if not (folder / "case.json").is_file():
        return False
    try:
        known = read_json(folder / "case.json")["input"]
        same = known == fingerprint(case, settings, reading)
        if same:
            check_sums(folder)
    except (UserError, OSError, KeyError, TypeError):
        return False
    return same


def fingerprint(case: RawCase, settings: PrepareSettings, reading: ReadSettings) -> str:
    """Checksum of everything a prepared case depends on.

    Of the atlas and of unpacked archives the files count, not where they are. Raises
    `UserError` where a file was not fetched.
    """
    anywhere = replace(reading, atlas="", aisd_unpack="", layout="auto")
    chosen = [settings_to_json(settings), settings_to_json(anywhere)]
    total = hashlib.sha256(json.dumps([VERSION, case.name, *chosen]).encode())
    atlas = sorted(Path(reading.atlas).iterdir()) if reading.atlas else []
    for path in (*case.files(), *(path for path in atlas if is_there(path))):
        check_fetched(path)
        with path.open("rb") as file:
            total.update(path.name.encode())
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def check_replaceable(out: Path, names: Collection[str]) -> None:
    """Raise `UserError` where a case would replace what is no prepared case."""
    for name in names:
        place = out / name
        prepared = (place / "case.json").is_file()
        used = place.is_file() or (place.is_dir() and any(place.iterdir()))
        if used and not prepared:
            raise UserError(
                f"{place} is no prepared case, and one of that name would replace it; "
                "give another output folder."
            )


def remove_half_cases(out: Path, names: Collection[str]) -> None:
    """Remove what a killed run left half-written: cases, pictures and overviews."""
    overviews = ("manifest.json", "quality.csv", "quality.html", "report.md")
    remove_remains(out, {*overviews, *names})
    remove_remains(out / "quality", {f"{name}.png" for name in names})


def orphaned_cases(manifest: Manifest) -> list[str]:
    """Prepared cases in the folder that the raw data set does not hold (any more)."""
    found = {path.parent.name for path in manifest.folder.glob("*/case.json")}
    return sorted(found - {*manifest.cases, *manifest.failed})
