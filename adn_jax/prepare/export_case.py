"""One prepared case becomes an image and a label of nnU-Net's raw layout."""

import hashlib
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float32, Shaped

from adn_jax.config import PrepareSettings, ReadSettings
from adn_jax.data.cases import read_case, read_native_lesion, sha256
from adn_jax.datasets.raw import RawCase
from adn_jax.errors import UserError
from adn_jax.io.files import atomic_path, read_json, write_json
from adn_jax.io.image import Image, from_zyx, onto_voxels, write_image
from adn_jax.prepare.finished import fingerprint
from adn_jax.runtime.jobs import Outcome, attempt

VERSION = 1
"""Raised when the same case would be exported differently: all cases are redone."""

ENDING = ".nii.gz"
RECORDS = "adn"
"""Folder of what was exported and from what; nnU-Net does not look at it."""

Grid = Literal["native", "prepared"]
Pair = tuple[Image, Image | None]
"""An image in HU and its label, 0 or 1, on the same grid."""


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
        pair = native_pair(source, settings, reading)
    else:
        pair = prepared_pair(source, settings)
    write_case(source, folder, grid, pair)


def native_pair(
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
    image = scan.holding(in_whole_numbers(scan.voxels), "scan")
    lesion = read_native_lesion(source.prepared)
    return image, None if lesion is None else onto_voxels(lesion, scan)


def in_whole_numbers(
    hu: Float32[np.ndarray, "x y z"],
) -> Shaped[np.ndarray, "x y z"]:
    """HU as int16 where nothing is lost, which halves the file."""
    limits = np.iinfo(np.int16)
    whole = np.rint(hu)
    if hu.min() < limits.min or hu.max() > limits.max or (whole != hu).any():
        return hu
    return whole.astype(np.int16)


def prepared_pair(source: Source, settings: PrepareSettings) -> Pair:
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
    forget(source.name, folder)
    write_json(record_of(source.name, folder), {"files": dict.fromkeys(source.files)})
    for file, image in zip(source.files, pair, strict=False):
        with atomic_path(folder / file) as temporary:
            write_image(temporary, image)
    record = {
        "made_of": made_of(source, grid),
        "files": {file: sha256(folder / file) for file in source.files},
    }
    write_json(record_of(source.name, folder), record)


def is_done(source: Source, folder: Path, grid: Grid) -> bool:
    """Whether a case stands there whole, exported from the same prepared case."""
    try:
        record = read_json(record_of(source.name, folder))
        return record["made_of"] == made_of(source, grid) and record["files"] == {
            file: sha256(folder / file) for file in source.files
        }
    except (UserError, OSError, KeyError, TypeError):
        return False


def record_of(name: str, folder: Path) -> Path:
    """Where it is noted which files a case has, and of what they were made."""
    return folder / RECORDS / f"case_{name}.json"


def made_of(source: Source, grid: Grid) -> str:
    """Checksum of everything that the files of a case depend on."""
    content = (source.prepared / "case.json").read_bytes()
    return hashlib.sha256(json.dumps([VERSION, grid]).encode() + content).hexdigest()


def forget(name: str, folder: Path) -> None:
    """Remove everything that was exported of a case, the record last."""
    record = record_of(name, folder)
    if record.is_file():
        for file in read_json(record)["files"]:
            (folder / file).unlink(missing_ok=True)
        record.unlink()
