"""Many scans: a raw data set becomes a prepared one; a second run does what is left."""

import hashlib
import json
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.progress import track

from adn_jax.config import PrepareSettings, ReadSettings
from adn_jax.config.serialization import differing_fields, settings_to_json
from adn_jax.data.cases import (
    VOLUME_FILES,
    CaseFacts,
    case_checksums,
    check_sums,
    read_facts,
    write_case,
)
from adn_jax.data.manifest import (
    SPLITS,
    Manifest,
    choose_splits,
    has_manifest,
    read_manifest,
)
from adn_jax.datasets.raw import RawCase, RawDataset
from adn_jax.datasets.recognise import find_dataset
from adn_jax.datasets.report import write_report
from adn_jax.distributed.preemption import interrupt_on_sigterm
from adn_jax.errors import UserError, counted, few_of
from adn_jax.io.files import (
    check_fetched,
    is_there,
    only_one,
    read_json,
    remove_remains,
)
from adn_jax.io.image import nearest_ras
from adn_jax.prepare.case import prepare_scan, strip_scan
from adn_jax.prepare.quality_page import (
    write_contact_sheet,
    write_quality_page,
    write_quality_table,
)
from adn_jax.prepare.tissue import load_atlas
from adn_jax.runtime.jobs import Outcome, Processes, attempt
from adn_jax.scans.hounsfield import check_hu_range
from adn_jax.scans.read import onto_scan

PREPARED_VERSION = 6
"""Raised when the same input would be prepared differently: all cases are redone."""
CHECKSUM_READERS = 8
"""Threads that compare checksums: reading waits for the disk, not for Python."""
OVERVIEWS = ("manifest.json", "quality.csv", "quality.html", "report.md")
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
    learnt_by: str = "",
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
        learnt_by: a run that has learnt from what is in `out`; it may not change but
            for cases that are neither learnt from nor validated on.

    Raises:
        UserError: `raw` is no raw data set, `out` holds something else under a
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
    if reading.atlas and settings.tissue != "atlas":
        raise UserError(
            f"--atlas is given, but tissue is {settings.tissue}; add --tissue atlas."
        )
    if reading.atlas:
        load_atlas(reading.atlas)  # one that cannot be read is refused before any work
    check_hu_range(reading.hu_range)
    dataset = find_dataset(raw, reading.layout, reading)
    if raw.resolve() == out.resolve():
        raise UserError(f"{raw} is both input and output; give another output folder.")
    names = [case.name for case in dataset.cases]
    choose = partial(choose_splits, dataset.splits, names, raw / "splits.json")
    choose()  # so is a wrong table
    check_output(out, names)
    remarks = () if dataset.layout == "aisd" else dataset.remarks
    for said in (*remarks, dataset.label_rule(settings.infarct_labels)):
        if said:
            print(f"adn: {said}", file=sys.stderr)
    with interrupt_on_sigterm(), only_one(out):
        return _prepare_whole(
            dataset, out, settings, reading, processes, choose, learnt_by
        )


def _prepare_whole(
    dataset: RawDataset,
    out: Path,
    settings: PrepareSettings,
    reading: ReadSettings,
    processes: Processes,
    choose: Callable[..., dict[str, tuple[str, ...]]],
    learnt_by: str,
) -> Manifest:
    """What is left of the cases, then the manifest and the overviews of all.

    `choose` draws the splits of those that have not `failed`.
    """
    names = [case.name for case in dataset.cases]
    todo = _unprepared(dataset.cases, out, settings, reading)
    there = read_manifest(out) if learnt_by and has_manifest(out) else None
    if there is not None:
        again = [case.name for case in todo]
        splits = choose(failed=there.failed)
        check_learnt(there, settings, names, splits, again, learnt_by)
    remove_half_cases(out, names)
    failed = _prepare_cases(dataset, todo, out, settings, reading, processes)
    if len(failed) == len(names):
        name, reason = next(iter(sorted(failed.items())))
        raise UserError(
            f"no case of {dataset.folder} could be prepared; {name}: {reason}"
        )
    cases = [read_facts(out / name) for name in names if name not in failed]
    splits = choose(failed=failed)
    manifest = _make_manifest(dataset, out, settings, splits, failed, cases)
    if there is not None and manifest.digest != there.digest:
        change = "a case that failed before does not, or the other way round"
        raise _learnt_otherwise(there, learnt_by, change)
    twins = find_twins(manifest)
    flags = {name: (*manifest.flags.get(name, ()), twins[name]) for name in twins}
    manifest = replace(manifest, flags=manifest.flags | flags).with_checksums()
    write_quality_table(out / "quality.csv", cases)
    manifest.write()
    for name, said in twins.items():
        print(f"adn: {name}: {said}", file=sys.stderr)
    write_quality_page(out / "quality.html", manifest, cases)
    write_report(out / "report.md", dataset, manifest, cases)
    return manifest


