"""A scan with what was found in it, ready to be shown: axes nearest RAS, slices by the
numbers that a reader finds them under, lesions one by one."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Num, Shaped
from scipy import ndimage

from adn_jax.data.cases import PreparedCase
from adn_jax.data.known_lesions import KnownLesions
from adn_jax.inference.maps import CaseMaps, Uncertainty, number_and_largest
from adn_jax.io.image import (
    Affine,
    Image,
    from_zyx,
    in_order_of,
    spacing_of,
    voxel_steps,
)
from adn_jax.metrics.alignment import Plane, placed
from adn_jax.metrics.calibration import mean_or_nan
from adn_jax.metrics.overlap import TOUCHING, Mask, Spacing, volume_ml
from adn_jax.prepare.case import BRIGHTEST_HU
from adn_jax.scans.dicom.straighten import straightening
from adn_jax.scans.read import RawScan

Side = Literal["left", "right", "both"]

ONE_SIDED = 0.9
"""From this fraction of its volume on one side a lesion is called one-sided."""

OUTSIDE_BRAIN_HU = -1000.0
"""Stands outside the brain in prepared cases; from here down nothing is measured."""
HEAD_HU = -400
HEAD_PIXEL_MM = 2.0
"""Pixels in which the head is looked for."""
HEAD_RIM_MM = 6.0
IN_PLANE = np.ones((1, 3, 3), bool)

IN_FILE = "counted from 1 as the file holds them"
BY_IMAGE = "by the numbers of the series' images"
FROM_THE_FOOT = "of the series, counted from 1 at the foot"
STRAIGHTENED = "the nearest ones that were taken, for the scan was straightened"
PREPARED = "of the prepared grid, counted from 1 at the foot"

FRACTIONS = {"pathological", "anatomical"}
"""Maps that are shown as fractions of the window's width, unless they add up to A."""


@dataclass(frozen=True)
class FoundLesion:
    """A predicted lesion: a 26-connected component of the mask."""

    volume_ml: float
    side: Side | None
    """Of the mid-line found, the patient's; None: not known."""
    slices: tuple[int, int]
    """Numbers of its lowest and its highest slice (`ShownScan.slices`)."""
    centre_mm: tuple[float, float, float]
    """One of its voxels (RAS+), near the middle of its largest slice."""
    means: dict[str, float]
    """Means over its voxels, as far as the maps are there: `mean_hu` (without bone),
    `mean_probability`, `uncertainty_bits`, `mutual_information_bits`."""
    ppv: float | None = None
    """Fraction of such lesions that were infarcts (`KnownLesions`); None: not known."""

    def to_json(self) -> dict[str, Any]:
        """What `scan.json` says of it."""
        found = asdict(self)
        means = found.pop("means")
        if self.ppv is None:
            found.pop("ppv")
        return {**found, **means}


