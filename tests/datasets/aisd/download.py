"""A small AISD download that holds every oddity of the real one."""

import shutil
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tests.scans.dicom.files import write_series

SPACING_MM = 3.0

DISTANCE_MM = 12.0

SIZE = 64

PLAIN, TILTED, UNEVEN, EMPTY_LABEL = "0073410", "0021092", "0537908", "0538058"

TWICE, EMPTY_CT, MISMATCH, TRUNK = "0091465", "0073366", "0226134", "0091519"

TURNED, MRI, ARTEFACT, ODD_LABEL = "0073465", "0538549", "0091530", "0091366"

PACKED, DAMAGED, NO_MASK, NO_CT = "0226300", "0019983", "0072680", "0041698"

USUAL = (PLAIN, TILTED, UNEVEN, TWICE, EMPTY_CT, TURNED, MRI, ARTEFACT, ODD_LABEL)
USUAL += (PACKED, DAMAGED, NO_MASK, NO_CT)


TURN = (slice(None), slice(None, None, -1), slice(None, None, -1))
"""How the pictures of `TURNED` lie: top down and left right."""


@dataclass(frozen=True)
class FakeHead:
    """One head in DICOM's order (z, row, column): HU and label values 0 to 5."""

    hu: np.ndarray
    label: np.ndarray

    @property
    def pictures(self) -> np.ndarray:
        """The brain window 0 to 80 HU in 8 bits."""
        return np.round(np.clip(self.hu / 80, 0, 1) * 255).astype(np.uint8)


def fake_head(seed: int = 0, slices: int = 12, labels=(1, 2, 3, 4, 5)) -> FakeHead:
    """Brain, skull and scalp; every label value in a ball of 15 HU less."""
    z = (np.arange(slices) - (slices - 1) / 2) * min(1.0, 11 / (slices - 1))
    y, x = (np.arange(SIZE) - (SIZE - 1) / 2 for _ in range(2))
    grid = np.meshgrid(z * DISTANCE_MM, y * SPACING_MM, x * SPACING_MM, indexing="ij")

    def ball(semi_axes, centre=(0, 0, 0)):
        parts = zip(grid, centre, semi_axes, strict=True)
        return sum(((g - c) / a) ** 2 for g, c, a in parts) <= 1

    hu = np.where(ball((79, 96, 78)), 40.0, -1000.0)
    hu[ball((73, 92, 74))] = 900
    hu[ball((66, 84, 66))] = 35
    hu[ball((30, 30, 12), (0, -20, 12))] = 8
    hu[ball((16, 6, 14), (20, -90, 40))] = 900
    label = np.zeros(hu.shape, np.uint8)
    for value, centre in enumerate(
        [(10, -50, 20), (0, 0, 42), (14, 30, 20), (-14, 40, -24), (0, 0, -42)], 1
    ):
        if value in labels:
            label[ball((16, 16, 16), centre)] = value
    hu[label > 0] -= 15
    noise = np.random.default_rng(seed).normal(0, 2, hu.shape)
    return FakeHead(np.round(hu + noise).astype(np.int16), label)


def write_ct(folder: Path, head: FakeHead, **tags) -> None:
    """The DICOM slices of a head, numbered from 1."""
    places = {"z_mm": [DISTANCE_MM * i for i in range(len(head.hu))], "tilt_deg": 0.0}
    usual = {"PixelSpacing": (SPACING_MM,) * 2, "ProtocolName": "01HeadSeq"}
    write_series(folder, head.hu, **(places | usual | tags))


def write_pngs(folder: Path, stack: np.ndarray) -> None:
    """The slices as PNG, numbered from 0."""
    folder.mkdir(parents=True)
    for index, pixels in enumerate(stack):
        Image.fromarray(np.ascontiguousarray(pixels)).save(folder / f"{index:03d}.png")


def write_case(
    root: Path,
    name: str,
    head: FakeHead,
    archive: str = "dicom-1",
    turn=(slice(None),) * 3,
    **tags,
) -> None:
    """Pictures, masks and CT of a case."""
    write_pngs(root / "image" / "image" / name, head.pictures[turn])
    write_pngs(root / "mask" / "mask" / name, head.label[turn])
    write_ct(root / archive / name / "CT", head, **tags)


