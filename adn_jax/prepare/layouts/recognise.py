"""Which layout a raw data set has."""

from pathlib import Path

from adn_jax.errors import UserError
from adn_jax.prepare.layouts.cases import RawDataset
from adn_jax.prepare.layouts.plain import find_plain

FINDERS = {"plain": find_plain}
"""How to find the cases of each layout."""


def find_dataset(folder: Path, layout: str = "auto") -> RawDataset:
    """The cases of a raw data set; `UserError` where there are none.

    `layout` "auto" takes what the folder looks like, "plain" if like nothing else.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; give the folder of a raw data set.")
    return FINDERS[layout_of(folder) if layout == "auto" else layout](folder)


def layout_of(folder: Path) -> str:  # noqa: ARG001
    """The name of the layout that a folder looks like."""
    return "plain"
