"""Files that are whole or absent, and folders with one writer at a time."""

import errno
import hashlib
import json
import math
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from adn_jax.errors import UserError
from adn_jax.io.paths import (
    Place,
    Source,
    at_hand,
    is_remote,
    read_bytes,
    unread_named,
    upload,
)

UNFINISHED = re.compile(r"\.\d+\.(?P<name>.+)")
"""Name of what `atomic_path` yields, and leaves where its process is killed."""

POINTERS = (b"/annex/objects/", b"version https://git-lfs.github.com/spec/")
"""How the text begins that git-annex and Git LFS leave where a file is not fetched."""

LOCK_FILE = ".lock"

NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
"""What file systems answer that know no locks: there the folder goes unguarded."""


@contextmanager
def atomic_path(path: Place) -> Generator[Path]:
    """Yield a temporary path beside `path` (same suffixes) that becomes `path`.

    The body writes the temporary file or folder. If the body fails, nothing is left
    behind. A full disk, a read-only folder and other failures of the file system are
    reported as `UserError`. In an object store each file of a folder is whole or
    absent, but not the folder: let a file written afterwards say that it is there.
    """
    with failures_named(path):
        if is_remote(path):
            with at_hand(path.parent) as folder:
                yield folder / path.name
                upload(folder / path.name, path)
            return
        temporary = Path(path.with_name(f".{os.getpid()}.{path.name}"))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            if temporary.is_dir() and path.is_dir():
                shutil.rmtree(path)
            temporary.replace(path)
        finally:
            if temporary.is_dir():
                shutil.rmtree(temporary, ignore_errors=True)
            else:
                with suppress(OSError):  # what failed above is the better message
                    temporary.unlink(missing_ok=True)


@contextmanager
def failures_named(path: Place) -> Generator[None]:
    """What the file system refuses in the block becomes a `UserError` of `path`."""
    try:
        yield
    except OSError as error:
        in_the_way = isinstance(error, (NotADirectoryError, FileExistsError))
        advice = "" if in_the_way else "free space or "
        raise UserError(
            f"{path} could not be written ({error.strerror or error}); {advice}choose "
            "another folder, then run the command again."
        ) from error


def remove_remains(folder: Path, names: Collection[str] | None = None) -> None:
    """Remove what killed processes left half-written in a folder.

    Args:
        folder: may be missing; folders in it are not searched.
        names: the whole files and folders that it was to become; None: any.
    """
    for path in folder.glob(".*"):
        unfinished = UNFINISHED.fullmatch(path.name)
        if unfinished is None:
            continue
        if names is not None and unfinished["name"] not in names:
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def write_text(path: Place, text: str) -> None:
    """Write `text` to `path`, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Place, value: Any) -> None:
    """Write `value` as indented JSON; NaN is refused, use None."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Source) -> Any:
    """Read a JSON file; `UserError` if it is missing, not fetched or damaged."""
    check_fetched(path)
    try:
        return json.loads(read_bytes(path))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; check the folder's name.") from error
    except ValueError as error:
        raise UserError(
            f"{path} is not readable JSON ({error}); restore it or make it anew."
        ) from error


def fingerprint(*values: Any) -> str:
    """A checksum over JSON values."""
    text = json.dumps(values, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def is_there(path: Source) -> bool:
    """Whether there is a file of this name, be it a link whose target is missing.

    Raises `UserError` if the system does not tell.
    """
    with unread_named(path):
        return path.is_file() or is_dangling(path)


def is_vacant(folder: Place) -> bool:
    """Whether a folder is absent or empty; `UserError` if the system does not tell."""
    with unread_named(folder):
        return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))


def check_writable(folder: Path) -> None:
    """Raise `UserError` unless something can be written into a folder, or, where it is
    missing, into the nearest one above it, in which it will be made. Nothing stays."""
    with failures_named(folder):
        parents = (folder, *folder.absolute().parents)
        with tempfile.TemporaryFile(dir=next(one for one in parents if one.exists())):
            pass


