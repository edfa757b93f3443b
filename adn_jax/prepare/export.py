"""Prepared cases become a raw data set of nnU-Net, so that peers train on the same.

Same cases, splits and label rule; HU on each scan's own grid or on the prepared one.
"""

import hashlib
import json
import re
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from adn_jax.config import PrepareSettings, ReadSettings
from adn_jax.data.cases import (
    NATIVE_LESION,
    VOLUME_FILES,
    read_case,
    read_native_lesion,
    sha256,
)
from adn_jax.data.manifest import Manifest, read_manifest
from adn_jax.datasets.raw import RawCase
from adn_jax.datasets.recognise import find_dataset
from adn_jax.distributed.preemption import interrupt_on_sigterm
from adn_jax.errors import UserError
from adn_jax.io.files import (
    atomic_path,
    only_one,
    read_json,
    remove_remains,
    write_json,
)
from adn_jax.io.image import Image, from_zyx, onto_voxels, write_image
from adn_jax.prepare.dataset import input_fingerprint
from adn_jax.runtime.jobs import Outcome, Processes, attempt, run_cases

RECORDS = "adn"
"""Folder of what was exported and from what; nnU-Net does not look at it."""

FOLDERS = ("imagesTr", "labelsTr", "imagesTs", "labelsTs", RECORDS)

VERSION = 1
"""Raised when the same case would be exported differently: all cases are redone."""

ENDING = ".nii.gz"

GridName = Literal["native", "prepared"]


@dataclass(frozen=True)
class Export:
    """What was exported; `failed` and `left_out` say why a case was not."""

    folder: Path
    splits: dict[str, tuple[str, ...]]
    failed: dict[str, str]
    left_out: dict[str, str]


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
    grid = ("prepared" if raw is None else "native") if grid is None else grid
    reading = ReadSettings() if reading is None else reading
    processes = Processes(workers)
    if not 1 <= dataset_id <= 999:
        raise UserError(f"--dataset-id is {dataset_id}; give a number from 1 to 999.")
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise UserError(f"--name is {name!r}; use letters, digits, - and _.")
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
        for place in FOLDERS:  # nnU-Net would count what a killed run left
            remove_remains(folder / place)
        todo = [source for source in sources if not target.holds(source)]
        if len(todo) < 2:
            processes = replace(processes, workers=1)
        job = partial(export_one, target=target)
        outcomes = run_cases("exporting", job, todo, processes)
        failed = {name: reason for name, reason in outcomes if reason}
        kept = [source for source in sources if source.name not in failed]
        exported = {source.name for source in kept}
        for record in (folder / RECORDS).glob("case_*.json"):  # of earlier exports
            if (case := record.stem.removeprefix("case_")) not in exported:
                target.forget(case)
        if not any(source.part == "Tr" for source in kept):
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
        _write_descriptions(export, manifest.settings, grid)
    return export


@dataclass(frozen=True)
class Source:
    """A case to export: its prepared folder, its part, and its raw case if wanted."""

    name: str
    prepared: Path
    part: Literal["Tr", "Ts"]
    labelled: bool
    raw: RawCase | None = None

    @property
    def image(self) -> str:
        """Path of its image in the exported data set."""
        return f"images{self.part}/{self.name}_0000{ENDING}"

    @property
    def label(self) -> str:
        """Path of its label in the exported data set."""
        return f"labels{self.part}/{self.name}{ENDING}"

    @property
    def files(self) -> list[str]:
        """Every path that it has in the exported data set."""
        return [self.image, self.label] if self.labelled else [self.image]


def _choose_sources(
    manifest: Manifest, grid: GridName, raw: Path | None, reading: ReadSettings
) -> tuple[list[Source], dict[str, str]]:
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
            source = Source(name, folder, parts[name], labelled, cases.get(name))
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
        elif folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise UserError(
                f"{folder} exists and was not exported from prepared cases; choose "
                "another --dataset-id or --name."
            )
        else:
            write_json(record, origin)

    def record_of(self, name: str) -> Path:
        """Where it is noted which files a case has, and of what they were made."""
        return self.folder / RECORDS / f"case_{name}.json"

    def content(self, source: Source) -> dict[str, Any]:
        """What the record of a whole case says.

        Checksums of everything that its files depend on, and of the files.
        """
        made_of = json.dumps([VERSION, self.grid]).encode()
        made_of += (source.prepared / "case.json").read_bytes()
        return {
            "made_of": hashlib.sha256(made_of).hexdigest(),
            "files": {file: sha256(self.folder / file) for file in source.files},
        }

    def holds(self, source: Source) -> bool:
        """Whether a case stands there whole, exported from the same prepared case."""
        try:
            return read_json(self.record_of(source.name)) == self.content(source)
        except (UserError, OSError):
            return False

    def write(self, source: Source) -> None:
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

    def _native(self, source: Source) -> list[Image]:
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

    def _prepared(self, source: Source) -> list[Image]:
        """The prepared volume, its window units turned into HU, and its label."""
        case = read_case(source.prepared)
        low, high = self.settings.window_hu
        hu = np.float32(low) + case.volume * np.float32(high - low)
        images = [from_zyx(hu, case.affine, "prepared volume")]
        if case.lesion is not None:
            label = (case.lesion >= 0.5).astype(np.uint8)
            images.append(from_zyx(label, case.affine, "lesion label"))
        return images


def export_one(source: Source, target: Target) -> Outcome:
    """Export one case; returns its name and why it failed."""
    return attempt(source.name, partial(target.write, source))


def _write_descriptions(
    export: Export, settings: PrepareSettings, grid: GridName
) -> None:
    """Write `dataset.json`, and `splits_final.json` with our split as fold 0."""
    train, validation = (list(export.splits[name]) for name in ("train", "validation"))
    about: dict[str, Any] = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "infarct": 1},
        "numTraining": len(train) + len(validation),
        "file_ending": ENDING,
        "overwrite_image_reader_writer": "NibabelIOWithReorient",
        "name": export.folder.name,
        "description": f"head CT in HU on the {grid} grid; infarct is what "
        f"{list(settings.infarct_labels)} mark in the raw labels",
    }
    write_json(export.folder / "dataset.json", about)
    path = export.folder / "splits_final.json"
    if validation:
        write_json(path, [{"train": train, "val": validation}])
    else:
        path.unlink(missing_ok=True)
