"""Prepared cases become a raw data set of nnU-Net, so that peers train on the same.

Same cases, splits and label rule; HU on each scan's own grid or on the prepared one.
"""

import hashlib
import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, Shaped

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
from adn_jax.prepare.resume import fingerprint
from adn_jax.runtime.jobs import Outcome, Processes, attempt, run_cases

RECORDS = "adn"
"""Folder of what was exported and from what; nnU-Net does not look at it."""

FOLDERS = ("imagesTr", "labelsTr", "imagesTs", "labelsTs", RECORDS)

VERSION = 1
"""Raised when the same case would be exported differently: all cases are redone."""

ENDING = ".nii.gz"

Grid = Literal["native", "prepared"]

Pair = tuple[Image, Image | None]
"""An image in HU and its label, 0 or 1, on the same grid."""


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
    grid: Grid | None = None,
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
        UserError: where `out` holds something else under that name, an argument cannot
            be, the disk is full, or no training case could be exported.
    """
    grid = ("prepared" if raw is None else "native") if grid is None else grid
    reading = ReadSettings() if reading is None else reading
    processes = Processes(workers)
    folder = out / _folder_name(dataset_id, name)
    manifest = read_manifest(prepared)
    if manifest.shards:
        raise UserError(
            f"{prepared} is packed; give the prepared data set that it was made of."
        )
    sources, left_out = _choose_sources(manifest, grid)
    if grid == "native":
        sources = _with_raw_cases(sources, raw, reading)
    job = partial(
        export_one,
        folder=folder,
        grid=grid,
        settings=manifest.settings,
        reading=reading,
    )
    claim_folder(folder, {"prepared": str(prepared.resolve()), "grid": grid})
    with interrupt_on_sigterm(), only_one(folder):
        for place in FOLDERS:  # nnU-Net would count what a killed run left
            remove_remains(folder / place)
        todo = [source for source in sources if not is_done(source, folder, grid)]
        if len(todo) < 2:
            processes = replace(processes, workers=1)
        outcomes = run_cases("exporting", job, todo, processes)
        failed = {name: reason for name, reason in outcomes if reason}
        kept = [source for source in sources if source.name not in failed]
        _forget_others(folder, {source.name for source in kept})
        if not any(source.part == "Tr" for source in kept):
            reasons = {**left_out, **failed} or {"it": "has no training cases."}
            case, reason = next(iter(sorted(reasons.items())))
            raise UserError(
                f"no training case of {prepared} could be exported; {case}: {reason}"
            )
        exported = {source.name for source in kept}
        splits = {
            split: tuple(name for name in names if name in exported)
            for split, names in manifest.splits.items()
        }
        export = Export(folder, splits, dict(sorted(failed.items())), left_out)
        _write_descriptions(export, manifest.settings, grid)
    return export


def _folder_name(dataset_id: int, name: str) -> str:
    """`DatasetXXX_NAME`, as nnU-Net wants it."""
    if not 1 <= dataset_id <= 999:
        raise UserError(f"--dataset-id is {dataset_id}; give a number from 1 to 999.")
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise UserError(f"--name is {name!r}; use letters, digits, - and _.")
    return f"Dataset{dataset_id:03d}_{name}"


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
    manifest: Manifest, grid: Grid
) -> tuple[list[Source], dict[str, str]]:
    """The cases to export, and why others are not: no label to learn from, no split."""
    parts: dict[str, Literal["Tr", "Ts"]] = {
        name: "Ts" if split == "test" else "Tr"
        for split, names in manifest.splits.items()
        for name in names
    }
    label = NATIVE_LESION if grid == "native" else VOLUME_FILES["lesion"][0]
    sources, left_out = [], {}
    for name in manifest.cases:
        folder = Path(manifest.folder / name)
        labelled = (folder / label).is_file()
        if name not in parts:
            left_out[name] = "it is in none of the splits."
        elif parts[name] == "Tr" and not labelled:
            left_out[name] = "it has no lesion label to learn from."
        else:
            sources.append(Source(name, folder, parts[name], labelled))
    return sources, left_out


def _with_raw_cases(
    sources: Sequence[Source], raw: Path | None, reading: ReadSettings
) -> list[Source]:
    """The sources with their raw cases; None for one that the raw data set lacks."""
    if raw is None:
        raise UserError(
            "the native grid needs the scans themselves; give the raw data set, --raw "
            "RAW, or take --grid prepared."
        )
    cases = {
        case.name: case for case in find_dataset(raw, reading.layout, reading).cases
    }
    return [replace(source, raw=cases.get(source.name)) for source in sources]


def claim_folder(folder: Path, origin: dict[str, str]) -> None:
    """Note what is exported into a folder; refuse one that holds anything else."""
    record = folder / RECORDS / "export.json"
    if record.is_file():
        found = read_json(record)
        if found != origin:
            raise UserError(
                f"{folder} holds the export of {found.get('prepared')} on the "
                f"{found.get('grid')} grid; choose another --dataset-id or --name, or "
                "delete it."
            )
    elif folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(
            f"{folder} exists and was not exported from prepared cases; choose another "
            "--dataset-id or --name."
        )
    else:
        write_json(record, origin)


def _forget_others(folder: Path, kept: Collection[str]) -> None:
    """Remove what an earlier export left of cases that are not exported any more."""
    for record in (folder / RECORDS).glob("case_*.json"):
        name = record.stem.removeprefix("case_")
        if name not in kept:
            _forget(name, folder)


def _write_descriptions(export: Export, settings: PrepareSettings, grid: Grid) -> None:
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


def export_one(
    source: Source,
    folder: Path,
    grid: Grid,
    settings: PrepareSettings,
    reading: ReadSettings,
) -> Outcome:
    """Export one case; returns its name and why it failed."""
    return attempt(
        source.name, partial(export, source, folder, grid, settings, reading)
    )


def export(
    source: Source,
    folder: Path,
    grid: Grid,
    settings: PrepareSettings,
    reading: ReadSettings,
) -> None:
    """Write image and label of one case."""
    if grid == "native":
        pair = _native_pair(source, settings, reading)
    else:
        pair = _prepared_pair(source, settings)
    write_case(source, folder, grid, pair)


def _native_pair(
    source: Source, settings: PrepareSettings, reading: ReadSettings
) -> Pair:
    """The scan in HU and its label on the scan's own grid, as they were prepared.

    Raises `UserError` where the raw case is not what was prepared.
    """
    if source.raw is None:
        raise UserError("the raw data set does not hold it; give the one it is from.")
    known = read_json(source.prepared / "case.json").get("input")
    if known != fingerprint(source.raw, settings, reading):
        raise UserError(
            "its raw files, or the options that say how they are read, are not those "
            "that it was prepared with; give the same ones, or prepare it again."
        )
    scan = source.raw.load(settings, reading).scan.image
    image = scan.holding(_in_whole_numbers(scan.voxels), "scan")
    lesion = read_native_lesion(source.prepared)
    return image, None if lesion is None else onto_voxels(lesion, scan)


def _in_whole_numbers(
    hu: Float32[np.ndarray, "x y z"],
) -> Shaped[np.ndarray, "x y z"]:
    """HU as int16 where nothing is lost, which halves the file."""
    limits = np.iinfo(np.int16)
    whole = np.rint(hu)
    if hu.min() < limits.min or hu.max() > limits.max or (whole != hu).any():
        return hu
    return whole.astype(np.int16)


def _prepared_pair(source: Source, settings: PrepareSettings) -> Pair:
    """The prepared volume, its window units turned into HU, and its label."""
    case = read_case(source.prepared)
    low, high = settings.window_hu
    hu = np.float32(low) + case.volume * np.float32(high - low)
    image = from_zyx(hu, case.affine, "prepared volume")
    if case.lesion is None:
        return image, None
    label = (case.lesion >= 0.5).astype(np.uint8)
    return image, from_zyx(label, case.affine, "lesion label")


def write_case(source: Source, folder: Path, grid: Grid, pair: Pair) -> None:
    """Write image and label between a record of their names and one of their bytes.

    So nothing is ever there that no record names, and nothing counts that is not whole.
    """
    _forget(source.name, folder)
    write_json(_record_of(source.name, folder), {"files": dict.fromkeys(source.files)})
    images = [image for image in pair if image is not None]
    for file, image in zip(source.files, images, strict=False):
        with atomic_path(folder / file) as temporary:
            write_image(temporary, image)
    record = {
        "made_of": _made_of(source, grid),
        "files": {file: sha256(folder / file) for file in source.files},
    }
    write_json(_record_of(source.name, folder), record)


def is_done(source: Source, folder: Path, grid: Grid) -> bool:
    """Whether a case stands there whole, exported from the same prepared case."""
    try:
        record = read_json(_record_of(source.name, folder))
        return record["made_of"] == _made_of(source, grid) and record["files"] == {
            file: sha256(folder / file) for file in source.files
        }
    except (UserError, OSError, KeyError, TypeError):
        return False


def _record_of(name: str, folder: Path) -> Path:
    """Where it is noted which files a case has, and of what they were made."""
    return folder / RECORDS / f"case_{name}.json"


def _made_of(source: Source, grid: Grid) -> str:
    """Checksum of everything that the files of a case depend on."""
    content = (source.prepared / "case.json").read_bytes()
    return hashlib.sha256(json.dumps([VERSION, grid]).encode() + content).hexdigest()


def _forget(name: str, folder: Path) -> None:
    """Remove everything that was exported of a case, the record last."""
    record = _record_of(name, folder)
    if record.is_file():
        for file in read_json(record)["files"]:
            (folder / file).unlink(missing_ok=True)
        record.unlink()
