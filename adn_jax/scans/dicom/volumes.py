"""Which images of one kind make one volume.

An acquisition goes through the body in one direction. So images are split into stacks:
images made one after the other, each beyond the last by an even distance. Stacks that
follow each other (base and vertex) or fill each other's gaps are one volume. A stack
that lies mostly where another one does was taken again and is left out: slices of two
acquisitions are never mixed, wherever the second one lies.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float

from adn_jax.scans.dicom.headers import Frame
from adn_jax.scans.dicom.straighten import SAME_PLACE_MM

TECHNIQUE = (
    "ImageType",
    "ConvolutionKernel",
    "ContrastBolusAgent",
    "SeriesDescription",
    "ProtocolName",
    "KVP",
    "TemporalPositionIdentifier",
)
"""What does not vary inside a stack, beside the thickness."""

WHOLE = 0.9
"""Share of the longest stack that counts as a whole acquisition: of these the first is
taken, which is the one without contrast where a bolus follows."""

EVEN_STEP = 0.2
"""By what share of itself the distance between neighbours in a stack may change."""

SHORTEST_RUN = 3
"""Where stacks hold fewer images than this on average, their numbers say nothing."""

T = TypeVar("T")


class Slice(NamedTuple):
    """An image and its distance in mm along the normal of the slices."""

    height: float
    frame: Frame


Stack = list[Slice]


@dataclass(frozen=True)
class SliceVolume:
    """Images one above the other, in the order of their heights."""

    frames: tuple[Frame, ...]
    repeated: int = 0
    """Places where further images were left out."""
    volumes: int = 1
    """Most images at one place, with those left out."""
    left_out: int = 0
    """Images of other acquisitions at these places."""
    is_told_apart: bool = True
    """Whether headers tell which images belong together, at these places."""


def find_volumes(frames: Sequence[Frame]) -> list[SliceVolume]:
    """Sort images of one kind, with one orientation, into volumes.

    Further acquisitions of the same technique are left out, others are further volumes.
    """
    if frames[0].position is None or frames[0].orientation is None:
        return [SliceVolume(tuple(frames))]
    slices = [*map(Slice, slice_heights(frames).tolist(), frames)]
    slices.sort(key=lambda one: _when_taken(one.frame))
    stacks, told = [], {}
    for group in grouped(slices, lambda one: _technique(one.frame)):
        found, told[_technique(group[0].frame)] = _find_stacks(group)
        stacks += found
    volumes = []
    while stacks:
        kept, again, others = _join_stacks(stacks)
        known = {_technique(one.frame) for one in kept}
        stacks = [one for one in others if _technique(one[0].frame) not in known]
        for stack in others:
            again += stack if _technique(stack[0].frame) in known else []
        are_told = all(told[one] for one in known) or _comes_apart(kept, again)
        volumes.append(_to_volume(kept, again, are_told))
    return volumes


def grouped(items: Iterable[T], key: Callable[[T], Hashable]) -> list[list[T]]:
    """Items with the same key, in the order of their first ones."""
    groups: dict[Hashable, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return [*groups.values()]


def slice_normal(frame: Frame) -> Float[np.ndarray, "3"]:
    """Direction at a right angle to a slice (DICOM's axes), to the head where axial."""
    rows, columns = np.array(frame.orientation, float).reshape(2, 3)
    normal = np.cross(rows, columns)
    return normal * (np.sign(normal[np.argmax(abs(normal))]) or 1.0)


def slice_heights(frames: Sequence[Frame]) -> Float[np.ndarray, " slices"]:
    """Distance of each slice's centre along their normal, in mm."""
    return np.array([frame.centre_mm for frame in frames]) @ slice_normal(frames[0])


def _when_taken(frame: Frame) -> tuple[Any, ...]:
    """Sorts images by when they were taken, as far as their headers tell."""
    told = frame.header.get
    taken = told("AcquisitionDateTime", "")
    if told("AcquisitionTime"):
        taken = told("AcquisitionDate", "") + told("AcquisitionTime", "")
    made = told("ContentDate", "") + told("ContentTime", "")
    return (taken, frame.number("AcquisitionNumber"), made, *number_of(frame))


def _uid_of(frame: Frame) -> tuple[int, ...]:
    """Sorts images by their instance UIDs, which scanners count up."""
    parts = frame.header.get("SOPInstanceUID", "").split(".")
    return (*(int(part) if part.isdigit() else 0 for part in parts), frame.index)


def number_of(frame: Frame) -> tuple[float, int]:
    """Number of an image in its series."""
    return frame.number("InstanceNumber"), frame.index


def _technique(frame: Frame) -> tuple[Any, ...]:
    """How an image was taken and reconstructed."""
    thickness = frame.thickness_mm and round(frame.thickness_mm, 1)
    return (thickness, *(frame.header.get(name, "") for name in TECHNIQUE))


def _find_stacks(slices: Stack) -> tuple[list[Stack], bool]:
    """Split images of one technique, in the order taken, into stacks.

    Acquisition numbers may be one a series, one a rotation or one a slice, and
    instance numbers may begin again: of the two orders the one with fewer stacks is
    believed, or none, where both are out of order. UIDs are asked where that is so, or
    numbers do not tell two images at one place apart. Also returns whether an order is
    believed that does.
    """
    parts, aside = [], []
    for group in grouped(slices, lambda one: one.frame.number("AcquisitionNumber")):
        found, single = follow([[one] for one in group])
        parts += found
        aside += single
    joined, again = follow(parts)
    ways = [[*joined, *again, *aside]]
    if len({number_of(one.frame) for one in slices}) == len(slices):
        ways.append(_stacks_by(slices, lambda one: number_of(one.frame)))
    stacks, alike = min(ways, key=len), _are_alike(slices)
    believed = len(slices) >= SHORTEST_RUN * len(stacks)
    if alike or not believed:
        by_uid = _stacks_by(slices, lambda one: _uid_of(one.frame))
        fewer = len(by_uid) <= len(stacks)
        if fewer and len(slices) >= SHORTEST_RUN * len(by_uid):
            return by_uid, True
    if believed:
        return stacks, not alike
    return _stacks_by(slices, lambda one: one.height), False


def _are_alike(slices: Stack) -> bool:
    """Whether headers do not tell when one of two images at one place was taken."""
    by_height = sorted(slices, key=lambda one: (one.height, _when_taken(one.frame)))
    return any(
        abs(one.height - other.height) <= SAME_PLACE_MM
        and _when_taken(one.frame) == _when_taken(other.frame)
        for one, other in pairwise(by_height)
    )


def _comes_apart(kept: Stack, again: Stack) -> bool:
    """Whether a number or time is lower in all images of one part than of the other, or
    there is no other."""
    if not again:
        return True
    keys = [[_when_taken(one.frame)[:-1] for one in part] for part in (kept, again)]
    ours, theirs = (list(zip(*part, strict=True)) for part in keys)
    return any(
        max(one) < min(other) or max(other) < min(one)
        for one, other in zip(ours, theirs, strict=True)
    )


def _stacks_by(slices: Stack, key: Callable[[Slice], Any]) -> list[Stack]:
    """The stacks of images in another order."""
    stacks, aside = follow([[one] for one in sorted(slices, key=key)])
    return stacks + aside


def follow(parts: Sequence[Stack]) -> tuple[list[Stack], list[Stack]]:
    """Join parts while each lies beyond the last one, as far as that from its own.

    Returns the stacks, and apart from them the parts that lie just where the part
    before them does.
    """
    stacks: list[Stack] = []
    aside: list[Stack] = []
    low = high = step = 0.0
    before = (0.0, 0.0)
    for part in parts:
        heights = [one.height for one in part]
        span = min(heights), max(heights)
        moved = max(abs(span[0] - before[0]), abs(span[1] - before[1]))
        if stacks and moved <= SAME_PLACE_MM:
            aside.append(part)
            continue
        gap = max(span[0] - high, 0) + min(span[1] - low, 0)
        even = abs(gap - step) <= EVEN_STEP * abs(step) if step else abs(gap) > 0
        if stacks and even:
            stacks[-1] += part
            low, high, step = min(low, span[0]), max(high, span[1]), gap
        else:
            stacks.append([*part])
            low, high = span
            step = (heights[-1] - heights[0]) / max(1, len(part) - 1)
        before = span
    return stacks, aside


def _join_stacks(stacks: Sequence[Stack]) -> tuple[Stack, Stack, list[Stack]]:
    """The images of the first whole stack and of those that go on where it ends.

    Returns them, what else these stacks hold at places that are taken, and the stacks
    that lie mostly at such places.
    """
    stacks = sorted(stacks, key=lambda stack: min(_when_taken(f) for _, f in stack))
    longest = max(map(length_mm, stacks))
    first = next(one for one in stacks if length_mm(one) >= WHOLE * longest)
    rest = [one for one in stacks if one is not first]
    kept, again, others = [*first], [], []
    taken = _covered_mm(first)
    for stack in sorted(rest, key=length_mm, reverse=True):
        parts: tuple[Stack, Stack] = [], []
        for one in stack:
            parts[_is_covered(one.height, taken)].append(one)
        new, old = parts
        if len(new) <= len(old):
            others.append(stack)
            continue
        kept += new
        again += old
        taken = np.concatenate([taken, _covered_mm(stack)])
    return kept, again, others


def length_mm(stack: Stack) -> float:
    """How much of the body a stack covers, without its gaps."""
    return float(np.ptp(_covered_mm(stack), axis=1).sum())


def _covered_mm(stack: Stack) -> Float[np.ndarray, "slices 2"]:
    """From where to where each slice of a stack reaches, along the normal.

    Half its thickness, or half-way to its neighbour where that is nearer or the header
    has no thickness. The outermost slices reach no farther out than their middle:
    another stack may go on there.
    """
    heights = np.sort([one.height for one in stack])
    half = (stack[0].frame.thickness_mm or np.inf) / 2
    reach = np.minimum(np.diff(heights) / 2, half)
    return np.stack([heights - np.r_[0, reach], heights + np.r_[reach, 0]], axis=1)


def _is_covered(height: float, taken_mm: Float[np.ndarray, "slices 2"]) -> bool:
    """Whether a slice is there already."""
    low, high = taken_mm.T
    return bool(
        ((low - SAME_PLACE_MM <= height) & (height <= high + SAME_PLACE_MM)).any()
    )


def _to_volume(kept: Stack, again: Stack, told: bool) -> SliceVolume:
    """Images in the order of their heights, and how many lie there besides."""
    kept = sorted(kept, key=lambda one: one.height)
    heights = np.array([one.height for one in kept])
    nearest = [int(np.argmin(abs(heights - one.height))) for one in again]
    counts = np.bincount(nearest, minlength=len(kept))
    return SliceVolume(
        frames=tuple(one.frame for one in kept),
        repeated=int((counts > 0).sum()),
        volumes=1 + int(counts.max()),
        left_out=len(again),
        is_told_apart=told,
    )
