"""Which layout a raw data set has."""

from collections.abc import Callable
from pathlib import Path

from adn_jax.config import ReadSettings
from adn_jax.datasets.aisd.files import looks_like_aisd
from adn_jax.datasets.aisd.find import find_aisd
from adn_jax.datasets.bids import find_bids, looks_like_bids
from adn_jax.datasets.nnunet import find_nnunet, looks_like_nnunet
from adn_jax.datasets.plain import find_plain, looks_like_plain
from adn_jax.datasets.raw import RawDataset
from adn_jax.errors import UserError
from adn_jax.io.files import check_fetched

Finder = Callable[[Path, ReadSettings], RawDataset]


def by_folder(find: Callable[[Path], RawDataset]) -> Finder:
    """A finder that no setting concerns."""
    return lambda folder, _: find(folder)


LAYOUTS: dict[str, tuple[Callable[[Path], bool], Finder]] = {
    "aisd": (looks_like_aisd, find_aisd),
    "nnunet": (looks_like_nnunet, by_folder(find_nnunet)),
    "bids": (looks_like_bids, by_folder(find_bids)),
    "plain": (looks_like_plain, by_folder(find_plain)),
}
"""Layout -> whether a folder shows its signs, and how to find its cases."""


def find_dataset(
    folder: Path, layout: str = "auto", reading: ReadSettings | None = None
) -> RawDataset:
    """The cases of a raw data set; `UserError` if there are none.

    `layout` "auto" takes what the folder looks like, "plain" if like nothing else.
    `reading` says which cases of AISD are used and from which files (None: defaults).
    """
    check_fetched(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; give the folder of a raw data set.")
    _, find = LAYOUTS[layout_of(folder) if layout == "auto" else layout]
    return find(folder, ReadSettings() if reading is None else reading)


def layout_of(folder: Path) -> str:
    """The layout whose signs a folder shows; "plain" where it shows none.

    Raises `UserError` if it shows the signs of several.
    """
    found = [layout for layout, (shows, _) in LAYOUTS.items() if shows(folder)]
    if len(found) > 1:
        raise UserError(
            f"{folder} looks like several layouts ({', '.join(found)}); name the one "
            f"to read, as in --layout {found[0]} (an option of `adn prepare`)."
        )
    return found[0] if found else "plain"
