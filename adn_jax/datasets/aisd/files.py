"""Where the pieces of an AISD case lie in the folders of the download."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from adn_jax.datasets.aisd.png import slice_files
from adn_jax.io.archive import ARCHIVE_ENDINGS
from adn_jax.io.files import check_fetched, files_below, is_dangling, is_there

CASE_ID = re.compile(r"\d{7}")

DICOM_NAME = re.compile(r"dicom-\d+")

PICTURES, MASKS, CT = "image", "mask", "CT"

DEPTH = 3
"""Folder levels between a part of the download and the case ids in it."""


@dataclass(frozen=True)
class Copy:
    """The CT of a case in one archive: its folder, or an archive of its own.

    `slices` counts the files of a folder; None: they are still packed.
    """

    archive: str
    path: Path
    slices: int | None


@dataclass(frozen=True)
class Inventory:
    """The folders of pictures and masks by case id, and every copy of the CT."""

    pictures: Mapping[str, Path]
    masks: Mapping[str, Path]
    copies: Mapping[str, tuple[Copy, ...]]

    @property
    def names(self) -> tuple[str, ...]:
        """All case ids."""
        return tuple(sorted({*self.pictures, *self.masks, *self.copies}))


def take_inventory(roots: Sequence[Path]) -> Inventory:
    """What lies in the folders of a download, unpacked; nothing is read."""
    copies: dict[str, list[Copy]] = {}
    for archive, folder in _dicom_folders(roots):
        for name, copy in _find_copies(archive, folder):
            copies.setdefault(name, []).append(copy)
    return Inventory(
        pictures=_png_folders(roots, PICTURES),
        masks=_png_folders(roots, MASKS),
        copies={name: tuple(found) for name, found in copies.items()},
    )


def looks_like_aisd(folder: Path) -> bool:
    """Whether a folder holds parts of the download, packed or not."""
    parts = {part_of(path) for path in folder.iterdir()}
    packed_or_dicom = any(DICOM_NAME.fullmatch(part or "") for part in parts) or any(
        is_there(folder / f"{part}.zip") for part in (PICTURES, MASKS)
    )
    return packed_or_dicom or (
        bool(_png_folders([folder], MASKS)) and bool(_png_folders([folder], PICTURES))
    )


def part_of(path: Path) -> str | None:
    """`image`, `mask` or `dicom-N` where a folder or archive is that; else None."""
    name = bare_name(path)
    known = name in {PICTURES, MASKS} or DICOM_NAME.fullmatch(name)
    return name if known else None


def bare_name(path: Path) -> str:
    """The name of a folder, or of an archive without its ending."""
    ending = next((end for end in ARCHIVE_ENDINGS if path.name.endswith(end)), "")
    return path.name.removesuffix(ending)


def _png_folders(roots: Sequence[Path], part: str) -> dict[str, Path]:
    """The folders of PNG of one part of the download by case id."""
    return {
        folder.name: folder
        for root in roots
        for folder in _case_entries(root / part)
        if is_dangling(folder) or (folder.is_dir() and slice_files(folder))
    }


def _dicom_folders(roots: Sequence[Path]) -> list[tuple[str, Path]]:
    """The folders `dicom-N`, beside the others or in a folder `dicom`, by number."""
    found = [
        (path.name, path)
        for root in roots
        for place in (root, root / "dicom")
        if _is_fetched_folder(place)
        for path in place.iterdir()
        if DICOM_NAME.fullmatch(path.name) and _is_fetched_folder(path)
    ]
    return sorted(found, key=lambda one: (int(one[0].split("-")[1]), str(one[1])))


def _is_fetched_folder(path: Path) -> bool:
    """Whether it is a folder; `UserError` for a link to nothing."""
    check_fetched(path)
    return path.is_dir()


def _case_entries(folder: Path, depth: int = DEPTH) -> Iterator[Path]:
    """Folders and archives below that are named by a case id, sorted."""
    if depth == 0 or not _is_fetched_folder(folder):
        return
    for path in sorted(folder.iterdir()):
        if CASE_ID.fullmatch(bare_name(path)):
            yield path
        elif path.is_dir() and not path.name.startswith((".", "__")):
            yield from _case_entries(path, depth - 1)


def _find_copies(archive: str, folder: Path) -> Iterator[tuple[str, Copy]]:
    """The cases of one folder `dicom-N`."""
    for path in _case_entries(folder):
        if path.is_dir():
            yield path.name, Copy(archive, path / CT, len(ct_files(path / CT)))
        elif path.name.endswith(ARCHIVE_ENDINGS):
            yield bare_name(path), Copy(archive, path, None)
        elif is_dangling(path):
            yield path.name, Copy(archive, path, len(ct_files(path)))


def ct_files(folder: Path) -> list[Path]:
    """The slices of a CT folder, in a fixed order; hidden files are passed over.

    A link to nothing counts as a file, so that it is named.
    """
    if is_dangling(folder):
        return [folder]
    if not folder.is_dir():
        return []
    return [path for path in files_below(folder) if not path.name.startswith(".")]


def choose_copy(copies: Sequence[Copy]) -> tuple[Copy | None, tuple[str, ...]]:
    """The copy of a CT to read, and a sentence on each that is not.

    Of those that hold slices the last archive's counts: later archives complete the
    earlier ones. None if all are empty.
    """
    full = [copy for copy in copies if copy.slices != 0]
    if not full:
        return None, ()
    last = full[-1].archive
    chosen = next(copy for copy in full if copy.archive == last)
    return chosen, tuple(
        f"the copy in {copy.archive} is empty; {chosen.archive} is used"
        if copy.slices == 0
        else f"the copy in {copy.archive} is passed over; {chosen.archive} is used"
        for copy in copies
        if copy is not chosen
    )
