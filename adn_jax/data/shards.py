"""Prepared cases packed into ArrayRecord files: a record is a case's folder, zipped.

They are read where they lie, on a disk or in gs://, a case at a time and in any order.
"""

import io
import zipfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from adn_jax.errors import UserError, one_line
from adn_jax.io.files import atomic_path
from adn_jax.io.paths import Place

OPTIONS = "group_size:1,zstd"
"""A record is read and unpacked without its neighbours."""

OPEN_SHARDS = 512
"""Shards that a process keeps open; each is a file handle."""


def write_shard(path: Place, folders: Sequence[Path]) -> None:
    """Pack the folders of cases into one file, whole or not at all."""
    with atomic_path(path) as temporary:
        try:
            writer = ArrayRecordWriter(str(temporary), OPTIONS)
            for folder in folders:
                writer.write(zipped(folder))
            writer.close()
        except RuntimeError as error:  # a full disk, for instance
            raise OSError(one_line(error)) from error


def zipped(folder: Path) -> bytes:
    """A folder as a zip archive, which holds it by its name; the same at any time."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for file in sorted(folder.iterdir()):
            entry = zipfile.ZipInfo(f"{folder.name}/{file.name}")
            archive.writestr(entry, file.read_bytes())
    return content.getvalue()


def check_reach(folder: Place) -> None:
    """Raise `UserError` where ArrayRecord cannot read from a place: in s3://."""
    if str(folder).startswith("s3://"):
        raise UserError(
            f"{folder} is for packed cases, but of the object stores these can be read "
            "from gs:// alone; put them there or on a disk, or give a data set that is "
            "not packed."
        )


def read_packed(path: Place, record: int, name: str) -> zipfile.Path:
    """The folder `name` in a record (from 0), to be read like one on a disk.

    Raises `UserError` where the shard is missing or damaged, or holds another case.
    """
    try:
        content = _open_shard(str(path)).read([record])[0]
        archive = zipfile.ZipFile(io.BytesIO(content))
        archive.filename = f"{path}/{record}"
        folder = zipfile.Path(archive, f"{name}/")
    except (RuntimeError, IndexError, zipfile.BadZipFile) as error:
        raise UserError(
            f"record {record} of {path} could not be read ({one_line(error)}); restore "
            "the file, or delete it and pack the data set again."
        ) from error
    if not folder.exists():  # is_dir only looks at the name
        raise UserError(
            f"record {record} of {path} does not hold {name}; pack the data set again."
        )
    return folder


@lru_cache(maxsize=OPEN_SHARDS)
def _open_shard(path: str) -> ArrayRecordReader:
    """A shard, opened once a process."""
    return ArrayRecordReader(path)