def check_replaceable(folder: Path, mark: str, names: Collection[str]) -> None:
    """Raise `UserError` unless a folder, which is to be replaced, is vacant or holds
    what an earlier call wrote and nothing else; hidden files aside.

    Args:
        folder: may be missing.
        mark: the file by which such a folder is known.
        names: every other file and folder that a call may write there.
    """
    if is_vacant(folder):
        return
    if not folder.is_dir():
        raise UserError(f"{folder} is a file; choose another folder to write to.")
    with unread_named(folder):
        found = {path.name for path in folder.iterdir()}
    found = {name for name in found if not name.startswith(".")}
    if foreign := sorted(found - {mark, *names}):
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise UserError(
            f"{folder} would be replaced, but holds {foreign[0]}{more}, not written "
            "by this command; move that away, or choose another folder."
        )
    if mark not in found:
        raise UserError(
            f"{folder} would be replaced, but was not written by this command (it has "
            f"no {mark}); choose another folder."
        )


def is_dangling(path: Source) -> bool:
    """Whether it is a link to nothing; in an object store there are no links."""
    return isinstance(path, Path) and path.is_symlink() and not path.exists()


def check_fetched(path: Source) -> None:
    """Raise `UserError` if only the name of a file is here, not what it holds, or the
    system does not give it.

    DataLad, git-annex and Git LFS keep links or lines of text in place of files that
    were not fetched.
    """
    if not isinstance(path, Path):
        return
    with unread_named(path):
        if is_dangling(path):
            raise UserError(
                f"{path} is a link whose target is missing ({path.readlink()}); fetch "
                "it (datalad get, git annex get) or copy the file itself there."
            )
        if not path.is_file():
            return
        with path.open("rb") as file:
            start = file.read(max(map(len, POINTERS)))
    if start.startswith(POINTERS):
        raise UserError(
            f"{path} only says where the file is kept; fetch it (datalad get, "
            "git annex get, git lfs pull)."
        )


def files_below(folder: Path) -> list[Path]:
    """Every file of a folder and of the folders in it, sorted, linked ones too.

    Each folder is searched once, under its first name: loops of links end. Links whose
    target is missing are among the files (see `check_fetched`), but for hidden ones,
    which editors and browsers leave as locks.
    """
    found: list[Path] = []
    searched: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        if (real := os.path.realpath(place)) in searched:
            folders.clear()
            continue
        searched.add(real)
        paths = [Path(place, name) for name in names]
        found += [
            path
            for path in paths
            if path.is_file() or (is_dangling(path) and not path.name.startswith("."))
        ]
    return sorted(found)


def none_for_nan(value: Any) -> Any:
    """JSON has no NaN: replace it by None, at any depth; arrays become lists."""
    if isinstance(value, np.ndarray):
        return none_for_nan(value.tolist())
    if isinstance(value, Mapping):
        return {key: none_for_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [none_for_nan(item) for item in value]
    if isinstance(value, float) and math.isnan(value):
        return None
    return value


def nan_for_none(value: Any) -> Any:
    """The other way round, for mappings of numbers at any depth."""
    if isinstance(value, Mapping):
        return {key: nan_for_none(item) for key, item in value.items()}
    return float("nan") if value is None else value


@contextmanager
def only_one(folder: Place, wait: bool = False) -> Generator[None]:
    """Hold a folder, made where it is missing, until the block or the process ends.

    Raises `UserError` if another process holds it, unless to `wait` for that is asked,
    and if nothing can be written into it. Object stores know no locks: there a folder
    goes unguarded.
    """
    if is_remote(folder):
        yield
        return
    path = folder / LOCK_FILE
    with failures_named(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        lock(handle, folder, wait)
        yield
    finally:
        os.close(handle)


def lock(handle: int, folder: Place, wait: bool) -> None:
    """Lock an opened file; the system unlocks it when its process ends, however."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        with suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        if not wait:
            raise UserError(
                f"another process is writing into {folder}; wait until it has ended, "
                "or choose another folder."
            )
        print(f"adn: waiting for another process to leave {folder}.", file=sys.stderr)
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
