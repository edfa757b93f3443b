"""Which series of a DICOM folder is the head CT without contrast, and why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32
from scipy import ndimage

from adn_jax.errors import UserError, counted
from adn_jax.scans.dicom.headers import Frame
from adn_jax.scans.dicom.series import FEWEST_SLICES, KIND, Series
from adn_jax.scans.dicom.volumes import TECHNIQUE
from adn_jax.scans.dicom.words import has_contrast

CRITERIA = (
    ("axial", True, "it is not axial"),
    ("head", (True, None), "it shows another part of the body"),
    (
        "contrast",
        (False, None),
        "it was taken with a contrast agent, as its header or its vessels tell",
    ),
    ("original", True, "it was derived from other images"),
    ("bone_kernel", False, "its kernel is for bone"),
    ("volumes", 1, "it holds several images at the same place"),
)
"""Fact, wanted value and the reason against a series without it, weightiest first."""

MORE_ML = 1.0
"""By how much vessels with contrast agent exceed what is as bright without it."""

BLOOD_HU = 100.0
"""Above what blood shows without contrast agent, clots included."""

SOFTEST_BONE_HU = 700.0
"""What is brighter anywhere is bone or metal, which vessels never reach."""

NOISE_MM = 1.0

SMALLEST_MM2 = 4.0

AROUND_MM = 3.0

SURROUNDED = 0.9
"""Least share of soft tissue around a vessel; islands of bone have air or bone."""

MOST_PIXELS = 0.05
"""Largest share of the image that a vessel takes."""

SERIES_NAMES = {"StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber"}
"""What tells series apart, and says nothing of their images."""


@dataclass(frozen=True)
class Vessels:
    """Bright vessels of a series, slice by slice."""

    heights_mm: Float[np.ndarray, " slices"]
    """Along the body, rising, so that those of several series can be compared."""
    areas_mm2: Float[np.ndarray, " slices"]

    @property
    def reach_mm(self) -> tuple[float, float]:
        """Heights of the lowest and the highest slice."""
        return float(self.heights_mm[0]), float(self.heights_mm[-1])

    def ml(self, low_mm: float, high_mm: float) -> float | None:
        """Their volume between two heights; None if too few slices lie there.

        Slices are often closer at the base, where most that is bright lies.
        """
        inside = (self.heights_mm >= low_mm) & (self.heights_mm <= high_mm)
        if inside.sum() < FEWEST_SLICES:
            return None
        heights = np.unique([low_mm, *self.heights_mm[inside], high_mm])
        areas = np.interp(heights, self.heights_mm, self.areas_mm2)
        return float(np.trapezoid(areas, heights) / 1000)

    def is_brighter(self, other: "Vessels") -> bool:
        """Whether they exceed another series's, as far as both cover the same heights:
        a part of a head has fewer vessels than the whole."""
        low = max(self.reach_mm[0], other.reach_mm[0])
        high = min(self.reach_mm[1], other.reach_mm[1])
        ours, theirs = self.ml(low, high), other.ml(low, high)
        if ours is None or theirs is None:
            return False
        return ours > theirs + max(MORE_ML, theirs / 2)


def choose(series: Sequence[Series], wanted: str, where: Path) -> Series:
    """The series to read: the wanted one, or the best by `CRITERIA`, then most slices.

    Args:
        series: all that the folder holds.
        wanted: a series number or a part of its description; empty: our choice.
        where: the folder, for messages.

    Raises:
        UserError: none or several match, or none is a CT volume. Several volumes
            of one series are no several matches.
    """
    if wanted:
        return named(series, wanted, where)
    usable = [one for one in series if not one.problem]
    if not usable:
        found = "; ".join(f"series {one.title}: {one.problem}" for one in series)
        raise UserError(
            f"{where} holds no CT volume ({found}); give the folder of a head CT."
        )
    patients = {one.frames[0].header.get("PatientID", "") for one in usable} - {""}
    if len(patients) > 1:
        raise UserError(
            f"{where} holds scans of several patients; give the folder of one patient, "
            "or name the series."
        )
    return max(usable, key=_preference)


def named(series: Sequence[Series], wanted: str, where: Path) -> Series:
    """The one series with this number, or, if it is no number, with this in its
    description."""
    found = [one for one in series if one.facts["number"] == wanted]
    if not wanted.lstrip("-").isdigit():
        found += [
            one
            for one in series
            if wanted.lower() in one.facts["description"].lower()
            or wanted.lower() in one.facts["protocol"].lower()
        ]
    good = [one for one in found if not one.problem]
    if len({one.uid for one in good}) == 1:
        return max(good, key=_preference)
    listed = ", ".join(one.title for one in series) or "none"
    if found and not good:
        raise UserError(
            f"series {found[0].title} of {where} cannot be used: {found[0].problem}; "
            f"name another one: {listed}."
        )
    count = "no" if not found else "more than one"
    raise UserError(
        f"{count} series of {where} matches {wanted!r}; name one by its number or a "
        f"part of its description: {listed}."
    )


def _preference(series: Series) -> tuple[Any, ...]:
    """Order of choice, greatest first: `CRITERIA`, what is said, most slices."""
    facts = series.facts
    return (
        *_standing(series),
        facts["slices"],
        -series.frames[0].number("SeriesNumber"),
        facts["description"],
    )


def undecided(series: Sequence[Series]) -> list[Series]:
    """The best series, where there are several and words tell nothing of contrast, or
    that all have it; words that say "without" of all of them are believed."""
    usable = [one for one in series if not one.problem]
    best = max(map(_standing, usable), default=None)
    rivals = [one for one in usable if _standing(one) == best]
    if len(rivals) < 2 or rivals[0].facts["contrast"] is False:
        return []
    return rivals


def doubted(series: Sequence[Series], chosen: Series) -> Series | None:
    """The best series that words of contrast alone put behind the chosen one; None:
    there is none."""
    words = chosen.facts["contrast"]
    if words is True:
        return None
    behind = (True,) if words is None else (True, None)
    as_chosen = [
        (replace(one, facts=one.facts | {"contrast": words}), one)
        for one in series
        if one.facts["contrast"] in behind and not one.problem
    ]
    equal = [pair for pair in as_chosen if _standing(pair[0]) >= _standing(chosen)]
    return max(equal, key=lambda pair: _preference(pair[0]))[1] if equal else None


def contradiction_flags(
    chosen: Series, other: Series, vessels: Sequence[Vessels | None]
) -> tuple[str, ...]:
    """A sentence if vessels say the opposite of words.

    `vessels` are those of the chosen series and of the other one, which words put
    behind it.
    """
    ours, theirs = vessels
    if ours is None or theirs is None or not ours.is_brighter(theirs):
        return ()
    said = (
        f"{chosen.title} is without contrast agent, but vessels are brighter in it "
        f"than in {other.title}"
        if chosen.facts["contrast"] is False
        else f"{other.title} is with contrast agent, but vessels are brighter in "
        f"{chosen.title}, which is used"
    )
    return (
        f"words say that the series {said}; look which is unenhanced, and name it with "
        "--series",
    )


def _standing(series: Series) -> tuple[bool, ...]:
    """What weighs more than the number of slices, greatest first."""
    facts = series.facts
    return (
        *(meets(facts, name, value) for name, value, _ in CRITERIA),
        facts["head"] is True,
        facts["contrast"] is False,
        not facts.get("brighter_vessels"),
    )


def told_by_vessels(
    series: Sequence[Series],
    rivals: Sequence[Series],
    vessels: Sequence[Vessels | None],
) -> list[Series]:
    """The series, with contrast in those whose vessels are brighter than others'.

    Of the others it is not known then, where agent or protocol said so, as these are
    of the whole examination; what the description of a series itself says stays. A
    rival whose vessels could not be measured is left as it is.
    """
    measured = {
        id(one): seen
        for one, seen in zip(rivals, vessels, strict=True)
        if seen is not None
    }
    bright = {
        key: any(map(seen.is_brighter, measured.values()))
        for key, seen in measured.items()
    }
    return [
        replace(one, facts=one.facts | _facts_by_vessels(one, measured, bright))
        if id(one) in measured
        else one
        for one in series
    ]


def _facts_by_vessels(
    series: Series, measured: Mapping[int, Vessels], bright: Mapping[int, bool]
) -> dict[str, Any]:
    """What the vessels of a series tell, beside those of its rivals."""
    vessels = measured[id(series)]
    volume = vessels.ml(*vessels.reach_mm)
    facts: dict[str, Any] = {} if volume is None else {"vessels_ml": round(volume, 1)}
    if bright[id(series)]:
        return facts | {"contrast": True, "brighter_vessels": True}
    own_words = has_contrast("", series.facts["description"])
    unsure = any(bright.values()) and own_words is not True
    return facts | ({"contrast": None} if unsure else {})


def meets(facts: dict[str, Any], name: str, value: Any) -> bool:
    """Whether a fact has the wanted value."""
    return facts[name] in value if isinstance(value, tuple) else facts[name] == value


def _reason_against(other: Series, chosen: Series) -> str:
    """Why another series was not chosen, in words."""
    if other.problem:
        return other.problem
    for name, value, reason in CRITERIA:
        if meets(chosen.facts, name, value) and not meets(other.facts, name, value):
            return reason
    if chosen.facts["head"] and not other.facts["head"]:
        return "it does not say that it shows a head"
    if chosen.facts["contrast"] is False and other.facts["contrast"] is None:
        return "it does not say that it is without contrast"
    if other.facts.get("brighter_vessels") and not chosen.facts.get("brighter_vessels"):
        return "its vessels are brighter"
    if _preference(other) > _preference(chosen):
        return "another series was asked for"
    ours, theirs = chosen.facts["slices"], other.facts["slices"]
    if ours > theirs:
        return f"it has {theirs} slices instead of {ours}"
    return "another one comes first"


def choice_record(
    series: Sequence[Series], chosen: Series, wanted: str
) -> dict[str, Any]:
    """What was chosen and why, with every series of the folder, for `case.json`."""
    others = [one for one in series if one is not chosen]
    against = [f"series {one.title}: {_reason_against(one, chosen)}" for one in others]
    why = f"asked for by {wanted!r}" if wanted else "; ".join(against)
    return {
        "chosen": chosen.facts["number"],
        "why": why or "it is the only series",
        "series": [chosen.facts]
        + [one.facts | {"against": _reason_against(one, chosen)} for one in others],
    }


def choice_flags(
    series: Sequence[Series], chosen: Series, damaged: int, wanted: str = ""
) -> tuple[str, ...]:
    """What deserves a look in the choice, a sentence each.

    `damaged` is how many files of the folder could not be read, `wanted` the series
    that was asked for.
    """
    facts = chosen.facts
    flags = [
        f"the series {chosen.title} is used although {reason}"
        for name, value, reason in CRITERIA
        if not meets(facts, name, value) and name != "volumes"
    ]
    if chosen.repeated:
        there = (
            f"there are up to {facts['volumes']} images at {chosen.repeated} of "
            f"{facts['slices']} places; "
        )
        out = f"{chosen.left_out} images are left out"
        flags.append(
            f"{there}those of one acquisition are used, {out}"
            if chosen.is_told_apart
            else f"{there}headers do not tell which belong together; {out}. Look, and "
            "give a folder of one acquisition"
        )
    bright = [
        one.title
        for one in series
        if one.facts.get("brighter_vessels") and one is not chosen
    ]
    if bright:
        flags.append(
            f"headers do not tell which series is unenhanced; in {bright[0]} "
            "vessels are brighter, so it is not used"
        )
    flags += _kind_flags(series, chosen)
    if not wanted:
        flags += _tie_flags(series, chosen)
    studies = sorted(
        {_study_of(one) for one in series if not one.problem}, key=lambda one: one[::-1]
    )
    if len(studies) > 1:
        order = 1 + studies.index(_study_of(chosen))
        flags.append(
            f"there are {len(studies)} studies of this patient; the one used is "
            f"number {order} by date"
        )
    if damaged:
        flags.append(f"damaged DICOM files, left out: {damaged}")
    return tuple(flags)


def _tie_flags(series: Sequence[Series], chosen: Series) -> list[str]:
    """A sentence if another series would have served as well as the one chosen."""
    equal = [
        one
        for one in series
        if not _is_part_of(one, chosen)
        and not one.problem
        and _standing(one) == _standing(chosen)
        and one.facts["slices"] == chosen.facts["slices"]
    ]
    if not equal:
        return []
    first, more = equal[0], len(equal) - 1
    others = f" and {counted(more, 'other')}" if more else ""
    said = difference(first.frames[0], chosen.frames[0], "nothing that is looked at")
    return [
        f"the series {first.title}{others} would serve as well as {chosen.title}, "
        f"which is used; they differ in: {said}"
    ]


def _kind_flags(series: Sequence[Series], chosen: Series) -> list[str]:
    """A sentence on each other kind of image in the series, and on mixed kernels.

    A localiser is in many series, and nobody takes it for the scan.
    """
    others = [
        one
        for one in series
        if one is not chosen and _is_part_of(one, chosen) and not one.is_localizer
    ]
    flags = [
        f"images of another kind are in the series {chosen.title}, left out "
        f"({len(one.frames)}): {_difference_in_series(one.frames[0], chosen.frames[0])}"
        for one in others
    ]
    kernels = {frame.header.get("ConvolutionKernel", "") for frame in chosen.frames}
    if len(kernels) > 1:
        named = ", ".join(kernel or "none" for kernel in sorted(kernels))
        flags.append(f"stacks of slices with several kernels are joined: {named}")
    return flags


def _is_part_of(one: Series, other: Series) -> bool:
    """Whether two are kinds of image of one series: by its UID, or, if that was
    blanked, its number."""
    if one.uid or other.uid:
        return one.uid == other.uid
    return one.facts["number"] == other.facts["number"]


def difference(
    one: Frame, other: Frame, otherwise: str = "another size, place or direction"
) -> str:
    """What the headers of two images differ in, word for word, but for the series."""
    names = [name for name in (*KIND, *TECHNIQUE) if name not in SERIES_NAMES]
    texts = [
        {name: frame.header.get(name) for name in names}
        | {"SliceThickness": frame.thickness_mm}
        for frame in (one, other)
    ]
    different = [
        f"{name} {value or 'none'} instead of {texts[1][name] or 'none'}"
        for name, value in texts[0].items()
        if (value or "") != (texts[1][name] or "")
    ]
    return "; ".join(different) or otherwise


def _difference_in_series(one: Frame, other: Frame) -> str:
    """What the headers of two images of one series differ in; of what should tell
    series apart the names alone, as a UID says nothing to a reader."""
    apart = [
        name
        for name in sorted(SERIES_NAMES)
        if one.header.get(name, "") != other.header.get(name, "")
    ]
    said = [f"another {' and '.join(apart)}"] if apart else []
    return difference(one, other, *said)


def _study_of(series: Series) -> tuple[str, str]:
    """UID and time of a study."""
    header = series.frames[0].header
    when = header.get("StudyDate", "") + header.get("StudyTime", "")
    return header.get("StudyInstanceUID", ""), when


def vessel_areas_mm2(
    hu: Float32[np.ndarray, "x y z"], pixel_mm: tuple[float, float]
) -> Float[np.ndarray, " z"]:
    """Area of bright spots within soft tissue in each slice: vessels with contrast
    agent, mostly.

    Calcifications count, too: compare scans of one patient, or expect some mL.
    """
    counts = [_vessel_pixels(one, pixel_mm) for one in hu.transpose(2, 0, 1)]
    return np.array(counts) * float(np.prod(pixel_mm))


def _vessel_pixels(
    hu: Float32[np.ndarray, "x y"], pixel_mm: tuple[float, float]
) -> int:
    """Pixels of a slice in bright spots with soft tissue all around."""
    smooth = ndimage.gaussian_filter(hu, [NOISE_MM / size for size in pixel_mm])
    soft = (smooth > 0) & (smooth <= BLOOD_HU)
    spots, _ = ndimage.label(smooth > BLOOD_HU, np.ones((3, 3)))
    reach = max(1, round(AROUND_MM / max(pixel_mm)))
    total = 0
    for index, place in enumerate(ndimage.find_objects(spots), start=1):
        around = tuple(
            slice(max(0, one.start - reach), one.stop + reach) for one in place
        )
        spot = spots[around] == index
        size = int(spot.sum())
        small = size * np.prod(pixel_mm) < SMALLEST_MM2
        if small or size > MOST_PIXELS * hu.size:
            continue
        if smooth[around][spot].max() <= SOFTEST_BONE_HU:
            total += size * _is_surrounded(spot, soft[around], reach)
    return total


def _is_surrounded(
    spot: Bool[np.ndarray, "a b"], soft: Bool[np.ndarray, "a b"], reach: int
) -> bool:
    """Whether there is soft tissue all around a spot, but for the pixels next to it."""
    ring = ndimage.binary_dilation(spot, np.ones((3, 3)), iterations=reach) & ~spot
    return bool(soft[ring].mean() >= SURROUNDED)
