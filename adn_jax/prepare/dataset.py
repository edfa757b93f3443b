"""Many scans: a raw data set becomes a prepared one; a second run does what is left."""

import errno
import hashlib
import json
import logging
import re
import shutil
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from adn_jax.config import PrepareSettings, ReadSettings
from adn_jax.config_checks import settings_to_json
from adn_jax.data.cases import (
    Manifest,
    check_sums,
    read_case,
    write_case,
    write_manifest,
)
from adn_jax.data.splits import choose_splits
from adn_jax.errors import UserError
from adn_jax.prepare.case import prepare_scan, strip_scan
from adn_jax.prepare.layouts.cases import RawCase
from adn_jax.prepare.layouts.plain import find_case
from adn_jax.prepare.layouts.recognise import find_dataset
from adn_jax.prepare.quality import write_mosaic, write_quality_table
from adn_jax.runtime.files import read_json
from adn_jax.runtime.workers import worker_count

VERSION = 1
"""Raised when the same input would be prepared differently: all cases are redone."""

FULL_DISK = {errno.ENOSPC, errno.EDQUOT}


def prepare_dataset(
    raw: Path,
    out: Path,
    settings: PrepareSettings,
    workers: int | None = None,
    reading: ReadSettings | None = None,
) -> Manifest:
    """Prepare every case of a raw data set that is missing or changed in `out`.

    A case that cannot be prepared is left out with its reason in the manifest.

    Args:
        raw: a raw data set of any layout that `layouts.recognise` knows.
        out: folder of the prepared data set.
        settings: how scans are prepared.
        workers: processes side by side; None: one a processor.
        reading: how the raw data is found and read; None: the defaults.

    Raises:
        UserError: where `raw` is no raw data set, `out` holds something else under a
            case's name, the disk is full, or nothing could be prepared.
    """
    reading = ReadSettings() if reading is None else reading
    dataset = find_dataset(raw, reading.layout)
    if raw.resolve() == out.resolve():
        raise UserError(f"{raw} is both input and output; give another output folder.")
    cases = dataset.cases
    names = [case.name for case in cases]
    splits = choose_splits(dataset.splits, names, raw / "splits.json")
    check_replaceable(out, names)
    remove_remains(out, names)
    count = worker_count(workers, len(cases))
    job = partial(prepare_one, out=out, settings=settings, reading=reading)
    failed = {name: reason for name, reason in run_all(job, cases, count) if reason}
    if len(failed) == len(cases):
        name, reason = next(iter(sorted(failed.items())))
        raise UserError(f"no case of {raw} could be prepared; {name}: {reason}")
    kept = tuple(name for name in names if name not in failed)
    manifest = Manifest(
        settings=settings,
        cases=kept,
        splits={
            split: tuple(name for name in chosen if name in kept)
            for split, chosen in splits.items()
        },
        folder=out,
        failed=dict(sorted(failed.items())),
    )
    write_quality_table(
        out / "quality.csv", (read_case(out / name) for name in manifest.cases)
    )
    write_manifest(manifest)
    return manifest


def name_failures(manifest: Manifest) -> None:
    """Say on stderr which cases are left out of a prepared data set, and why."""
    for name, reason in manifest.failed.items():
        print(f"adn: {name} is left out: {reason}", file=sys.stderr)


def prepare_one(
    raw: RawCase, out: Path, settings: PrepareSettings, reading: ReadSettings
) -> tuple[str, str | None]:
    """Prepare one case unless that is done; returns its name and why it failed.

    Raises `UserError` where the disk is full: that is no fault of the case.
    """
    try:
        record = {
            "input": fingerprint(raw, settings, reading),
            "settings": settings_to_json(settings),
        }
        if not is_done(out / raw.name, record["input"]):
            prepare_and_write(raw, out, settings, reading, record)
    except UserError as error:
        if getattr(error.__cause__, "errno", None) in FULL_DISK:
            raise
        return raw.name, str(error)
    except Exception as error:  # whatever a file holds, the other cases go on
        return raw.name, f"unexpected {type(error).__name__}: {error}"
    return raw.name, None


def prepare_and_write(
    raw: RawCase,
    out: Path,
    settings: PrepareSettings,
    reading: ReadSettings,
    record: Mapping[str, Any],
) -> None:
    """Prepare one case into `out`, with its picture under `out/quality`.

    `record` joins case.json.
    """
    given = raw.load(settings, reading)
    head = strip_scan(given)
    case = prepare_scan(given, settings, head, reading.atlas)
    case = replace(case, name=raw.name)
    write_mosaic(out / "quality" / f"{raw.name}.png", head.hu, head.brain, head.affine)
    write_case(out / raw.name, case, given.lesion, record)


def fingerprint(raw: RawCase, settings: PrepareSettings, reading: ReadSettings) -> str:
    """Checksum of everything a prepared case depends on."""
    chosen = [settings_to_json(settings), settings_to_json(reading)]
    total = hashlib.sha256(json.dumps([VERSION, raw.name, *chosen]).encode())
    for path in raw.files():
        with path.open("rb") as file:
            total.update(path.name.encode())
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def is_done(folder: Path, print_of_input: str) -> bool:
    """Whether a case stands there whole, made from the same input."""
    try:
        same = read_json(folder / "case.json")["input"] == print_of_input
        check_sums(folder)
    except (UserError, KeyError, TypeError):
        return False
    return same


def check_replaceable(out: Path, names: Collection[str]) -> None:
    """Raise `UserError` where a case would replace the folder of a raw case."""
    for name in names:
        prepared = (out / name / "case.json").is_file()
        if find_case(out / name) is not None and not prepared:
            raise UserError(
                f"{out / name} holds a raw case, which the prepared one would replace; "
                "give another output folder."
            )


def remove_remains(out: Path, names: Collection[str]) -> None:
    """Remove the case folders that a killed run left half-written."""
    for path in out.glob(".*"):
        unfinished = re.fullmatch(r"\.\d+\.(.+)", path.name)
        if unfinished and unfinished[1] in names:
            shutil.rmtree(path, ignore_errors=True)


def run_all(
    job: Callable[[RawCase], tuple[str, str | None]],
    cases: Sequence[RawCase],
    workers: int,
) -> list[tuple[str, str | None]]:
    """Run the job for every case, in `workers` processes, with a progress bar."""
    bar = Progress(
        "preparing", BarColumn(), MofNCompleteColumn(), "left", TimeRemainingColumn()
    )
    results = map(job, cases) if workers == 1 else in_processes(job, cases, workers)
    with bar:
        return list(bar.track(results, total=len(cases)))


def in_processes(
    job: Callable[[RawCase], tuple[str, str | None]],
    cases: Sequence[RawCase],
    workers: int,
) -> Iterator[tuple[str, str | None]]:
    """Results of the job as they come in from local Dask processes."""
    import dask
    from dask.distributed import Client, LocalCluster, as_completed

    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "120s"}),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            memory_limit=0,
            dashboard_address=None,
        ) as cluster,
        Client(cluster) as client,
    ):
        names = {
            future: case.name
            for future, case in zip(
                client.map(job, cases, pure=False), cases, strict=True
            )
        }
        for future in as_completed(names):
            error = future.exception()
            if isinstance(error, UserError):
                raise error
            lost = f"its process ended ({type(error).__name__}); prepare it alone."
            yield (names[future], lost) if error is not None else future.result()
