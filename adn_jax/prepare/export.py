"""Prepared data sets in other forms: nnU-Net's raw layout, and few large files.

Peers train on the same in nnU-Net's layout: same cases, splits and label rule; HU on
each scan's own grid or on the prepared one. Packed, cases lie well in object stores and
on clusters.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.progress import track

from adn_jax.config import PrepareSettings, ReadSettings
from adn_jax.data.cases import (
    NATIVE_LESION,
    VOLUME_FILES,
    check_sums,
    read_case,
    read_native_lesion,
    sha256,
)
from adn_jax.data.manifest import (
    Manifest,
    check_reach,
    read_manifest,
    write_shard,
)
from adn_jax.datasets.raw import RawCase
from adn_jax.datasets.recognise import find_dataset
from adn_jax.distributed.preemption import interrupt_on_sigterm
from adn_jax.errors import UserError
from adn_jax.io.files import (
    atomic_path,
    is_there,
    is_vacant,
    only_one,
    read_json,
    remove_remains,
    write_json,
)
from adn_jax.io.image import Image, from_zyx, onto_voxels, write_image
from adn_jax.io.paths import Place, check_apart, is_remote, read_bytes
from adn_jax.prepare.dataset import input_fingerprint
from adn_jax.runtime.jobs import Outcome, Processes, attempt

RECORDS = "adn"
"""Folder of what was exported and from what; nnU-Net does not look at it."""
FOLDERS = ("imagesTr", "labelsTr", "imagesTs", "labelsTs", RECORDS)
EXPORTED_VERSION = 1
"""Raised when the same case would be exported differently: all cases are redone."""
ENDING = ".nii.gz"
CASES_PER_SHARD = 128
"""About 110 MB at full size."""

GridName = Literal["native", "prepared"]


@dataclass(frozen=True)
class Export:
    """What was exported; `failed` and `left_out` say why a case was not."""

    folder: Path
    splits: dict[str, tuple[str, ...]]
    failed: dict[str, str]
    left_out: dict[str, str]

    def describe(self, settings: PrepareSettings, grid: GridName) -> None:
        """Write `dataset.json`, and `splits_final.json` with our split as fold 0."""
        train, validation = (
            list(self.splits[name]) for name in ("train", "validation")
        )
        about: dict[str, Any] = {
            "channel_names": {"0": "CT"},
            "labels": {"background": 0, "infarct": 1},
            "numTraining": len(train) + len(validation),
            "file_ending": ENDING,
            "overwrite_image_reader_writer": "NibabelIOWithReorient",
            "name": self.folder.name,
            "description": f"head CT in HU on the {grid} grid; infarct is what "
            f"{list(settings.infarct_labels)} mark in the raw labels",
        }
        write_json(self.folder / "dataset.json", about)
        path = self.folder / "splits_final.json"
        if validation:
            write_json(path, [{"train": train, "val": validation}])
        else:
            path.unlink(missing_ok=True)


def export_dataset(
    prepared: Path,
    out: Path,
    raw: Path | None = None,
    grid: GridName | None = None,
    dataset_id: int = 501,
    name: str = "ADN",
    reading: ReadSettings | None = None,
    workers: int | None = None,
) -> Export:
    """Export a prepared data set to `out/DatasetXXX_NAME`; what is done is kept.

    Args:
        prepared: a prepared data set.
        out: nnU-Net's folder of raw data sets.
        raw: the raw data set that was prepared, for the native grid.
        grid: "native": each scan in HU and its label on the scan's own grid, read from
            `raw` as it was prepared; "prepared": the prepared volumes, their window
            units turned back into HU, 0 outside the brain becoming the window's lower
            end. None: native where `raw` is given.
        dataset_id: number of the data set, 1 to 999.
        name: its name, of letters, digits, - and _.
        reading: how the raw data was read when it was prepared; None: the defaults.
        workers: processes side by side; None: one a processor; 1: this one.

    Raises:
        UserError: `out` holds something else under that name, an argument cannot
            be, the disk is full, or no training case could be exported.
    """
    if raw is not None and grid == "prepared":
        raise UserError(
            "the raw data set is given, which the prepared grid needs nothing of; "
            "leave out --raw, or --grid prepared."
        )
    grid = ("prepared" if raw is None else "native") if grid is None else grid
    if raw is None and reading not in {None, ReadSettings()}:
        raise UserError(
            "options of reading raw data are given without --raw; add that, or leave "
            "them out."
        )
    reading = ReadSettings() if reading is None else reading
    processes = Processes(workers)
    if not 1 <= dataset_id <= 999:
        raise UserError(f"--dataset-id is {dataset_id}; give a number from 1 to 999.")
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise UserError(f"--name is {name!r}; use letters, digits, - and _.")
    check_apart(out, prepared)
    folder = out / f"Dataset{dataset_id:03d}_{name}"
    manifest = read_manifest(prepared)
    if manifest.shards:
        raise UserError(
            f"{prepared} is packed; give the prepared data set that it was made of."
        )
    sources, left_out = _choose_sources(manifest, grid, raw, reading)
    target = Target(folder, grid, manifest.settings, reading)
    target.claim({"prepared": str(prepared.resolve()), "grid": grid})
    with interrupt_on_sigterm(), only_one(folder):
        failed = _export_cases(sources, target, processes)
        exported = {one.name for one in sources} - failed.keys()
        if not any(one.part == "Tr" and one.name in exported for one in sources):
            reasons = {**left_out, **failed} or {"it": "has no training cases."}
            case, reason = next(iter(sorted(reasons.items())))
            raise UserError(
                f"no training case of {prepared} could be exported; {case}: {reason}"
            )
        splits = {
            split: tuple(name for name in names if name in exported)
            for split, names in manifest.splits.items()
        }
        export = Export(folder, splits, dict(sorted(failed.items())), left_out)
        export.describe(manifest.settings, grid)
    return export


@dataclass(frozen=True)
class ExportCase:
    """A case to export: its prepared folder, its part, and its raw case if wanted."""

    name: str
    prepared: Path
    part: Literal["Tr", "Ts"]
    labelled: bool
    raw: RawCase | None = None

    @property
    def files(self) -> list[str]:
        """Paths of its image and its label, if it has one, in the exported data set."""
        image = f"images{self.part}/{self.name}_0000{ENDING}"
        label = f"labels{self.part}/{self.name}{ENDING}"
        return [image, label] if self.labelled else [image]


def _choose_sources(
    manifest: Manifest, grid: GridName, raw: Path | None, reading: ReadSettings
) -> tuple[list[ExportCase], dict[str, str]]:
    """The cases to export, and why others are not: no label to learn from, no split.

    On the native grid each has its raw case; None if the raw data set lacks it.
    """
    parts: dict[str, Literal["Tr", "Ts"]] = {
        name: "Ts" if split == "test" else "Tr"
        for split, names in manifest.splits.items()
        for name in names
    }
    label = NATIVE_LESION if grid == "native" else VOLUME_FILES["lesion"][0]
    cases: dict[str, RawCase] = {}
    if grid == "native":
        if raw is None:
            raise UserError(
                "the native grid needs the scans themselves; give the raw data set, "
                "--raw RAW, or take --grid prepared."
            )
        found = find_dataset(raw, reading.layout, reading).cases
        cases = {case.name: case for case in found}
    sources, left_out = [], {}
    for name in manifest.cases:
        folder = Path(manifest.folder / name)
        labelled = (folder / label).is_file()
        if name not in parts:
            left_out[name] = "it is in none of the splits."
        elif parts[name] == "Tr" and not labelled:
            left_out[name] = "it has no lesion label to learn from."
        else:
            source = ExportCase(name, folder, parts[name], labelled, cases.get(name))
            sources.append(source)
    return sources, left_out


@dataclass(frozen=True)
class Target:
    """The folder that cases are exported to, and how they are.

    A record beside the cases names the files of each before they are written, and their
    bytes afterwards. So nothing is ever there that no record names, and nothing counts
    that is not whole.
    """

    folder: Path
    grid: GridName
    settings: PrepareSettings
    reading: ReadSettings

    def claim(self, origin: dict[str, str]) -> None:
        """Note what is exported here; refuse a folder that holds anything else."""
        folder, record = self.folder, self.folder / RECORDS / "export.json"
        if record.is_file():
            found = read_json(record)
            if found != origin:
                raise UserError(
                    f"{folder} holds the export of {found.get('prepared')} on the "
                    f"{found.get('grid')} grid; choose another --dataset-id or --name, "
                    "or delete it."
                )
        elif not is_vacant(folder):
            raise UserError(
                f"{folder} exists and was not exported from prepared cases; choose "
                "another --dataset-id or --name."
            )
        else:
            write_json(record, origin)

    def record_of(self, name: str) -> Path:
        """Where it is noted which files a case has, and of what they were made."""
        return self.folder / RECORDS / f"case_{name}.json"

    def content(self, source: ExportCase) -> dict[str, Any]:
        """What the record of a whole case says.

        Checksums of everything that its files depend on, and of the files.
        """
        made_of = json.dumps([EXPORTED_VERSION, self.grid]).encode()
        made_of += read_bytes(source.prepared / "case.json")
        return {
            "made_of": hashlib.sha256(made_of).hexdigest(),
            "files": {file: sha256(self.folder / file) for file in source.files},
        }

    def holds(self, source: ExportCase) -> bool:
        """Whether a case stands there whole, exported from the same prepared case."""
        try:
            return read_json(self.record_of(source.name)) == self.content(source)
        except (UserError, OSError):
            return False

    def attempt(self, source: ExportCase) -> Outcome:
        """Export one case; returns its name and why it failed."""
        return attempt(source.name, partial(self.write, source))

    def write(self, source: ExportCase) -> None:
        """Write image and label of a case."""
        images = (
            self._native(source) if self.grid == "native" else self._prepared(source)
        )
        self.forget(source.name)
        record = self.record_of(source.name)
        write_json(record, {"files": dict.fromkeys(source.files)})
        for file, image in zip(source.files, images, strict=False):
            with atomic_path(self.folder / file) as temporary:
                write_image(temporary, image)
        write_json(record, self.content(source))

    def forget(self, name: str) -> None:
        """Remove everything that was exported of a case, the record last."""
        record = self.record_of(name)
        if record.is_file():
            for file in read_json(record)["files"]:
                (self.folder / file).unlink(missing_ok=True)
            record.unlink()

    def _native(self, source: ExportCase) -> list[Image]:
        """The scan in HU and its label on its own grid, as they were prepared."""
        if source.raw is None:
            raise UserError(
                "the raw data set does not hold it; give the one it is from."
            )
        known = read_json(source.prepared / "case.json").get("input")
        if known != input_fingerprint(source.raw, self.settings, self.reading):
            raise UserError(
                "its raw files, or the options that say how they are read, are not "
                "those that it was prepared with; give the same ones, or prepare it "
                "again."
            )
        scan = source.raw.load(self.settings, self.reading).scan.image
        hu, limits = scan.voxels, np.iinfo(np.int16)
        whole = np.rint(hu)
        fits = limits.min <= hu.min() and hu.max() <= limits.max
        if fits and (whole == hu).all():  # nothing is lost, and the file half as large
            scan = scan.holding(whole.astype(np.int16), "scan")
        lesion = read_native_lesion(source.prepared)
        return [scan] if lesion is None else [scan, onto_voxels(lesion, scan)]

    def _prepared(self, source: ExportCase) -> list[Image]:
        """The prepared volume, its window units turned into HU, and its label."""
        case = read_case(source.prepared)
        low, high = self.settings.window_hu
        hu = np.float32(low) + case.volume * np.float32(high - low)
        images = [from_zyx(hu, case.affine, "prepared volume")]
        if case.lesion is not None:
            label = (case.lesion >= 0.5).astype(np.uint8)
            images.append(from_zyx(label, case.affine, "lesion label"))
        return images


def _export_cases(
    sources: Sequence[ExportCase], target: Target, processes: Processes
) -> dict[str, str]:
    """Export what is missing or changed, remove the rest; why some failed, by name."""
    for place in FOLDERS:  # nnU-Net would count what a killed run left
        remove_remains(target.folder / place)
    todo = [source for source in sources if not target.holds(source)]
    if len(todo) < 2:
        processes = replace(processes, workers=1)
    outcomes = processes.run("exporting", target.attempt, todo)
    failed = {name: reason for name, reason in outcomes if reason}
    kept = {source.name for source in sources} - failed.keys()
    for record in (target.folder / RECORDS).glob("case_*.json"):
        if (name := record.stem.removeprefix("case_")) not in kept:
            target.forget(name)
    return failed


def pack_dataset(
    prepared: Path, out: Place, cases_per_shard: int = CASES_PER_SHARD
) -> Manifest:
    """Pack a prepared data set; a second call only does what is missing or changed.

    Args:
        prepared: folder of a prepared data set.
        out: folder of the packed one, here or in an object store.
        cases_per_shard: how many cases share a file.

    Raises:
        UserError: `prepared` is none or a case of it is not as it was written,
            or `out` holds a data set that is not packed, or is in s3://.
        KeyboardInterrupt: at Ctrl-C and SIGTERM; another call continues.
    """
    if cases_per_shard < 1:
        raise UserError(
            f"--cases-per-shard is {cases_per_shard}; it has to be at least 1."
        )
    check_reach(out)
    manifest = read_manifest(prepared)
    if manifest.shards:
        raise UserError(
            f"{prepared} is packed already; give the prepared data set it was made of."
        )
    if (out / "manifest.json").is_file() and not read_manifest(out).shards:
        raise UserError(
            f"{out} holds a data set that is not packed; choose another folder."
        )
    with interrupt_on_sigterm(), only_one(out):
        if not is_remote(out):
            remove_remains(Path(out))
        shards = {
            _shard_name(prepared, cases): cases
            for cases in in_shards(manifest.cases, cases_per_shard)
        }
        for name, cases in track(shards.items(), description="packing"):
            if not (out / name).exists():
                folders = [prepared / case for case in cases]
                for folder in folders:
                    check_sums(folder)
                write_shard(out / name, folders)
        packed = replace(
            manifest, folder=out, shards=tuple(shards), cases_per_shard=cases_per_shard
        )
        packed.write()
        for path in out.glob("cases-*.array_record"):
            if path.name not in shards:
                path.unlink()
    return packed


def in_shards(cases: Sequence[str], cases_per_shard: int) -> list[tuple[str, ...]]:
    """The cases of each shard, in their order."""
    starts = range(0, len(cases), cases_per_shard)
    return [tuple(cases[start : start + cases_per_shard]) for start in starts]


def _shard_name(prepared: Path, cases: Sequence[str]) -> str:
    """A name that tells the content of a shard, so that a file of it need not be read.

    `case.json` holds the checksums of all files of a case; `UserError` without it.
    """
    digest = hashlib.sha256()
    for case in cases:
        facts = prepared / case / "case.json"
        if not is_there(facts):
            raise UserError(f"{facts} is missing; restore or prepare the case again.")
        digest.update(case.encode())
        digest.update(read_bytes(facts))
    return f"cases-{digest.hexdigest()[:16]}.array_record"
