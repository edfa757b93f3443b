"""Archives of DICOM files, unpacked without trusting what they say of themselves."""

import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from adn_jax.errors import FULL_DISK, UserError, one_line

ARCHIVE_ENDINGS = (".tar.gz", ".tgz", ".tar", ".zip")

LARGEST_BYTES = 20_000_000_000

MOST_FILES = 100_000

CHUNK = 1 << 20

DAMAGED = (
    OSError,
    EOFError,
    ValueError,
    NotImplementedError,
    RuntimeError,
    zlib.error,
    tarfile.TarError,
    zipfile.BadZipFile,
)
"""What the readers of archives raise; RuntimeError where a password is asked for."""


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack the plain files of an archive into a new folder, numbered, and return it.

    Names inside are not used, so that none can lead outside; links and devices are
    left out. Raises `UserError` if the archive is damaged or far too large, or the disk
    is full.
    """
    folder.mkdir(parents=True)
    left = LARGEST_BYTES
    try:
        for index, content in enumerate(contents(archive)):
            with (folder / f"{index:06d}").open("wb") as file:
                while chunk := content.read(CHUNK):
                    file.write(chunk)
                    left -= len(chunk)
                    _check_room(left, index, archive)
    except DAMAGED as error:
        if getattr(error, "errno", None) in FULL_DISK:
            raise UserError(
                f"there is no room to unpack {archive} ({one_line(error)}); free some, "
                "or let TMPDIR name a folder on a larger disk."
            ) from error
        raise UserError(
            f"{archive} is no whole archive ({error}); download or pack it again."
        ) from error
    return folder


def contents(archive: Path) -> Iterator[IO[bytes]]:
    """The plain files of an archive, opened one after the other."""
    if archive.name.lower().endswith(".zip"):
        with zipfile.ZipFile(archive) as packed:
            for member in packed.infolist():
                if not member.is_dir():
                    with packed.open(member) as file:
                        yield file
        return
    with tarfile.open(archive) as packed:
        for member in packed:
            file = packed.extractfile(member) if member.isfile() else None
            if file is not None:
                yield file


def _check_room(left: int, index: int, archive: Path) -> None:
    """Raise `UserError` if an archive unpacks to more than a few scans would."""
    if left < 0 or index >= MOST_FILES:
        raise UserError(
            f"{archive} unpacks to more than {LARGEST_BYTES // 10**9} GB or "
            f"{MOST_FILES:,} files; unpack it yourself and give the folder of one scan."
        )
