"""Prepared cases on disk: NIfTI files that any viewer opens, and what is known of them.

A case is `DIR/<case>/` with `ct.nii` (uncompressed, so reading is a memory map),
`lesion.nii.gz`, `brain.nii.gz`, `tissue.nii.gz` and `case.json`.
"""

import hashlib
from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Shaped, UInt8

from adn_jax.errors import UserError
from adn_jax.io.files import atomic_path, is_there, read_json, write_json
from adn_jax.io.image import Image, from_zyx, read_image, spacing_of, write_image
from adn_jax.io.nifti import open_nifti, read_voxels
from adn_jax.io.paths import Source, unread_named

CASE_FORMAT = 1
"""Version of the files of a prepared case."""

VOLUME_FILES = {
    "volume": ("ct.nii", np.float32),
    "lesion": ("lesion.nii.gz", np.float32),
    "brain": ("brain.nii.gz", np.uint8),
    "tissue": ("tissue.nii.gz", np.uint8),
    "pathological": ("pathological.nii.gz", np.float32),
}
"""File and voxel type of each volume of a `PreparedCase`."""

NATIVE_LESION = "lesion_native.nii.gz"

SCAN_AND_LABEL = (
    *(VOLUME_FILES[name][0] for name in ("volume", "lesion", "brain")),
    NATIVE_LESION,
)
"""Files by which two preparations of a case count as the same, whatever its maps."""

CaseArrays = dict[str, np.ndarray]
"""`volume`, `lesion`, `tissue` (z y x) and `case`, the index in the data set."""


