"""The download's archives: what still is packed, and unpacking what is needed once."""

import gzip
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Generator
from contextlib import closing, nullcontext
from functools import partial
from io import BufferedIOBase
from pathlib import Path, PurePosixPath
from typing import IO

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from adn_jax.datasets.aisd.files import CASE_ID, CT, MASKS, PICTURES, bare_name, part_of
from adn_jax.errors import UserError
from adn_jax.io.archive import ARCHIVE_ENDINGS, CHUNK, DAMAGED
from adn_jax.io.files import atomic_path, check_fetched, is_there, read_json, write_json

GZIP_START = b"\x1f\x8b"

MARK = "unpacked.json"
"""In the folder of an archive: which one it was, and whether all of it is there."""

Member = tuple[str, bool, Callable[[], IO[bytes] | None]]
"""Name in the archive, whether it is a folder, and how to open it."""


def packed_parts(folder: Path, with_dicom: bool) -> list[Path]:
    """The archives of a download that are not unpacked beside it."""
    return [
        path
        for path in sorted(folder.iterdir())
        if is_there(path)
        and path.name.endswith(ARCHIVE_ENDINGS)
        and (part := part_of(path)) is not None
        and (with_dicom or part in {PICTURES, MASKS})
        and not any(_is_whole(place / part) for place in (folder, folder / "dicom"))
    ]


def _is_whole(folder: Path) -> bool:
    """Whether a part lies in a folder, and no stopped run left it half there."""
    mark = folder / MARK
    return folder.is_dir() and (not mark.is_file() or read_json(mark)["whole"])


def unpack_command(archive: Path) -> str:
    """The shell command that unpacks an archive beside itself."""
    if archive.name.endswith(".zip"):
        return f"unzip -q {archive.name} -d {part_of(archive)}"
    return f"tar xf {archive.name}"


def unpack_part(archive: Path, target: Path) -> Path:
    """Unpack PNG, or CT slices, of an archive into `target/<part>`; returns that.

    Nothing is done where the same archive was unpacked before; what a stopped run
    left of it is kept, what another archive of that name left is removed.

    Raises:
        UserError: the archive is damaged, or the folder is not of our making.
    """
    check_fetched(archive)
    part = bare_name(archive)
    folder = target / part
    stamp = {"size": archive.stat().st_size, "modified": archive.stat().st_mtime_ns}
    begun, whole = stamp | {"whole": False}, stamp | {"whole": True}
    known = read_json(folder / MARK) if (folder / MARK).is_file() else None
    if known == whole:
        return folder
    if known is None and folder.exists():
        raise UserError(
            f"{folder} is there, but not from --aisd-unpack; remove it, or give "
            "another folder."
        )
    if known is not None and known != begun:
        shutil.rmtree(folder)
    write_json(folder / MARK, begun)
    _unpack_members(archive, part, folder)
    write_json(folder / MARK, whole)
    return folder


def _unpack_members(archive: Path, part: str, folder: Path) -> None:
    """Write what is needed of an archive into a folder, under a progress bar."""
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        "left",
        TimeRemainingColumn(),
    )
    title = f"unpacking {archive.name}"
    try:
        with (
            bar,
            bar.open(archive, "rb", description=title) as file,
            closing(members(file)) as found,
        ):
            for name, is_folder, opened in found:
                if (place := place_of(name, part)) is None:
                    continue
                if is_folder:
                    (folder / place).mkdir(parents=True, exist_ok=True)
                elif (content := opened()) is not None:
                    keep(content, folder / place)
            _show_full(bar)
    except DAMAGED as error:
        raise UserError(
            f"{archive} is damaged or not downloaded to its end ({error}); download it "
            "again."
        ) from error


def _show_full(bar: Progress) -> None:
    """Fill a bar whose file is done, although not all of it had to be read."""
    for task in bar.tasks:
        bar.update(task.id, completed=task.total)


def members(file: IO[bytes]) -> Generator[Member]:
    """The members of an opened archive in their order, and its checksum at the end."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as packed:
            for entry in packed.infolist():
                yield entry.filename, entry.is_dir(), partial(packed.open, entry)
        return
    file.seek(0)
    is_gzip = file.read(2) == GZIP_START
    file.seek(0)
    with gzip.open(file) if is_gzip else nullcontext(file) as stream:
        with tarfile.open(fileobj=stream, mode="r|") as packed:
            for entry in packed:
                if entry.isdir() or entry.isfile():
                    yield entry.name, entry.isdir(), partial(packed.extractfile, entry)
        while stream.read(CHUNK):  # only at its end gzip compares the checksum
            pass


def place_of(name: str, part: str) -> PurePosixPath | None:
    """Where a member belongs below its part's folder; None: it is not needed.

    From the case id on, and never outside: `mask/mask/0073410/000.png` is
    `0073410/000.png`. Of DICOM archives only CT, and archives of one case, are needed.
    """
    parts = PurePosixPath(name).parts
    start = next((i for i, one in enumerate(parts) if CASE_ID.match(one)), None)
    if start is None or ".." in parts or any(one.startswith("._") for one in parts):
        return None
    case, *rest = parts[start:]
    is_archive = not rest and case.endswith(ARCHIVE_ENDINGS)
    is_case = CASE_ID.fullmatch(case) is not None
    wanted = is_case and (part in {PICTURES, MASKS} or rest[:1] == [CT])
    return PurePosixPath(case, *rest) if wanted or is_archive else None


def keep(content: IO[bytes] | BufferedIOBase, path: Path) -> None:
    """Write a member to its place, unless a stopped run did so; whole or not at all."""
    if path.is_file():
        return
    with content:
        values = content.read()
    with atomic_path(path) as temporary:
        temporary.write_bytes(values)
