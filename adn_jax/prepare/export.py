"""Prepared cases become a raw data set of nnU-Net, so that peers train on the same.

Same cases, splits and label rule; HU on each scan's own grid or on the prepared one.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from adn_jax.config import PrepareSettings, ReadSettings
from adn_jax.data.cases import NATIVE_LESION, VOLUME_FILES
from adn_jax.data.manifest import Manifest, read_manifest
from adn_jax.datasets.recognise import find_dataset
from adn_jax.distributed.preemption import interrupt_on_sigterm
from adn_jax.errors import UserError
from adn_jax.io.files import only_one, read_json, remove_remains, write_json
from adn_jax.prepare.export_case import (
    ENDING,
    RECORDS,
    Grid,
    Source,
    export_one,
    forget,
    is_done,
)
from adn_jax.runtime.jobs import Processes, run_cases

FOLDERS = ("imagesTr", "labelsTr", "imagesTs", "labelsTs", RECORDS)


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
    folder = out / folder_name(dataset_id, name)
    manifest = read_manifest(prepared)
    if manifest.shards:
        raise UserError(
            f"{prepared} is packed; give the prepared data set that it was made of."
        )
    sources, left_out = choose_sources(manifest, grid)
    if grid == "native":
        sources = with_raw_cases(sources, raw, reading)
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
        forget_others(folder, {source.name for source in kept})
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
        write_descriptions(export, manifest.settings, grid)
    return export


def folder_name(dataset_id: int, name: str) -> str:
    """`DatasetXXX_NAME`, as nnU-Net wants it."""
    if not 1 <= dataset_id <= 999:
        raise UserError(f"--dataset-id is {dataset_id}; give a number from 1 to 999.")
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise UserError(f"--name is {name!r}; use letters, digits, - and _.")
    return f"Dataset{dataset_id:03d}_{name}"


def choose_sources(
    manifest: Manifest, grid: Grid
) -> tuple[list[Source], dict[str, str]]:
    """The cases to export, and why others are not: no label to learn from, no split."""
    parts = {
        name: "Ts" if split == "test" else "Tr"
        for split, names in manifest.splits.items()
        for name in names
    }
    label = NATIVE_LESION if grid == "native" else VOLUME_FILES["lesion"][0]
    sources, left_out = [], {}
    for name in manifest.cases:
        folder = manifest.folder / name
        labelled = (folder / label).is_file()
        if name not in parts:
            left_out[name] = "it is in none of the splits."
        elif parts[name] == "Tr" and not labelled:
            left_out[name] = "it has no lesion label to learn from."
        else:
            sources.append(Source(name, folder, parts[name], labelled))
    return sources, left_out


def with_raw_cases(
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


def forget_others(folder: Path, kept: Collection[str]) -> None:
    """Remove what an earlier export left of cases that are not exported any more."""
    for record in (folder / RECORDS).glob("case_*.json"):
        name = record.stem.removeprefix("case_")
        if name not in kept:
            forget(name, folder)


def write_descriptions(export: Export, settings: PrepareSettings, grid: Grid) -> None:
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