def check_learnt(
    there: Manifest,
    settings: PrepareSettings,
    names: Collection[str],
    splits: Mapping[str, tuple[str, ...]],
    todo: Collection[str],
    learnt_by: str,
) -> None:
    """Raise `UserError` if what a run has learnt from would be prepared otherwise: with
    other settings, cases (`names`) or splits, or some of its cases are among `todo`."""
    learnt = {name for split in SPLITS[:2] for name in there.splits.get(split, ())}
    fields = list(differing_fields(there.settings, settings, "prepare."))
    others = sorted({*names} ^ {*there.cases, *there.failed})
    redone = [name for name in todo if name in learnt]
    kinds = "other scans, labels, options of reading or version of adn-jax"
    changes = [
        *fields,
        *([f"other cases: {few_of(others)}"] if others else ()),
        *(["other splits"] if splits != there.splits else ()),
        *([f"{kinds}: {few_of(redone)}"] if redone else ()),
    ]
    if changes:  # the first brings about the others
        raise _learnt_otherwise(there, learnt_by, changes[0])


def _learnt_otherwise(there: Manifest, learnt_by: str, change: str) -> UserError:
    """Why a data set that a run has learnt from stays as it is."""
    return UserError(
        f"{there.folder}, from which {learnt_by} has learnt, would be prepared "
        f"otherwise now ({change}); restore that, or choose another folder for the "
        "results."
    )


def check_output(out: Path, names: Collection[str]) -> None:
    """Raise `UserError` if a case would replace what is no prepared case."""
    if "quality" in names:
        raise UserError(
            "a case is called quality, as the folder of the cases' pictures is; rename "
            "it."
        )
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
    remove_remains(out, {*OVERVIEWS, *names})
    remove_remains(out / "quality", {f"{name}.png" for name in names})


def _prepare_cases(
    dataset: RawDataset,
    todo: Sequence[RawCase],
    out: Path,
    settings: PrepareSettings,
    reading: ReadSettings,
    processes: Processes,
) -> dict[str, str]:
    """Prepare the cases `todo`; returns why some failed, by name."""
    if 0 < len(todo) < (total := len(dataset.cases)):
        print(f"finished already: {counted(total - len(todo), 'case')}")
    if not todo:
        return {}
    if len(dataset.cases) == 1:  # no process of its own, unless a cluster is asked for
        processes = replace(processes, workers=1)
    job = partial(_prepare_one, out=out, settings=settings, reading=reading)
    folders = (dataset.folder, out)
    outcomes = processes.run("preparing", job, todo, folders)
    return {name: reason for name, reason in outcomes if reason}


def _unprepared(
    cases: Sequence[RawCase],
    out: Path,
    settings: PrepareSettings,
    reading: ReadSettings,
) -> list[RawCase]:
    """Those cases that are not in `out` as they would be prepared now."""
    check = partial(is_prepared, out=out, settings=settings, reading=reading)
    with ThreadPoolExecutor(CHECKSUM_READERS) as threads:
        checks = threads.map(check, cases)
        try:
            done = [*track(checks, "checking", len(cases), transient=True)]
        except KeyboardInterrupt:
            threads.shutdown(cancel_futures=True)
            raise
    return [case for case, whole in zip(cases, done, strict=True) if not whole]


def is_prepared(
    case: RawCase, out: Path, settings: PrepareSettings, reading: ReadSettings
) -> bool:
    """Whether a case is in `out` whole, made from the same input in the same way."""
    folder = out / case.name
    if not (folder / "case.json").is_file():
        return False
    try:
        known = read_json(folder / "case.json")["input"]
        same = known == input_fingerprint(case, settings, reading)
        if same:
            check_sums(folder)
    except (UserError, OSError, KeyError, TypeError):
        return False
    return same