@dataclass(frozen=True)
class PreparedCase:
    """One scan on the prepared grid (RAS+), with what belongs to it.

    `volume` is the HU window mapped to [0, 1], 0 outside the brain. `lesion` is the
    share of each voxel that is infarct, 0 to 1 (from a half on it counts as infarct);
    `brain` is 0 or 1; `tissue` is 0 background, 1 grey matter, 2 white matter, 3 CSF;
    `pathological` is how much the infarct darkened each voxel, in window units
    (phantoms only). `affine` takes voxel (x, y, z) to mm. `geometry` holds both grids
    in NIfTI's axis order: `shape` and `affine` of the prepared one, `native_shape` and
    `native_affine` of the scan's own.
    """

    name: str
    volume: Float32[np.ndarray, "z y x"]
    brain: UInt8[np.ndarray, "z y x"]
    affine: Float[np.ndarray, "4 4"]
    geometry: dict[str, Any]
    lesion: Float32[np.ndarray, "z y x"] | None = None
    tissue: UInt8[np.ndarray, "z y x"] | None = None
    pathological: Float32[np.ndarray, "z y x"] | None = None
    quality: dict[str, Any] = field(default_factory=dict)
    """Figures of quality: brain volume in mL, coverage and so on."""
    flags: tuple[str, ...] = ()
    """What deserves a look, a sentence each."""
    source: dict[str, Any] = field(default_factory=dict)
    """Where the scan came from, how it was read, and by which rules."""
    truth: dict[str, Any] = field(default_factory=dict)
    """What only phantoms know: `head_to_world`, a 4 x 4 matrix in mm."""

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size (z y x)."""
        return spacing_of(self.affine)


@dataclass(frozen=True)
class CaseFacts:
    """What `case.json` says of a prepared case, without its volumes."""

    name: str
    quality: dict[str, Any]
    flags: tuple[str, ...]
    source: dict[str, Any]
    volumes: frozenset[str]
    """Which volumes of a `PreparedCase` it has."""


def write_case(
    folder: Path,
    case: PreparedCase,
    native_lesion: Image | None = None,
    record: Mapping[str, Any] | None = None,
) -> None:
    """Write a case to `folder`, whole or not at all.

    `native_lesion` is the label on the scan's own grid, for scores on that grid;
    `record` joins case.json (what a later run compares to see whether to redo it).
    """
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        for name, (file, _) in VOLUME_FILES.items():
            volume = getattr(case, name)
            if volume is not None:
                write_image(temporary / file, from_zyx(volume, case.affine, name))
        if native_lesion is not None:
            write_image(temporary / NATIVE_LESION, native_lesion)
        content = {
            "format": CASE_FORMAT,
            "name": case.name,
            "geometry": case.geometry,
            "quality": case.quality,
            "flags": list(case.flags),
            "source": case.source,
            "truth": case.truth,
            **(record or {}),
            "sha256": {path.name: sha256(path) for path in sorted(temporary.iterdir())},
        }
        write_json(temporary / "case.json", content)


def sha256(path: Path) -> str:
    """Checksum of a file; `UserError` if it cannot be read."""
    with unread_named(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _spoilt_named(folder: Source) -> Generator[None]:
    """What is missing or wrong in a `case.json` becomes a `UserError`."""
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{folder / 'case.json'} lacks or spoils {error}; prepare the case again."
        ) from error


def read_facts(folder: Path) -> CaseFacts:
    """Quality, flags and source of a prepared case; `UserError` if it is spoilt."""
    content = read_json(folder / "case.json")
    with _spoilt_named(folder):
        return CaseFacts(
            name=content["name"],
            quality=dict(content["quality"]),
            flags=tuple(content["flags"]),
            source=dict(content["source"]),
            volumes=frozenset(
                name
                for name, (file, _) in VOLUME_FILES.items()
                if file in content["sha256"]
            ),
        )


def read_case(folder: Source) -> PreparedCase:
    """Read a prepared case; `volume` is a memory map if its file is on this machine.

    Raises `UserError`, naming the file, if something is missing or does not fit.
    """
    content = read_json(folder / "case.json")
    with _spoilt_named(folder):
        affine = np.array(content["geometry"]["affine"], float).reshape(4, 4)
        facts = {
            key: content[key]
            for key in ("name", "geometry", "quality", "source", "truth")
        }
        flags = tuple(content["flags"])
    if not np.isfinite(affine).all():
        raise UserError(
            f"{folder / 'case.json'} holds an affine that is not finite; "
            "prepare the case again."
        )
    volumes = read_volumes(folder, VOLUME_FILES, content)
    return PreparedCase(**facts, **volumes, affine=affine, flags=flags)


def read_volumes(
    folder: Source, names: Collection[str], content: Mapping[str, Any] | None = None
) -> dict[str, Shaped[np.ndarray, "z y x"]]:
    """Those of the volumes `names` of a `PreparedCase` that it has, as `read_case`.

    `content` is that of `case.json`, if it has been read.
    """
    if content is None:
        content = read_json(folder / "case.json")
    with _spoilt_named(folder):
        shape_zyx = tuple(content["geometry"]["shape"][::-1])
        files = set(content["sha256"])
    volumes = {}
    for name, (file, dtype) in VOLUME_FILES.items():
        if name not in names or not (file in files or name in {"volume", "brain"}):
            continue
        image = open_nifti(folder / file)
        if image.shape[::-1] != shape_zyx or image.get_data_dtype() != dtype:
            raise UserError(
                f"{folder / file} holds {image.get_data_dtype()} {image.shape[::-1]} "
                f"instead of {np.dtype(dtype)} {shape_zyx}; prepare the case again."
            )
        volumes[name] = read_voxels(image, dtype).transpose(2, 1, 0)
    return volumes


def read_native_lesion(folder: Source) -> Image | None:
    """The infarct label on the scan's own grid (0 or 1); None if there is none."""
    path = folder / NATIVE_LESION
    return read_image(path, "lesion label", np.uint8) if is_there(path) else None


def case_checksums(files: Source) -> dict[str, str] | None:
    """The checksums that preparation gave the files of a case."""
    return read_json(files / "case.json").get("sha256")


def check_sums(folder: Path) -> None:
    """Raise `UserError`, naming the file, if a case is not as it was written."""
    for file, expected in read_json(folder / "case.json")["sha256"].items():
        path = folder / file
        if not path.is_file() or sha256(path) != expected:
            raise UserError(
                f"{path} is missing or has changed since it was prepared; "
                "prepare the case again."
            )
