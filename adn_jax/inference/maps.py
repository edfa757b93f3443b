"""What is found in one case: maps, and how far to trust its mid-line and predictions.

Several predictions of one scan come from dropout samples (Gal and Ghahramani 2016) or
from an ensemble (Lakshminarayanan et al. 2017). Uncertainty is the entropy of their
mean (predictive entropy), in bits: 0 where it is 0 or 1, 1 where it is 0.5. The mutual
information is the part of it that comes from their disagreement; the rest is
uncertainty that each of them has.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage
from scipy.special import entr

from adn_jax.data.known_lesions import KnownLesions
from adn_jax.io.image import Affine
from adn_jax.metrics.alignment import (
    Plane,
    in_plane_angle_deg,
    in_world,
    offset_mm,
    turn_deg,
)
from adn_jax.metrics.overlap import TOUCHING, Mask, Spacing, volume_ml, voxel_ml
from adn_jax.pipeline.align import MidlineFit
from adn_jax.report.pages import format_ml

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
BACKWARDS_DEG = 90.0
"""Turned by more, a head looks like one whose rows were stored in the wrong order."""
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

HELD_BELOW = 0.01
"""Lesions that do not count are held so far below the threshold: more than
probabilities are rounded by when they are stored."""

SMALL_ML = 10.0
"""Predicted volume on the prepared grid below which a case is small."""

Map = Float[np.ndarray, "z y x"]

LesionRule = Callable[
    [Float[np.ndarray, " n"], Float[np.ndarray, " n"]], Bool[np.ndarray, " n"]
]
"""Which lesions count, of their volumes in mL and their mean probabilities."""


@dataclass(frozen=True)
class CaseMaps:
    """Every map of one case (letters: `adn_jax.types`).

    `volume`, `prediction` and `lesion` are on I's grid, the rest on X's. The planes
    are the estimated mid-sagittal plane in I, at the end and after T alone; None
    if the recipe looks for none, or found none (`midline_missed`). Maps of D are None
    if the recipe has no D.
    """

    name: str
    spacing_mm: Spacing
    window_hu: tuple[float, float]
    threshold: float
    volume: Map
    prediction: Map
    aligned: Map
    asymmetry: Map
    aligned_prediction: Map
    plane: Plane | None = None
    first_plane: Plane | None = None
    midline_missed: bool = False
    """Whether a mid-line was sought and none found."""
    knows_sides: bool = True
    """Whether X's right is the patient's right for sure."""
    flags: tuple[str, ...] = ()
    """What deserves a look about the mid-line or the box, a sentence each."""
    adds_up: bool = False
    """Whether P and Q are parts of A, in its unit."""
    pathological: Map | None = None
    anatomical: Map | None = None
    salient: Map | None = None
    compensated: Map | None = None
    lesion: Mask | None = None
    aligned_lesion: Mask | None = None
    aligned_truth: Mask | None = None
    """Where the infarct darkened the scan (phantoms), on X's grid."""
    known_lesions: KnownLesions | None = None
    """How often lesions are true; None: nobody measured it."""
    ppv: Map | None = None
    """PPV of the predicted lesion that each voxel of I's grid belongs to, NaN where it
    is smaller than any measured one, 0 where there is none; None: not known."""
    left_out_ml: tuple[float, ...] = ()
    """Volumes of the predicted lesions that do not count (`counting`), and in results
    on a scan's own grid of those of which it shows no voxel."""

    @property
    def predicted(self) -> Mask:
        """Infarct mask on I's grid."""
        return self.prediction >= self.threshold

    @property
    def aligned_predicted(self) -> Mask:
        """Infarct mask on X's grid."""
        return self.aligned_prediction >= self.threshold

    def counting(self, counts: LesionRule) -> "CaseMaps":
        """The same with the predicted lesions (26-connected) alone that count.

        The probability of the others is held below the threshold, on either grid.
        """
        prediction, aligned = (
            hold_back(probability, self.threshold, self.spacing_mm, counts)
            for probability in (self.prediction, self.aligned_prediction)
        )
        return replace(
            self,
            prediction=prediction[0],
            aligned_prediction=aligned[0],
            left_out_ml=prediction[1],
        )

    def telling(self, known: KnownLesions, least_ml: float) -> "CaseMaps":
        """The same with the PPV of its lesions, of which `known` measured those of at
        least `least_ml`."""
        lesions = Lesions.of(self.predicted)
        volumes = lesions.volumes_ml(self.spacing_mm)
        ppv = known.ppv(volumes, lesions.means(self.prediction))
        each = np.concatenate([[0.0], np.where(volumes < least_ml, np.nan, ppv)])
        return replace(self, known_lesions=known, ppv=each[lesions.number])

    @property
    def window_width_hu(self) -> float:
        """HU that one unit of a prepared volume or map stands for."""
        return self.window_hu[1] - self.window_hu[0]

    @property
    def lesion_slice(self) -> int:
        """Slice of X's grid with the largest lesion: the label's, else the predicted,
        else the slice with most asymmetry."""
        weight = self.asymmetry
        if self.aligned_predicted.any():
            weight = self.aligned_predicted
        if self.aligned_lesion is not None and self.aligned_lesion.any():
            weight = self.aligned_lesion
        return int(np.argmax(weight.sum(axis=(1, 2))))

    def height_mm(self, z: int) -> float:
        """Height of a slice above the grid's centre."""
        return (z - (self.volume.shape[0] - 1) / 2) * self.spacing_mm[0]

    def pose(self, affine: Affine) -> dict[str, float]:
        """How the head lies in the patient's coordinates by its mid-sagittal plane.

        `affine` is that of the prepared grid. Empty if no plane was sought or found.
        The offset is towards X's right, the patient's if the sides are known.
        """
        if self.plane is None:
            return {}
        plane = in_world(self.plane, affine)
        return {
            "rotation_deg": in_plane_angle_deg(plane),
            "offset_mm": offset_mm(plane),
        }


