"""Which PNG slice is which DICOM slice: told by position, checked by what they show."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from jaxtyping import Float32, Num, UInt8

from adn_jax.errors import UserError
from adn_jax.scans.dicom.headers import LPS_TO_RAS, Frame
from adn_jax.scans.dicom.straighten import SliceStack

COMPARED_HU = (-200, 300)
"""Tissue; what is lighter or darker counts as these."""

COMPARED_PIXELS = 64
"""Pixels along each side of a slice that are compared."""

LEAST_EXPLAINED = 0.9
"""Least share of the pictures' variance that the scan's HU explain."""

USUALLY_EXPLAINED = 0.98
"""With less there is a flag; a window alone leaves nothing open."""

CLEAR_LEAD = 0.5
"""The best orientation leaves at most this share of what the next one leaves open."""

SAME_SHARE = 0.001
"""Explained shares that differ by less are alike."""


@dataclass(frozen=True)
class Turn:
    """How a (z y x) stack is turned: rows and columns swapped, then axes flipped."""

    swap: bool = False
    flip_z: bool = False
    flip_y: bool = False
    flip_x: bool = False

    def of(self, stack: Num[np.ndarray, "z y x"]) -> Num[np.ndarray, "z y2 x2"]:
        """The turned stack (a view)."""
        turned = stack.swapaxes(1, 2) if self.swap else stack
        flips = (self.flip_z, self.flip_y, self.flip_x)
        return turned[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]

    def __str__(self) -> str:
        """What is done, in words."""
        words = {
            "rows and columns swapped": self.swap,
            "first slice last": self.flip_z,
            "top down": self.flip_y,
            "left right": self.flip_x,
        }
        return ", ".join(word for word, done in words.items() if done) or "as stored"


@dataclass(frozen=True)
class Match:
    """The orientation in which the pictures show the scan.

    `explained` is the share of the pictures' variance that HU explain in it,
    `as_stored` without any turn, `runner_up` in the best other orientation; all None
    if there are no pictures.
    """

    turn: Turn = Turn()
    explained: float | None = None
    as_stored: float | None = None
    runner_up: float | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """What `case.json` keeps."""
        return {
            "pictures": str(self.turn),
            "explained": rounded(self.explained),
            "runner_up": rounded(self.runner_up),
        }

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence where the pictures had to be turned."""
        if self.turn == Turn():
            return ()
        return (
            f"the PNG show the DICOM slices {self.turn} (explained by them: "
            f"{self.explained:.1%}, as stored {self.as_stored:.1%}); the label was "
            "turned so",
        )

    @property
    def flags(self) -> tuple[str, ...]:
        """A sentence where the match deserves a look."""
        if self.explained is None:
            return ("without pictures nothing tells whether the label lies right",)
        if self.explained < USUALLY_EXPLAINED:
            return (
                f"the scan explains only {self.explained:.1%} of what the PNG show: "
                "are they of this scan?",
            )
        return ()


def rounded(share: float | None) -> float | None:
    """A share with four digits."""
    return None if share is None else round(share, 4)


def dicom_order(stack: SliceStack, frames: tuple[Frame, ...]) -> Turn:
    """The turn from a stack, seen as (z y x), to DICOM's own order, and back again.

    DICOM's order is rows and columns as stored, and slices ascending along the cross
    product of their directions (the order of GDCM, by which AISD's PNG were made).
    """
    along_row, along_column = (
        np.array(frames[0].orientation, float).reshape(2, 3) * LPS_TO_RAS
    )
    row, column = np.array(frames[0].orientation, float).reshape(2, 3)
    normal = np.cross(row, column)
    way = np.array(frames[-1].position, float) - np.array(frames[0].position, float)
    return Turn(
        flip_z=bool(way @ normal < 0),
        flip_y=bool(stack.affine[:3, 1] @ along_column < 0),
        flip_x=bool(stack.affine[:3, 0] @ along_row < 0),
    )


def match_label(
    hu: Float32[np.ndarray, "z y x"],
    pictures: UInt8[np.ndarray, "z2 y2 x2"] | None,
    label: UInt8[np.ndarray, "z2 y2 x2"],
) -> Match:
    """How a label has to be turned to lie on the scan: as the pictures, else as stored.

    Raises `UserError` if it cannot lie on it.
    """
    if pictures is not None:
        return match_pictures(hu, pictures)
    if label.shape != hu.shape:
        raise UserError(
            f"the masks are {sizes(label)} pixels but DICOM has {sizes(hu)}; these are "
            "different scans, or slices are missing or damaged."
        )
    return Match()


def match_pictures(
    hu: Float32[np.ndarray, "z y x"], pictures: UInt8[np.ndarray, "z2 y2 x2"]
) -> Match:
    """Find the orientation of pictures that shows the scan.

    Args:
        hu: the scan in DICOM's order.
        pictures: the PNG, in any window.

    Raises:
        UserError: sizes differ, or no orientation is clearly the best.
    """
    fitting = [turn for turn in turns() if turn.of(pictures).shape == hu.shape]
    if not fitting:
        raise UserError(
            f"the PNG are {sizes(pictures)} pixels but DICOM has {sizes(hu)}; these "
            "are different scans, or slices are missing or damaged."
        )
    step = max(1, min(hu.shape[1:]) // COMPARED_PIXELS)
    scan = hu[:, ::step, ::step]
    shares = {
        turn: explained_share(scan, turn.of(pictures)[:, ::step, ::step])
        for turn in fitting
    }
    best, second = sorted(fitting, key=shares.__getitem__, reverse=True)[:2]
    is_clear = 1 - shares[best] < CLEAR_LEAD * (1 - shares[second]) - SAME_SHARE
    if shares[best] < LEAST_EXPLAINED or not is_clear:
        raise UserError(
            "the PNG do not clearly show the DICOM slices in any orientation "
            f"(explained {shares[best]:.1%} {best}; {shares[second]:.1%} {second}), so "
            "the label has no certain place."
        )
    return Match(best, shares[best], shares.get(Turn(), 0.0), shares[second])


def explained_share(
    hu: Float32[np.ndarray, "z y x"], pictures: UInt8[np.ndarray, "z y x"]
) -> float:
    """Share of the pictures' variance that a function of HU explains, whatever it is.

    The correlation ratio (Roche et al., MICCAI 1998): 1 where the pictures show the
    scan in any window, 0 where they have nothing to do with it.
    """
    low, high = COMPARED_HU
    bins = np.clip(np.rint(hu), low, high).astype(np.int32).ravel() - low
    values = pictures.ravel() - pictures.mean()
    total = float(values @ values)
    if total == 0:
        return 0.0
    counts = np.bincount(bins)
    sums = np.bincount(bins, weights=values)
    return float(np.sum(sums**2 / np.maximum(counts, 1)) / total)


def turns() -> Iterator[Turn]:
    """All 16 ways to turn a stack of slices, as stored first."""
    return (Turn(*flags) for flags in product((False, True), repeat=4))


def sizes(stack: Num[np.ndarray, "z y x"]) -> str:
    """Shape of a stack, as users know it."""
    slices, rows, columns = stack.shape
    return f"{slices} slices of {rows} x {columns}"