def input_fingerprint(
    case: RawCase, settings: PrepareSettings, reading: ReadSettings
) -> str:
    """Checksum of everything a prepared case depends on.

    Of the atlas and of unpacked archives the files count, not where they are. Raises
    `UserError` if a file was not fetched.
    """
    anywhere = replace(reading, atlas="", aisd_unpack="", layout="auto")
    chosen = [settings_to_json(settings), settings_to_json(anywhere)]
    total = hashlib.sha256(json.dumps([PREPARED_VERSION, case.name, *chosen]).encode())
    atlas = sorted(Path(reading.atlas).iterdir()) if reading.atlas else []
    for path in (*case.files(), *(path for path in atlas if is_there(path))):
        check_fetched(path)
        with path.open("rb") as file:
            total.update(path.name.encode())
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def _prepare_one(
    raw: RawCase, out: Path, settings: PrepareSettings, reading: ReadSettings
) -> Outcome:
    """Prepare one case; returns its name and why it failed."""
    work = partial(prepare_and_write, raw, out, settings, reading)
    return attempt(raw.name, work)


def prepare_and_write(
    raw: RawCase, out: Path, settings: PrepareSettings, reading: ReadSettings
) -> None:
    """Prepare one case into `out`, with its picture under `out/quality`."""
    record = {
        "input": input_fingerprint(raw, settings, reading),
        "settings": settings_to_json(settings),
    }
    given = raw.load(settings, reading)
    stripped = strip_scan(given)
    case = prepare_scan(given, settings, stripped, reading.atlas)
    case = replace(case, name=raw.name)
    label = None
    if given.lesion is not None:
        label, _ = nearest_ras(onto_scan(given.lesion, given.scan))
    write_contact_sheet(
        out / "quality" / f"{raw.name}.png",
        stripped.hu,
        stripped.brain,
        stripped.affine,
        label,
    )
    write_case(out / raw.name, case, given.lesion, record)


def _make_manifest(
    dataset: RawDataset,
    out: Path,
    settings: PrepareSettings,
    splits: Mapping[str, tuple[str, ...]],
    failed: Mapping[str, str],
    cases: Sequence[CaseFacts],
) -> Manifest:
    """The manifest: what was prepared, what was not, and why."""
    lacking = {
        volume: tuple(case.name for case in cases if volume not in case.volumes)
        for volume in ("lesion", "tissue")
    }
    lesion_ml = ("lesion_ml", "lesion_prepared_ml")  # a label may mark nothing, or
    lacking["infarct"] = tuple(  # nothing that the prepared grid shows
        case.name
        for case in cases
        if 0.0 in (case.quality.get(name) for name in lesion_ml)
    )
    return Manifest(
        settings=settings,
        cases=tuple(case.name for case in cases),
        splits=dict(splits),
        folder=out,
        failed=dict(sorted(failed.items())),
        left_out=dict(sorted(dataset.left_out.items())),
        layout=dataset.layout,
        flags={case.name: case.flags for case in cases if case.flags},
        lacking=lacking,
    )


def find_twins(manifest: Manifest) -> dict[str, str]:
    """A sentence for each case whose scan is that of a case in another split: what is
    scored would have been learnt."""
    file, _ = VOLUME_FILES["volume"]
    first: dict[str, tuple[str, str]] = {}
    twins = {}
    for split, names in manifest.splits.items():
        for name in names:
            files = case_checksums(manifest.case_folder(name)) or {}
            other, there = first.setdefault(files.get(file, name), (name, split))
            if there != split:
                twins[name] = f"the same scan is {other}, in the split {there}"
    return twins


def orphaned_cases(manifest: Manifest) -> list[str]:
    """Prepared cases in the folder that the raw data set does not hold (any more)."""
    found = {path.parent.name for path in manifest.folder.glob("*/case.json")}
    return sorted(found - {*manifest.cases, *manifest.failed})


def log_manifest(manifest: Manifest) -> None:
    """Print what deserves to be known of a prepared data set before it is used.

    On stderr which cases are left out, and why, and what is wrong with its splits; then
    which are left out on purpose or have no label, and the flags by their kind.
    """
    for name, reason in manifest.failed.items():
        print(f"adn: {name} is left out: {reason}", file=sys.stderr)
    for sentence in odd_splits(manifest):
        print(f"adn: {sentence}", file=sys.stderr)
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