class Lesions(NamedTuple):
    """The lesions of a mask: its 26-connected components."""

    number: Int[np.ndarray, "z y x"]
    """Of the lesion that each voxel belongs to, from 1 on; 0: none."""
    voxels: Int[np.ndarray, " n"]
    """How many each has."""

    @classmethod
    def of(cls, mask: Mask) -> "Lesions":
        """Number them."""
        number, count = ndimage.label(mask, TOUCHING)
        return cls(number, np.bincount(number.ravel(), minlength=count + 1)[1:])

    def volumes_ml(self, spacing_mm: Spacing) -> Float[np.ndarray, " n"]:
        """The volume of each."""
        return self.voxels * voxel_ml(spacing_mm)

    def means(self, volume: Map) -> Float[np.ndarray, " n"]:
        """The mean over each one's voxels."""
        wide = volume.ravel().astype(np.float64)
        size = len(self.voxels) + 1
        return np.bincount(self.number.ravel(), wide, size)[1:] / self.voxels

    def hits(self, label: Mask) -> Bool[np.ndarray, " n"]:
        """Which share a voxel with a label."""
        return np.isin(np.arange(1, len(self.voxels) + 1), self.number[label])


def hold_back(
    probability: Map, threshold: float, spacing_mm: Spacing, counts: LesionRule
) -> tuple[Map, tuple[float, ...]]:
    """Hold lesions that do not count below the threshold; also returns their mL."""
    lesions = Lesions.of(probability >= threshold)
    volumes = lesions.volumes_ml(spacing_mm)
    left_out = ~counts(volumes, lesions.means(probability))
    held = np.minimum(probability, max(threshold - HELD_BELOW, 0.0))
    inside = np.concatenate([[False], left_out])[lesions.number]
    held = np.where(inside, held, probability).astype(probability.dtype)
    return held, tuple(volumes[left_out].tolist())


def number_and_largest(volumes_ml: Sequence[float]) -> str:
    """How many lesions there are, and how large the largest is, in words."""
    match len(volumes_ml):
        case 0:
            return "none"
        case 1:
            return f"1, of {format_ml(*volumes_ml)} mL"
        case many:
            return f"{many}, the largest of {format_ml(max(volumes_ml))} mL"


class MidlineJudgement(NamedTuple):
    """What can be said about a mid-line."""

    found: bool
    """Whether there is one."""
    knows_sides: bool
    """Whether it is known which side of it is the patient's left."""
    flags: tuple[str, ...]
    """What deserves a look, a sentence each."""


