"""Whether a mid-line that was found can be trusted, and with it left and right."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from adn_jax.data.cases import PreparedCase
from adn_jax.inference.maps import CaseMaps
from adn_jax.metrics.alignment import (
    Plane,
    in_plane_angle_deg,
    in_world,
    offset_mm,
    turn_deg,
)

LARGEST_UNLIKENESS = 0.25
"""From this mean |X - X'| over mean X no line mirrors the brain: whole heads of several
makes, infarcts of 150 mL among them, reach 0.22, shapes without a mid-line begin at
0.28."""

LEAST_MARGIN = 0.04
"""By so much the best line at another angle has to be worse, or it could be that one:
for whole heads it is 0.16 in the median."""

LEAST_RIVAL = 1.2
"""Another line nearby should be so many times as unlike: of 136 made heads one alone
had a nearer rival, and its mid-line was the one that erred by 2 degrees."""

USUAL_DEG = 45.0
"""Heads lie turned by less, so up to here the coordinates say what is front."""

CLEAR_SKEWNESS = 0.05
"""Beyond `USUAL_DEG` the brain's shape has to say it: so clearly."""

UNCERTAIN = (
    "another line, some degrees from the mid-line found, mirrors the brain about as "
    "well: the mid-line may be off by 2 degrees or more, as where the head is rolled"
)

UNKNOWN_SIDES = (
    "the brain's shape does not tell its front from its back, so that the side of a "
    "lesion is not told; look whether the scan shows the whole brain and its "
    "orientation is right"
)


class Fit(NamedTuple):
    """How well the mid-line of one head is known (`pipeline.align.MidlineFit`)."""

    unlikeness: float
    elsewhere: float
    rival: float
    skewness: float


class Judgement(NamedTuple):
    """What can be said about a mid-line."""

    found: bool
    """Whether there is one."""
    knows_sides: bool
    """Whether it is known which side of it is the patient's left."""
    flags: tuple[str, ...]
    """What deserves a look, a sentence each."""


def judge_midline(
    plane: Plane, fit: Fit, affine: Float[np.ndarray, "4 4"]
) -> Judgement:
    """Judge a plane of the prepared grid, whose affine leads to world mm (RAS)."""
    if not _is_found(fit):
        return Judgement(False, False, (_not_found(fit),))
    turn = turn_deg(in_world(plane, affine))
    unusual = abs(turn) > USUAL_DEG
    doubts = (UNCERTAIN,) if fit.rival < LEAST_RIVAL else ()
    if fit.skewness <= (CLEAR_SKEWNESS if unusual else 0.0):
        return Judgement(True, False, (*doubts, UNKNOWN_SIDES))
    return Judgement(True, True, (*doubts, turned(turn)) if unusual else doubts)


def _is_found(fit: Fit) -> bool:
    """Whether the brain mirrors well about the line, and clearly worse elsewhere."""
    alone = fit.elsewhere - fit.unlikeness > LEAST_MARGIN
    return fit.unlikeness < LARGEST_UNLIKENESS and alone


def _not_found(fit: Fit) -> str:
    """The flag of a head without a mid-line, with the reason."""
    if fit.unlikeness >= LARGEST_UNLIKENESS:
        reason = "the brain mirrors well about no line"
    else:
        reason = "the brain mirrors about as well at another angle"
    return f"no mid-line found: {reason}; look at the brain mask and the orientation"


def turned(degrees: float) -> str:
    """The flag of a head that lies turned by an unusual angle."""
    return (
        f"the head is turned by {degrees:.0f} degrees in the scan's coordinates; left "
        "and right are told by the brain's shape, not by the coordinates: look whether "
        "the orientation is right"
    )


def pose_of(maps: CaseMaps, case: PreparedCase) -> dict[str, float]:
    """How a head lies in the patient's coordinates by its mid-sagittal plane.

    Empty where none was sought or found. The offset is towards X's right, the patient's
    where the sides are known.
    """
    if maps.plane is None:
        return {}
    plane = in_world(maps.plane, case.affine)
    return {
        "rotation_deg": in_plane_angle_deg(plane),
        "offset_mm": offset_mm(plane),
    }