@dataclass(frozen=True)
class ShownScan:
    """A scan and maps on its voxels, whose axes are those nearest RAS."""

    name: str
    hu: Shaped[np.ndarray, "z y x"]
    affine: Affine
    volumes: Mapping[str, Shaped[np.ndarray, "z y x"]]
    """As far as there are: lesion, label (0 or 1); probability; asymmetry (HU);
    pathological, anatomical (HU if they add up to A, else fractions of the window's
    width); uncertainty, mutual_information (bits)."""
    window_hu: tuple[float, float]
    threshold: float
    slices: tuple[int, ...]
    """The number of each slice."""
    counted: str
    """What the slices are numbers of."""
    straightened: bool = False
    """Whether its slices are not those that were taken."""
    midline: Plane | None = None
    """The mid-sagittal plane in mm (RAS+); None: none was sought or found."""
    knows_sides: bool = True
    """Whether the plane's right is the patient's for sure."""
    brain: tuple[int, int] = (0, 0)
    """First and last slice (index) with brain."""
    adds_up: bool = False
    """Whether P and Q are parts of A."""
    known_lesions: KnownLesions | None = None
    """How often lesions are true; None: nobody measured it."""
    ppv: Image | None = None
    """PPV of lesions where they were measured, on the prepared grid (`CaseMaps`)."""
    left_out_ml: tuple[float, ...] = ()
    """Volumes of the predicted lesions that were too small or doubtful to count."""
    flags: tuple[str, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    """What else is said of it, by title."""

    @classmethod
    def of_scan(
        cls,
        scan: RawScan,
        case: PreparedCase,
        maps: CaseMaps,
        images: Mapping[str, Shaped[np.ndarray, "i j k"]],
    ) -> "ShownScan":
        """Results on a scan's own voxels, in the order of its file; P and Q as they are
        stored, times the window's width."""
        width = maps.window_width_hu
        volumes = {
            name: _upright(scan.image.holding(voxels, name)).voxels.transpose(2, 1, 0)
            for name, voxels in images.items()
        }
        if not maps.adds_up:
            found = volumes.keys() & FRACTIONS
            volumes |= {name: volumes[name] / width for name in found}
        upright = _upright(scan.image)
        slices, counted = slice_numbers(scan)
        return cls(
            hu=upright.voxels.transpose(2, 1, 0),
            affine=upright.affine,
            volumes=volumes,
            slices=slices,
            counted=counted,
            straightened=scan.taken is not None,
            **_of_maps(maps, case, upright.affine, upright.shape[2]),
        )

    @classmethod
    def of_case(
        cls,
        case: PreparedCase,
        maps: CaseMaps,
        moved: Mapping[str, Shaped[np.ndarray, "z y x"]],
        uncertainty: Uncertainty | None = None,
    ) -> "ShownScan":
        """A prepared case as the system saw it, with A, P and Q (`moved`) on I's grid,
        all as fractions of the window's width."""
        brain, width = case.brain > 0, maps.window_width_hu
        volumes = {name: volume * brain for name, volume in moved.items()}
        in_hu = volumes if maps.adds_up else volumes.keys() - FRACTIONS
        volumes |= {name: volumes[name] * width for name in in_hu}
        if maps.lesion is not None:
            volumes["label"] = maps.lesion
        if uncertainty is not None:
            volumes["uncertainty"] = uncertainty.entropy
        hu = maps.window_hu[0] + width * case.volume
        return cls(
            hu=np.where(brain, hu, np.float32(OUTSIDE_BRAIN_HU)),
            affine=case.affine,
            volumes={
                "lesion": maps.predicted,
                "probability": maps.prediction,
                **volumes,
            },
            slices=tuple(range(1, len(hu) + 1)),
            counted=PREPARED,
            **_of_maps(maps, case, case.affine, len(hu)),
        )

    def of_masks(self) -> "ShownScan":
        """The same where all that is known is the mask: no probability."""
        known = {k: v for k, v in self.volumes.items() if k != "probability"}
        return replace(self, volumes=known)

    @property
    def has_probability(self) -> bool:
        """Whether the lesions were marked by a probability, and not given as a mask."""
        return "probability" in self.volumes

    @property
    def left_out(self) -> str:
        """How many lesions were left out, and how large the largest was."""
        return number_and_largest(self.left_out_ml)

    @property
    def spacing_mm(self) -> Spacing:
        """Voxel size (z y x)."""
        return spacing_of(self.affine)

    @cached_property
    def head(self) -> Mask:
        """The head and a rim of air around it."""
        return head_mask(self.hu, self.spacing_mm)

    def levels(self, count: int) -> list[int]:
        """Evenly spread slices of the brain, one of them through the slice with most
        lesion."""
        first, last = self.brain
        step = max(1.0, (last - first) / max(count - 1, 1))
        start = float(first)
        if self.volumes["lesion"].any():
            widest = int(self.volumes["lesion"].sum(axis=(1, 2)).argmax())
            start += (widest - first) % step
        places = np.arange(start, max(last, start) + 0.5, step).round().astype(int)
        return places[:count].tolist()

    @cached_property
    def lesions(self) -> tuple[FoundLesion, ...]:
        """Every predicted lesion, the largest first."""
        parts, _ = ndimage.label(self.volumes["lesion"] > 0, TOUCHING)
        found = [
            self._measure(box, parts[box] == number)
            for number, box in enumerate(ndimage.find_objects(parts), start=1)
        ]
        return tuple(sorted(found, key=lambda one: one.volume_ml, reverse=True))

    @property
    def lesion_side(self) -> Side | Literal["none"] | None:
        """The patient's side of all lesions together; None if it is not known."""
        if not self.lesions:
            return "none"
        return self._side_of(self._places_of(np.argwhere(self.volumes["lesion"] > 0)))

    def _places_of(self, index: Num[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
        """Voxels (z y x) in mm (RAS+)."""
        return index[:, ::-1] @ self.affine[:3, :3].T + self.affine[:3, 3]

    def _measure(self, box: tuple[slice, ...], inside: Mask) -> FoundLesion:
        """One lesion, the mask `inside` of a box."""
        maps = {
            "mean_probability": self.volumes.get("probability"),
            "uncertainty_bits": self.volumes.get("uncertainty"),
            "mutual_information_bits": self.volumes.get("mutual_information"),
        }
        index = np.argwhere(inside) + [part.start for part in box]
        hu = self.hu[box][inside]
        places = self._places_of(index)
        means = {
            "mean_hu": mean_or_nan(hu[(hu > OUTSIDE_BRAIN_HU) & (hu <= BRIGHTEST_HU)]),
            **{
                name: mean_or_nan(volume[box][inside])
                for name, volume in maps.items()
                if volume is not None
            },
        }
        return FoundLesion(
            volume_ml=volume_ml(inside, voxel_steps(self.affine)),
            side=self._side_of(places),
            slices=(self.slices[box[0].start], self.slices[box[0].stop - 1]),
            centre_mm=tuple(places[_middle_of(index)].round(2).tolist()),
            means=means,
            ppv=self._ppv_of(places),
        )

    def _ppv_of(self, places_mm: Float[np.ndarray, "n 3"]) -> float | None:
        """PPV of the lesion in which most of these places lie, if it is known."""
        if self.ppv is None:
            return None
        values = _nearest(self.ppv, places_mm)
        found, counts = np.unique(values[values != 0], return_counts=True)
        ppv = float(found[np.argmax(counts)]) if len(found) else np.nan
        return None if np.isnan(ppv) else ppv

    def _side_of(self, places_mm: Float[np.ndarray, "n 3"]) -> Side | None:
        """The patient's side of places, if it is known."""
        if self.midline is None or not self.knows_sides:
            return None
        right = (places_mm - self.midline.point) @ self.midline.normal > 0
        return side_in_words(int((~right).sum()), int(right.sum()))


def _of_maps(
    maps: CaseMaps, case: PreparedCase, affine: Affine, depth: int
) -> dict[str, Any]:
    """What a shown scan of `depth` slices takes over of the case and its maps."""
    plane = maps.plane
    filled = np.flatnonzero(case.brain.any(axis=(1, 2)))[[0, -1]]
    middle = (np.array(case.volume.shape[::-1]) - 1) / 2
    ends = [[*middle[:2], z, 1.0] for z in filled]
    places = np.linalg.solve(affine, case.affine @ np.transpose(ends))[2]
    first, last = np.clip(places.round(), 0, depth - 1).astype(int).tolist()
    return {
        "brain": (first, last),
        "flags": (*case.flags, *maps.flags),
        "name": case.name,
        "window_hu": maps.window_hu,
        "threshold": maps.threshold,
        "known_lesions": maps.known_lesions,
        "ppv": None if maps.ppv is None else from_zyx(maps.ppv, case.affine, "PPV"),
        "left_out_ml": maps.left_out_ml,
        "midline": plane and placed(plane, case.affine, case.volume.shape),
        "knows_sides": maps.knows_sides,
        "adds_up": maps.adds_up,
    }


def _nearest(
    image: Image, places_mm: Float[np.ndarray, "n 3"]
) -> Shaped[np.ndarray, " inside"]:
    """Values of the voxels nearest to those places (RAS+) that lie in an image."""
    away = places_mm - image.affine[:3, 3]
    index = np.rint(np.linalg.solve(image.affine[:3, :3], away.T)).astype(int)
    inside = ((index >= 0) & (index < np.array(image.shape)[:, None])).all(axis=0)
    return image.voxels[tuple(index[:, inside])]


def _upright(image: Image) -> Image:
    """The image with the axes nearest RAS, in their order."""
    return in_order_of(image, np.eye(4))


def slice_numbers(scan: RawScan) -> tuple[tuple[int, ...], str]:
    """The number of each slice of a scan from foot to head, and what it counts.

    It is that of the image in a series of axial images, if each has another, as viewers
    of DICOM have it, or of the slice as the file holds it; of a straightened series
    that of the nearest slice as it was taken. Other series are counted from the foot.
    """
    upright = _upright(scan.image)
    step = np.linalg.solve(scan.image.affine, upright.affine)  # index to index
    axis = int(np.argmax(abs(step[:3, 2])))
    index = step[axis, 3] + step[axis, 2] * np.arange(upright.shape[2])
    index, is_axial = np.rint(index).astype(int), axis == 2
    if scan.frames and not is_axial:  # its images are no slices of these
        return tuple(range(1, 1 + len(index))), FROM_THE_FOOT
    if scan.taken is not None:
        heights = straightening(scan.taken).grid_mm[index]
        index = abs(scan.taken.heights_mm - heights[:, None]).argmin(axis=1)
    numbers, counted = index + 1, IN_FILE
    told = [int(frame.number("InstanceNumber")) for frame in scan.frames]
    if told and len(set(told)) == len(told):
        numbers, counted = np.array(told)[index], BY_IMAGE
    elif told:
        upwards = index[0] <= index[-1]
        numbers = index + 1 if upwards else len(told) - index
        counted = FROM_THE_FOOT
    if scan.taken is not None:
        counted = f"{counted}, {STRAIGHTENED}"
    return tuple(numbers.tolist()), counted


def _middle_of(index: Num[np.ndarray, "n 3"]) -> int:
    """Which of a lesion's voxels (z y x) is nearest to the middle of its largest
    slice."""
    levels, sizes = np.unique(index[:, 0], return_counts=True)
    largest = np.flatnonzero(index[:, 0] == levels[np.argmax(sizes)])
    away = index[largest] - index[largest].mean(axis=0)
    return int(largest[np.argmin((away**2).sum(axis=1))])


def side_in_words(left: int, right: int) -> Side:
    """The side of something by its voxels on either side, not 0 together."""
    if max(left, right) < ONE_SIDED * (left + right):
        return "both"
    return "left" if left > right else "right"


def head_mask(
    hu: Shaped[np.ndarray, "z y x"], spacing_mm: Spacing
) -> Bool[np.ndarray, "z y x"]:
    """The head and a rim of air around it, without table and head rest.

    It is looked for in pixels of about 2 mm. Everything, if nothing is dense.
    """
    step = max(1, round(HEAD_PIXEL_MM / max(spacing_mm[1:])))
    dense = hu[:, ::step, ::step] > HEAD_HU
    parts, count = ndimage.label(ndimage.binary_opening(dense, IN_PLANE), TOUCHING)
    if not count:
        return np.ones(hu.shape, bool)
    largest = parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])
    filled = np.stack([ndimage.binary_fill_holes(one) for one in largest])
    rim = max(1, round(HEAD_RIM_MM / (step * max(spacing_mm[1:]))))
    wide = ndimage.binary_dilation(filled, IN_PLANE, iterations=rim)
    fine = wide.repeat(step, axis=1).repeat(step, axis=2)
    return fine[:, : hu.shape[1], : hu.shape[2]]
