"""Many scans: a raw data set becomes a prepared one; a second run does what is left."""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from adn_jax.config import PrepareSettings, ReadSettings
from adn_jax.config.serialization import settings_to_json
from adn_jax.data.cases import CaseFacts, read_facts, write_case
from adn_jax.data.manifest import Manifest, write_manifest
from adn_jax.data.splits import SPLITS, choose_splits
from adn_jax.datasets.raw import RawCase, RawDataset
from adn_jax.datasets.recognise import find_dataset
from adn_jax.datasets.report import write_report
from adn_jax.distributed.preemption import interrupt_on_sigterm
from adn_jax.errors import UserError, counted, few_of
from adn_jax.io.files import only_one
from adn_jax.prepare.atlas import load_atlas
from adn_jax.prepare.case import prepare_scan, strip_scan
from adn_jax.prepare.quality import write_quality_table
from adn_jax.prepare.quality_page import write_mosaic, write_quality_page
from adn_jax.prepare.resume import (
    check_replaceable,
    fingerprint,
    remove_half_cases,
    unfinished_cases,
)
from adn_jax.runtime.jobs import Outcome, Processes, attempt, run_cases
from adn_jax.scans.hounsfield import check_hu_range

MOST_KINDS = 6
"""Kinds of flags that the screen shows."""


def prepare_dataset(
    raw: Path | str,
    out: Path | str,
    settings: PrepareSettings,
    workers: int | None = None,
    reading: ReadSettings | None = None,
    scheduler: str = "",
    memory_gib: float | None = None,
) -> Manifest:
    """Prepare every case of a raw data set that is missing or changed in `out`.

    A case that cannot be prepared is left out with its reason in the manifest.

    Args:
        raw: a raw data set of any layout that `datasets.recognise` knows.
        out: folder of the prepared data set.
        settings: how scans are prepared.
        workers: processes side by side; None: one a processor, as far as the memory
            lasts; 1: this process alone, which a crash would end.
        reading: how the raw data is found and read; None: the defaults.
        scheduler: address of a Dask cluster that prepares the cases, which has its own
            processes and memory.
        memory_gib: what each process may take; None: an equal share.

    Raises:
        UserError: where `raw` is no raw data set, `out` holds something else under a
            case's name or is in use, the disk is full, no cluster answers, or nothing
            could be prepared.
        KeyboardInterrupt: at Ctrl-C and SIGTERM; another call continues.
    """
    raw, out = Path(raw), Path(out)
    reading = ReadSettings() if reading is None else reading
    processes = Processes(workers, memory_gib, scheduler)
    if scheduler:  # its workers start in other folders
        raw, out = raw.absolute(), out.absolute()
        atlas, unpack = (
            folder and str(Path(folder).absolute())
            for folder in (reading.atlas, reading.aisd_unpack)
        )
        reading = replace(reading, atlas=atlas, aisd_unpack=unpack)
    _check_atlas(settings, reading)
    check_hu_range(reading.hu_range)
    dataset = find_dataset(raw, reading.layout, reading)
    if raw.resolve() == out.resolve():
        raise UserError(f"{raw} is both input and output; give another output folder.")
    names = [case.name for case in dataset.cases]
    choose = partial(choose_splits, dataset.splits, names, raw / "splits.json")
    choose()  # a wrong table is refused before any work
    check_replaceable(out, names)
    with interrupt_on_sigterm(), only_one(out):
        remove_half_cases(out, names)
        failed = _prepare_cases(dataset, out, settings, reading, processes)
        if len(failed) == len(names):
            name, reason = next(iter(sorted(failed.items())))
            raise UserError(f"no case of {raw} could be prepared; {name}: {reason}")
        cases = [read_facts(out / name) for name in names if name not in failed]
        splits = choose(failed=failed)
        manifest = describe(dataset, out, settings, splits, failed, cases)
        _write_overview(dataset, manifest, cases)
    return manifest


def _check_atlas(settings: PrepareSettings, reading: ReadSettings) -> None:
    """Raise `UserError` for an atlas that cannot be read, or would not be used."""
    if reading.atlas and settings.tissue != "atlas":
        raise UserError(
            f"--atlas is given, but tissue is {settings.tissue}; add --tissue atlas."
        )
    if reading.atlas:
        load_atlas(reading.atlas)


def describe(
    dataset: RawDataset,
    out: Path,
    settings: PrepareSettings,
    splits: Mapping[str, tuple[str, ...]],
    failed: Mapping[str, str],
    cases: Sequence[CaseFacts],
) -> Manifest:
    """The manifest: what was prepared, what was not, and why."""
    return Manifest(
        settings=settings,
        cases=tuple(case.name for case in cases),
        splits=dict(splits),
        folder=out,
        failed=dict(sorted(failed.items())),
        left_out=dict(sorted(dataset.left_out.items())),
        layout=dataset.layout,
        flags={case.name: case.flags for case in cases if case.flags},
        lacking={
            **{
                volume: tuple(case.name for case in cases if volume not in case.volumes)
                for volume in ("lesion", "tissue")
            },
            "infarct": tuple(case.name for case in cases if _is_without_infarct(case)),
        },
    )


