"""Many scans: a raw data set becomes a prepared one; a second run does what is left."""

import errno
import hashlib
import json
import logging
import re
import shutil
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from adn_jax.config import PrepareSettings
from adn_jax.config_checks import settings_to_json
from adn_jax.data.cases import (
    Manifest,
    check_sums,
    read_case,
    write_case,
    write_manifest,
)
from adn_jax.data.nifti import open_nifti
from adn_jax.data.splits import choose_splits
from adn_jax.errors import UserError
from adn_jax.prepare.case import native_label, prepare_scan, strip_scan
from adn_jax.prepare.quality import write_mosaic, write_quality_table
from adn_jax.prepare.read import NIFTI_ENDINGS, find_nifti, read_scan
from adn_jax.prepare.tissue import TISSUES, TissueMaps
from adn_jax.runtime.files import read_json
from adn_jax.runtime.workers import worker_count

VERSION = 1
"""Raised when the same input would be prepared differently: all cases are redone."""

FULL_DISK = {errno.ENOSPC, errno.EDQUOT}

SPM_MAPS = {"grey": "c1", "white": "c2", "csf": "c3"}


@dataclass(frozen=True)
class RawCase:
    """The files of one case of a raw data set; None where there is none."""

    name: str
    scan: Path
    lesion: Path | None = None
    tissue: dict[str, Path] | None = None
    pathological: Path | None = None
    pose: Path | None = None

    def files(self) -> list[Path]:
        """Every input file, in a fixed order."""
        scan = sorted(self.scan.rglob("*")) if self.scan.is_dir() else [self.scan]
        maps = list((self.tissue or {}).values())
        others = [self.lesion, *maps, self.pathological, self.pose]
        return [
            path for path in (*scan, *others) if path is not None and path.is_file()
        ]


def prepare_dataset(
    raw: Path, out: Path, settings: PrepareSettings, workers: int | None = None
) -> Manifest:
    """Prepare every case of a raw data set that is missing or changed in `out`.

    A case that cannot be prepared is left out with its reason in the manifest.

    Args:
        raw: `<case>/ct.nii.gz` or `<case>/dicom/`, with labels and maps as they exist.
        out: folder of the prepared data set.
        settings: how scans are prepared.
        workers: processes side by side; None: one a processor.

    Raises:
        UserError: where `raw` is no raw data set, `out` holds something else under a
            case's name, the disk is full, or nothing could be prepared.
    """
    cases = find_cases(raw, out)
    names = [case.name for case in cases]
    splits = choose_splits(raw, names)
    check_replaceable(out, names)
    remove_remains(out, names)
    count = worker_count(workers, len(cases))
    job = partial(prepare_one, out=out, settings=settings)
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


def find_cases(raw: Path, out: Path) -> list[RawCase]:
    """The cases of a raw data set by name; `UserError` where there are none."""
    if not raw.is_dir():
        raise UserError(f"{raw} is no folder; give the folder of a raw data set.")
    if raw.resolve() == out.resolve():
        raise UserError(f"{raw} is both input and output; give another output folder.")
    folders = sorted(path for path in raw.iterdir() if path.is_dir())
    cases = [case for folder in folders if (case := find_case(folder)) is not None]
    if not cases:
        what = "is empty" if not any(raw.iterdir()) else "holds no case"
        raise UserError(
            f"{raw} {what}; a raw data set has folders <case>/ with ct.nii.gz or "
            "dicom/ in them."
        )
    return cases


def find_case(folder: Path) -> RawCase | None:
    """The files of a case folder; None where there is no scan in it."""
    dicom = folder / "dicom"
    scan = find_nifti(folder) or (dicom if dicom.is_dir() else None)
    if scan is None or folder.name.startswith("."):
        return None
    pose = folder / "truth" / "pose.json"
    maps = {name: find_map(folder / "tissue", name) for name in TISSUES}
    found = {name: path for name, path in maps.items() if path is not None}
    return RawCase(
        name=folder.name,
        scan=scan,
        lesion=first_file(folder, "lesion"),
        tissue=found or None,
        pathological=first_file(folder / "truth", "pathological"),
        pose=pose if pose.is_file() else None,
    )


def first_file(folder: Path, stem: str) -> Path | None:
    """`stem` with the first NIfTI ending that exists in a folder."""
    paths = (folder / f"{stem}{ending}" for ending in NIFTI_ENDINGS)
    return next((path for path in paths if path.is_file()), None)


def find_map(folder: Path, tissue: str) -> Path | None:
    """A tissue map under its own name, or as SPM writes it (`c1*.nii`)."""
    spm = [*sorted(folder.glob(f"{SPM_MAPS[tissue]}*.nii*"))]
    return first_file(folder, tissue) or (spm[0] if spm else None)


def prepare_one(
    raw: RawCase, out: Path, settings: PrepareSettings
) -> tuple[str, str | None]:
    """Prepare one case unless that is done; returns its name and why it failed.

    Raises `UserError` where the disk is full: that is no fault of the case.
    """
    try:
        print_of_input = fingerprint(raw, settings)
        if not is_done(out / raw.name, print_of_input):
            prepare_and_write(raw, out, settings, print_of_input)
    except UserError as error:
        if getattr(error.__cause__, "errno", None) in FULL_DISK:
            raise
        return raw.name, str(error)
    except Exception as error:  # whatever a file holds, the other cases go on
        return raw.name, f"unexpected {type(error).__name__}: {error}"
    return raw.name, None


def prepare_and_write(
    raw: RawCase, out: Path, settings: PrepareSettings, print_of_input: str
) -> None:
    """Prepare one case into `out`, with its picture under `out/quality`."""
    scan = read_scan(raw.scan)
    head = strip_scan(scan)
    label = None
    if raw.lesion is not None:
        label = native_label(open_nifti(raw.lesion), scan, settings.infarct_labels)
    loss = None if raw.pathological is None else open_nifti(raw.pathological)
    case = prepare_scan(
        scan,
        settings,
        lesion=label,
        tissue=open_tissue(raw),
        pathological=loss,
        truth=None if raw.pose is None else read_json(raw.pose),
        head=head,
    )
    write_mosaic(out / "quality" / f"{raw.name}.png", head.hu, head.brain, head.affine)
    record = {"input": print_of_input, "settings": settings_to_json(settings)}
    write_case(out / raw.name, case, label, record)


def open_tissue(raw: RawCase) -> TissueMaps | None:
    """The given tissue maps; `UserError` where only some of the three exist."""
    if raw.tissue is None:
        return None
    if missing := [name for name in TISSUES if name not in raw.tissue]:
        raise UserError(
            f"{raw.name} has tissue maps but none of {missing[0]}; give all of "
            f"{', '.join(TISSUES)}, or none."
        )
    return {name: open_nifti(path) for name, path in raw.tissue.items()}


def fingerprint(raw: RawCase, settings: PrepareSettings) -> str:
    """Checksum of everything a prepared case depends on."""
    total = hashlib.sha256(
        json.dumps([VERSION, raw.name, settings_to_json(settings)]).encode()
    )
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
