"""Folders and files here or in an object store (gs://, s3://), by etils and fsspec."""

import logging
import sys
import zipfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import fsspec
import fsspec.config
from etils import epath

from adn_jax.errors import UserError, one_line

Place = Path | epath.Path
"""A file or folder on this machine (pathlib) or in an object store (epath)."""

Source = Place | zipfile.Path
"""What files of a case are read from: a place, or a folder in a packed record."""

STORES = ("gs", "s3")
"""Object stores that are known, by how their addresses begin."""


def find_modules_here() -> None:
    """Let Python find modules in the folder of the call, where the script `adn`, unlike
    `python -m adn_jax`, does not look."""
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)


def at_home(text: str) -> Path:
    """A path; of `~/x`, which bash leaves as it is in --out=~/x, in the home folder.

    Raises `UserError` for a name that no page or table could hold.
    """
    if text != (told := text.encode("utf-8", "replace").decode()):
        raise UserError(f"the name {told} is not UTF-8; rename it.")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise UserError(f"{text} is in no home folder ({error}).") from error


def to_place(text: str) -> Place:
    """The place that a command line names.

    A place that does not exist in a store that answers is no error. Raises `UserError`
    where the store is none of `STORES`, lacks its package or does not answer.
    """
    store, is_address, _ = text.partition("://")
    if not is_address:
        return at_home(text)
    if store not in STORES:
        raise UserError(
            f"{text} is in no object store that is known here; give a folder on a "
            "disk, gs://BUCKET/FOLDER or s3://BUCKET/FOLDER."
        )
    # listings kept would hide what others write
    fsspec.config.conf.setdefault(store, {})["use_listings_cache"] = False
    # its errors say the same without a traceback
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    try:
        place = epath.Path(text)
        place.exists()
    except ImportError as error:
        raise UserError(
            f"{text} needs the package of its object store ({one_line(error)}); "
            "run: pip install 'adn-jax[cloud]'."
        ) from error
    except Exception as error:  # each store has errors of its own
        raise UserError(
            f"{text} cannot be reached ({one_line(error)}); check its name, your "
            "credentials and the network."
        ) from error
    return place


def as_place(place: Place | str) -> Place:
    """A place, or the one that a text names (`to_place`); one such as `.` or `RUN/..`
    by its own name, under which results speak of it."""
    place = to_place(place) if isinstance(place, str) else place
    nameless = place.name in ("", "..") and not is_remote(place)
    return place.resolve() if nameless else place


def is_remote(place: Place | str) -> bool:
    """Whether a place is in an object store; epath has places on disks, too."""
    return "://" in str(place)


def spelled_out(place: Place) -> str:
    """The place's name from anywhere."""
    return str(place if is_remote(place) else place.resolve())


def check_apart(out: Place, data: Place) -> None:
    """Raise `UserError` if results would be written among the data."""
    if spelled_out(out) == spelled_out(data):
        raise UserError(
            f"{out} is the folder of the data itself; give another one for the results."
        )


def read_bytes(source: Source) -> bytes:
    """What a file holds.

    Raises `FileNotFoundError` if there is none, `UserError` if it cannot be read.
    """
    with unread_named(source):
        return source.read_bytes()


@contextmanager
def unread_named(source: Source) -> Generator[None]:
    """What keeps the block from reading a file becomes a `UserError` of it; that there
    is none (`FileNotFoundError`) does not."""
    try:
        yield
    except (FileNotFoundError, UserError):
        raise
    except Exception as error:  # each store has errors of its own
        reason = getattr(error, "strerror", None) or one_line(error)
        raise UserError(
            f"{source} could not be read ({reason}); check its rights, restore it, or "
            "try again when its disk or store answers."
        ) from error


def upload(here: Path, place: Place) -> None:
    """Copy a file, or what a folder holds, to an object store.

    Each file there is whole or as it was. Raises `UserError` if the store refuses.
    """
    try:
        store, name = fsspec.core.url_to_fs(str(place))
        if here.is_dir():
            store.put(f"{here}/", f"{name}/", recursive=True)
        else:
            store.put_file(str(here), name)
    except FileNotFoundError as error:
        raise UserError(
            f"{place} could not be written, for its bucket does not exist; make it, or "
            "check the name."
        ) from error
    except Exception as error:  # each store has errors of its own
        raise UserError(
            f"{place} could not be written ({one_line(error)}); check your rights "
            "there, then run the command again."
        ) from error


def move_folder(folder: Place, to: Place) -> None:
    """Give a folder another name, in place of a folder that has it now."""
    if to.exists():
        epath.Path(to).rmtree()
    if is_remote(folder):
        store, name = fsspec.core.url_to_fs(str(folder))
        store.mv(name, str(to), recursive=True)
    else:
        to.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(to)


@contextmanager
def at_hand(folder: Place, *names: str) -> Generator[Path]:
    """A folder on this machine in a folder's place, for programs that need one.

    Where `folder` is here it is that itself. Else it starts with copies of the files
    `names`, as far as they exist; who writes uploads what is to stay.
    """
    if not is_remote(folder):
        yield Path(folder)
        return
    with TemporaryDirectory() as temporary:
        here = Path(temporary)
        for name in names:
            if (folder / name).exists():
                (here / name).write_bytes(read_bytes(folder / name))
        yield here
