"""One process at a time in a folder."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adn_jax.errors import UserError
from adn_jax.runtime.files import failures_named
from adn_jax.runtime.places import Place, is_remote

LOCK_FILE = ".lock"
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
"""What file systems answer that know no locks: there the folder goes unguarded."""


@contextmanager
def only_one(folder: Place) -> Iterator[None]:
    """Hold a folder, made where it is missing, until the block or the process ends.

    Raises `UserError` where another process holds it, and where nothing can be
    written into it. Object stores know no locks: there a folder goes unguarded.
    """
    if is_remote(folder):
        yield
        return
    path = folder / LOCK_FILE
    with failures_named(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        lock(handle, folder)
        yield
    finally:
        os.close(handle)


def lock(handle: int, folder: Path) -> None:
    """Lock an opened file; the system unlocks it when its process ends, however."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(
            f"another process is writing into {folder}; wait until it has ended, or "
            "choose another folder."
        ) from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
