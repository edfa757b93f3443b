"""Files that are whole or absent: written beside their place, then moved there."""

import json
import os
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from adn_jax.errors import UserError
from adn_jax.runtime.places import (
    Place,
    Source,
    at_hand,
    is_remote,
    read_bytes,
    upload,
)

UNFINISHED = re.compile(r"\.\d+\.(?P<name>.+)")
"""Name of what `atomic_path` yields, and leaves where its process is killed."""


@contextmanager
def atomic_path(path: Place) -> Iterator[Path]:
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
        temporary = path.with_name(f".{os.getpid()}.{path.name}")
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
def failures_named(path: Place) -> Iterator[None]:
    """What the file system refuses in the block becomes a `UserError` of `path`."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path} could not be written ({error.strerror or error}); free space or "
            "choose another folder, then run the command again."
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
    """Read a JSON file; `UserError` where it is missing or damaged."""
    try:
        return json.loads(read_bytes(path))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; check the folder's name.") from error
    except ValueError as error:
        raise UserError(
            f"{path} is not readable JSON ({error}); restore it or make it anew."
        ) from error