def judge_midline(
    plane: Plane, fit: MidlineFit, affine: Affine, sides_told: bool = True
) -> MidlineJudgement:
    """Judge a plane of the prepared grid, whose affine leads to world mm (RAS).

    `fit` tells how well the plane of this one head is known, `sides_told` whether the
    scan's header says which side is left: without that the brain's shape cannot.
    """
    unlikeness, elsewhere, rival, skewness = (float(value[0]) for value in fit)
    alone = elsewhere - unlikeness > LEAST_MARGIN
    if not (unlikeness < LARGEST_UNLIKENESS and alone):
        reason = "about as well at another angle"
        if unlikeness >= LARGEST_UNLIKENESS:
            reason = "well about no line"
        flag = (
            f"no mid-line found: the brain mirrors {reason}; look at the brain mask "
            "and the orientation"
        )
        return MidlineJudgement(False, False, (flag,))
    turn = turn_deg(in_world(plane, affine))
    unusual = abs(turn) > USUAL_DEG
    flags = [UNCERTAIN] if rival < LEAST_RIVAL else []
    knows_front = not skewness <= (CLEAR_SKEWNESS if unusual else 0.0)
    if not knows_front:
        flags.append(UNKNOWN_SIDES)
    elif unusual:
        told_by = (
            "; left and right are told by the brain's shape, not by the coordinates"
            if sides_told
            else ""
        )
        mirrored = (
            " (were the scan mirrored from front to back instead, they would be the "
            "other way round)"
            if sides_told and abs(turn) > BACKWARDS_DEG
            else ""
        )
        flags.append(
            f"the head is turned by {turn:.0f} degrees in the scan's coordinates"
            f"{told_by}{mirrored}: look whether the orientation is right"
        )
    return MidlineJudgement(True, knows_front and sides_told, tuple(flags))


@dataclass(frozen=True)
class Thresholds:
    """Probabilities from which a voxel is called infarct."""

    general: float
    small: float
    """For cases in which `general` finds less than `small_ml`."""
    small_ml: float = SMALL_ML

    def of(self, probability: Map, spacing_mm: Spacing) -> float:
        """The threshold of a case, by its probability on the prepared grid."""
        volume = volume_ml(probability >= self.general, spacing_mm)
        return self.small if volume < self.small_ml else self.general


@dataclass(frozen=True)
class LesionUncertainty:
    """A predicted lesion (26-connected component): means over its voxels."""

    volume_ml: float
    probability: float
    entropy: float
    """In bits."""
    mutual_information: float
    """In bits."""
    hit: bool | None = None
    """Whether it shares a voxel with the label; None: no label."""


class Uncertainty(NamedTuple):
    """What several predictions of one scan say together."""

    probability: Map
    """Their mean."""
    entropy: Map
    """Entropy of their mean, in bits."""
    mutual_information: Map
    """Entropy of their mean less the mean of their entropies, in bits."""

    @classmethod
    def of(cls, predictions: Iterable[Map]) -> "Uncertainty":
        """Mean, entropy and mutual information of several predictions of one scan.

        They are taken one by one: no more than one is held at a time.
        """
        count, total, entropies = 0, np.zeros(()), np.zeros(())
        for prediction in predictions:
            wide = prediction.astype(np.float64)
            count, total = count + 1, total + wide
            entropies = entropies + binary_entropy(wide)
        mean = total / count
        entropy = binary_entropy(mean)
        shared = np.maximum(entropy - entropies / count, 0.0)
        return cls(*(volume.astype(np.float32) for volume in (mean, entropy, shared)))

    def lesions(
        self, predicted: Mask, spacing_mm: Spacing, lesion: Mask | None = None
    ) -> tuple[LesionUncertainty, ...]:
        """Every predicted lesion with its means, the largest first."""
        parts = Lesions.of(predicted)
        means = [parts.means(volume) for volume in self]
        hits: list[bool | None] = [None] * len(parts.voxels)
        if lesion is not None:
            hits = parts.hits(lesion).tolist()
        found = [
            LesionUncertainty(*map(float, (volume, *of)), hit)
            for volume, hit, *of in zip(
                parts.volumes_ml(spacing_mm), hits, *means, strict=True
            )
        ]
        return tuple(sorted(found, key=lambda one: one.volume_ml, reverse=True))


def binary_entropy(
    probability: Float[np.ndarray, "*shape"],
) -> Float[np.ndarray, "*shape"]:
    """Entropy in bits of a yes or no that is yes with this probability."""
    return (entr(probability) + entr(1.0 - probability)) / np.log(2.0)