def _is_without_infarct(case: CaseFacts) -> bool:
    """Whether a case has a label that marks nothing, there or on the prepared grid."""
    volumes = (case.quality.get(name) for name in ("lesion_ml", "lesion_prepared_ml"))
    return 0.0 in volumes


def _write_overview(
    dataset: RawDataset, manifest: Manifest, cases: Sequence[CaseFacts]
) -> None:
    """Write the manifest, the quality table and page, and the report over all cases."""
    out = manifest.folder
    write_quality_table(out / "quality.csv", cases)
    write_manifest(manifest)
    write_quality_page(out / "quality.html", manifest, cases)
    write_report(out / "report.md", dataset, manifest, cases)


def name_failures(manifest: Manifest) -> None:
    """Say on stderr which cases are left out of a prepared data set, and why, and what
    is wrong with its splits."""
    for name, reason in manifest.failed.items():
        print(f"adn: {name} is left out: {reason}", file=sys.stderr)
    for sentence in odd_splits(manifest):
        print(f"adn: {sentence}", file=sys.stderr)


def say_what_is_odd(manifest: Manifest) -> None:
    """Print which cases are left out on purpose or have no label, and the flags."""
    if manifest.left_out:
        names = few_of([*manifest.left_out])
        print(f"left out on purpose, for reasons in report.md: {names}")
    if unlabelled := manifest.lacking.get("lesion"):
        print(f"without a label, and so not to train on: {few_of(unlabelled)}")
    kinds: dict[str, list[tuple[str, str]]] = {}
    for name, flags in manifest.flags.items():
        for flag in flags:
            kinds.setdefault(re.sub(r"\d[\d.]*", "#", flag), []).append((name, flag))
    for found in sorted(kinds.values(), key=len, reverse=True)[:MOST_KINDS]:
        first, flag = found[0]
        more = f" (the first of {len(found)} such cases)" if len(found) > 1 else ""
        print(f"flag: {flag}, in {first}{more}")
    if len(kinds) > MOST_KINDS:
        print(f"and {counted(len(kinds) - MOST_KINDS, 'other kind')} of flags")


def odd_splits(manifest: Manifest) -> Iterator[str]:
    """A sentence for the splits without a case, and one for cases in no split."""
    empty = [split for split in SPLITS if not manifest.splits.get(split)]
    if empty:
        plural = "splits" if len(empty) > 1 else "split"
        yield (
            f"no case is in the {plural} {' and '.join(empty)} "
            f"({counted(len(manifest.cases), 'case')} in all); training needs train "
            "and validation, evaluation the split that it scores."
        )
    named = {name for names in manifest.splits.values() for name in names}
    if unused := [name for name in manifest.cases if name not in named]:
        yield (
            f"{counted(len(unused), 'case')} of {len(manifest.cases)} in none of the "
            f"splits, and so not used: {few_of(unused)}."
        )


def _prepare_cases(
    dataset: RawDataset,
    out: Path,
    settings: PrepareSettings,
    reading: ReadSettings,
    processes: Processes,
) -> dict[str, str]:
    """Prepare the cases that are not finished; returns why some failed, by name."""
    todo = unfinished_cases(dataset.cases, out, settings, reading)
    if 0 < len(todo) < len(dataset.cases):
        finished = len(dataset.cases) - len(todo)
        print(f"finished already: {counted(finished, 'case')}")
    if not todo:
        return {}
    if len(dataset.cases) == 1:  # no process of its own, unless a cluster is asked for
        processes = replace(processes, workers=1)
    job = partial(_prepare_one, out=out, settings=settings, reading=reading)
    folders = (dataset.folder, out)
    outcomes = run_cases("preparing", job, todo, processes, folders)
    return {name: reason for name, reason in outcomes if reason}


def _prepare_one(
    raw: RawCase, out: Path, settings: PrepareSettings, reading: ReadSettings
) -> Outcome:
    """Prepare one case; returns its name and why it failed."""
    work = partial(prepare_and_write, raw, out, settings, reading)
    return attempt(raw.name, work)


def prepare_and_write(
    raw: RawCase,
    out: Path,
    settings: PrepareSettings,
    reading: ReadSettings,
) -> None:
    """Prepare one case into `out`, with its picture under `out/quality`."""
    record = {
        "input": fingerprint(raw, settings, reading),
        "settings": settings_to_json(settings),
    }
    given = raw.load(settings, reading)
    head = strip_scan(given)
    case = prepare_scan(given, settings, head, reading.atlas)
    case = replace(case, name=raw.name)
    write_mosaic(out / "quality" / f"{raw.name}.png", head.hu, head.brain, head.affine)
    write_case(out / raw.name, case, given.lesion, record)