def write_download(root: Path) -> dict[str, FakeHead]:
    """The whole download, unpacked; returns the heads."""
    heads = {name: fake_head(seed) for seed, name in enumerate(USUAL)}
    heads[EMPTY_LABEL] = fake_head(20, labels=(4,))
    heads[MISMATCH] = fake_head(21, slices=13)
    heads[TRUNK] = fake_head(22, slices=36)
    uneven = [12.0 * i + (9.0 if i > 6 else 0.0) for i in range(12)]
    write_case(root, PLAIN, heads[PLAIN], "dicom-0")
    write_case(root, TILTED, heads[TILTED], tilt_deg=20.0)
    write_case(root, UNEVEN, heads[UNEVEN], z_mm=uneven)
    write_case(root, EMPTY_LABEL, heads[EMPTY_LABEL], "dicom-2")
    write_case(root, TWICE, heads[TWICE], "dicom-3")
    half = FakeHead(heads[TWICE].hu[:6], heads[TWICE].label[:6])
    write_ct(root / "dicom-0" / TWICE / "CT", half)
    write_case(root, EMPTY_CT, heads[EMPTY_CT], "dicom-2")
    (root / "dicom-0" / EMPTY_CT / "CT").mkdir(parents=True)
    write_case(root, MISMATCH, heads[MISMATCH])
    for path in sorted((root / "dicom-1" / MISMATCH / "CT").iterdir())[8:]:
        path.unlink()
    write_case(root, TRUNK, heads[TRUNK], z_mm=[5.0 * i for i in range(36)])
    write_case(root, TURNED, heads[TURNED], turn=TURN)
    write_case(root, MRI, heads[MRI])
    write_ct(root / "dicom-1" / MRI / "MRI", fake_head(99, slices=20), Modality="MR")
    write_ct(root / "dicom-1" / PLAIN / "DWI", fake_head(98, slices=20), Modality="MR")
    shutil.move(root / "dicom-1" / PLAIN / "DWI", root / "dicom-0" / PLAIN / "DWI")
    shutil.rmtree(root / "dicom-1" / PLAIN)
    write_case(root, ARTEFACT, heads[ARTEFACT], "dicom-2")
    write_case(root, ODD_LABEL, heads[ODD_LABEL], "dicom-2")
    write_case(root, PACKED, heads[PACKED], ProtocolName="03headCTA")
    write_case(root, DAMAGED, heads[DAMAGED])
    for name in (PACKED, DAMAGED):
        pack_folder(root / "dicom-1" / name, root / "dicom-1" / f"{name}.tar.gz")
        shutil.rmtree(root / "dicom-1" / name)
    damaged = root / "dicom-1" / f"{DAMAGED}.tar.gz"
    damaged.write_bytes(damaged.read_bytes()[:-2000])
    write_case(root, NO_MASK, heads[NO_MASK], "dicom-2")
    shutil.rmtree(root / "mask" / "mask" / NO_MASK)
    write_case(root, NO_CT, heads[NO_CT], "dicom-2")
    shutil.rmtree(root / "dicom-2" / NO_CT)
    (root / "dicom-2" / ".DS_Store").write_bytes(b"\0")
    return heads


def pack_folder(folder: Path, archive: Path) -> None:
    """A .tar.gz with the folder in it."""
    with tarfile.open(archive, "w:gz", compresslevel=1) as packed:
        packed.add(folder, folder.name)


def zip_folder(folder: Path, archive: Path) -> None:
    """A .zip with what is in the folder, as AISD's is: image.zip holds image/<id>."""
    with zipfile.ZipFile(archive, "w") as packed:
        for path in sorted(folder.rglob("*")):
            packed.write(path, path.relative_to(folder))


def pack_download(unpacked: Path, root: Path) -> None:
    """The download as it comes: two zips and four archives of DICOM files."""
    root.mkdir()
    for part in ("image", "mask"):
        zip_folder(unpacked / part, root / f"{part}.zip")
    for folder in sorted(unpacked.glob("dicom-[012]")):
        pack_folder(folder, root / f"{folder.name}.tar.gz")
    with zipfile.ZipFile(root / "dicom-3.zip", "w") as packed:
        for path in sorted((unpacked / "dicom-3").rglob("*")):
            packed.write(path, path.relative_to(unpacked))
