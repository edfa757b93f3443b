"""What every layout of a raw data set comes down to: cases that can be loaded."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Num, UInt8

from adn_jax.config import PrepareSettings, ReadSettings
from adn_jax.errors import UserError, counted, few_of
from adn_jax.io.files import files_below, is_dangling, is_there, read_json
from adn_jax.io.image import (
    Image,
    in_order_of,
    number_flags,
    onto_voxels,
    read_image,
)
from adn_jax.scans.dicom.segmentation import read_segmentation
from adn_jax.scans.dicom.straighten import as_stack, straighten_mask
from adn_jax.scans.read import NIFTI_ENDINGS, RawScan, onto_scan, read_scan

TISSUES = ("grey", "white", "csf")
"""In the order of their labels, 1 to 3."""

LARGEST_LABEL = 5
"""AISD's labels: 0 background, 1 remote, 2 clear acute, 3 blurred acute, 4 invisible
acute, 5 general infarct."""

LABEL_ROUNDING = 0.02
"""How far a stored label may be off its integer: half a step of 5 / 255 at most, which
a scan's scale factor or an 8-bit scaling leaves."""

SEGMENTATION_ENDING = ".dcm"
"""Of a label as DICOM SEG."""

VOLUME_ENDINGS = (
    *(*NIFTI_ENDINGS, SEGMENTATION_ENDING, ".hdr", ".img", ".mgz"),
    *(".mha", ".mhd", ".nhdr", ".nrrd"),
)
"""Of files that hold a volume, whether it can be read here or not."""

BEYOND_A_MAP = 0.2
"""Splines leave probabilities below 0, and above 1, by less."""

MAP_TOPS = (1.0, 100.0, 255.0)
"""What stands for a probability of 1 in maps."""

MAP_NAMES = {
    "grey": re.compile(r"gr[ea]y|(?<![a-z])gm(?![a-z])|^c1"),
    "white": re.compile(r"white|(?<![a-z])wm(?![a-z])|^c2"),
    "csf": re.compile(r"csf|^c3"),
}
"""Words in the file names of tissue maps, in lower case; c1 to c3 are SPM's."""

BRAIN_MASK = "brain mask"

TissueMaps = Mapping[str, Image]
"""Probability maps under the names in `TISSUES`."""


@dataclass(frozen=True)
class CaseInput:
    """A scan and what belongs to it; every image was drawn on the scan (`onto_scan`).

    `lesion` is infarct or not (0, 1), `brain` a mask that wins over ours, `tissue` maps
    of grey matter, white matter and CSF, `pathological` the HU that the infarct took
    away (phantoms), `truth` what else a phantom knows.
    """

    scan: RawScan
    lesion: Image | None = None
    brain: Image | None = None
    tissue: TissueMaps | None = None
    pathological: Image | None = None
    truth: Mapping[str, Any] = field(default_factory=dict)


def native_label(label: Image, scan: RawScan, infarct_labels: Sequence[int]) -> Image:
    """Infarct (1) or not (0) on the scan's grid.

    Raises `UserError` for odd values, or if the label was not drawn on the scan.
    """
    infarct = label.holding(infarct_mask(label, infarct_labels), label.meaning)
    return onto_scan(infarct, scan, is_mask=True)


def segmented_label(
    path: Path, scan: RawScan, infarct_labels: Sequence[int]
) -> tuple[Image, dict[int, int]]:
    """Infarct (1) or not (0) on the scan's grid, of a DICOM segmentation of its series,
    and how many pixels each segment marks.

    The numbers of segments are the label's values. Raises `UserError` if it is none,
    or was not drawn on the scan.
    """
    upright = in_order_of(scan.image, np.eye(4))
    stack = as_stack(upright) if scan.taken is None else scan.taken
    marked, pixels = read_segmentation(path, stack, infarct_labels)
    if scan.taken is None:
        lesion = upright.holding(marked, "lesion label")
        return onto_voxels(lesion, scan.image), pixels
    straight = straighten_mask(replace(stack, values=marked))
    return scan.image.holding(straight, "lesion label"), pixels


def infarct_mask(
    label: Image, infarct_labels: Sequence[int]
) -> UInt8[np.ndarray, "x y z"]:
    """1 where the label counts as infarct, in the image's own axis order; not where it
    is no number.

    Raises `UserError` for values that are neither 0 to 5 nor among `infarct_labels`.
    """
    stored = np.where(np.isnan(label.voxels), 0, label.voxels)
    values = np.rint(stored)
    off = ~np.isclose(stored, values, rtol=0, atol=LABEL_ROUNDING)
    check_values(np.where(off, stored, values), infarct_labels, "lesion label")
    return np.isin(values, infarct_labels).astype(np.uint8)


def check_values(
    values: Num[np.ndarray, "..."], infarct_labels: Sequence[int], what: str
) -> None:
    """Raise `UserError` for a label value of unknown meaning: neither one of AISD's nor
    one that is said to be infarct, as 255 in masks of 0 and 255."""
    known = np.isin(values, [*range(LARGEST_LABEL + 1), *infarct_labels])
    if wrong := np.unique(values[~known]).tolist():
        rule = ", ".join(map(str, infarct_labels))
        wanted = " ".join(f"{one:g}" for one in (*infarct_labels, wrong[0]))
        advice = (
            f"if {wrong[0]:g} is infarct, too, set --infarct-labels {wanted}"
            if wrong[0] > 0 and wrong[0] % 1 == 0
            else "give whole numbers, drawn and not interpolated"
        )
        raise UserError(
            f"the {what} holds the value {wrong[0]:g}; known are 0 to {LARGEST_LABEL} "
            f"and what counts as infarct ({rule}); {advice}."
        )


def unlabelled_input(scan: RawScan, path: Path) -> CaseInput:
    """What prediction takes of the path from which a scan was read: the scan, and the
    brain mask of its case folder, if there is one, as preparation does.

    Raises `UserError` if the mask cannot be read.
    """
    file = first_file(path, "brain") if path.is_dir() else None
    if file is None:
        return CaseInput(scan)
    _check_alone(file)
    brain = read_image(file, BRAIN_MASK)
    source = {**scan.source, "brain_mask": file.name}
    flags = (*scan.flags, *number_flags([brain], scan.image))
    return CaseInput(replace(scan, source=source, flags=flags), brain=brain)


@runtime_checkable
class RawCase(Protocol):
    """One case of a raw data set: small enough to send to a worker process."""

    @property
    def name(self) -> str:
        """Name of the case, and of its prepared folder."""

    def files(self) -> Sequence[Path]:
        """Every input file, in a fixed order: a change of one prepares it again."""

    def load(self, settings: PrepareSettings, reading: ReadSettings) -> CaseInput:
        """Read the case; `UserError` if it cannot be used, and why."""


@dataclass(frozen=True)
class RawDataset:
    """The cases of a raw data set.

    `splits` names them by split where the data set tells (None: drawn). `left_out` says
    why a case is not used, on purpose; `remarks` is what should be known of the whole
    data set, a sentence each; `label_names` what the values of its labels are called.
    """

    folder: Path
    layout: str
    cases: tuple[RawCase, ...]
    splits: Mapping[str, Sequence[str]] | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    label_names: Mapping[int, str] = field(default_factory=dict)

    def label_rule(self, infarct_labels: Sequence[int]) -> str:
        """Which of several named label values count as infarct, in a sentence; empty
        for one."""
        if len(self.label_names) < 2:
            return ""
        named = ", ".join(f"{value} {name}" for value, name in self.label_names.items())
        values = ", ".join(
            str(one) for one in self.label_names if one in infarct_labels
        )
        return (
            f"the label values are {named}; as infarct count {values or 'none'} "
            "(--infarct-labels)"
        )


@dataclass(frozen=True)
class FileCase:
    """A case of separate files; None if there is none.

    `choice` is what `case.json` should say of how the files were chosen, `flags` what
    is doubtful about it, `unread` the volumes beside the scan that are not read.
    """

    name: str
    scan: Path
    lesion: Path | None = None
    brain: Path | None = None
    tissue: Mapping[str, Path] | None = None
    pathological: Path | None = None
    pose: Path | None = None
    choice: Mapping[str, Any] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    unread: tuple[Path, ...] = ()

    def files(self) -> list[Path]:
        """Every input file, in a fixed order."""
        scan = files_below(self.scan) if self.scan.is_dir() else [self.scan]
        maps = [(self.tissue or {}).get(name) for name in TISSUES]
        others = [self.lesion, self.brain, *maps, self.pathological, self.pose]
        return [
            path for path in (*scan, *others) if path is not None and is_there(path)
        ]

    def load(self, settings: PrepareSettings, reading: ReadSettings) -> CaseInput:
        """Read the scan and what belongs to it."""
        for path in (self.scan, self.lesion, self.brain, *(self.tissue or {}).values()):
            _check_alone(path)
        scan = read_scan(self.scan, reading.series, reading.hu_range)
        flags = (*scan.flags, *self.flags, *unread_flags(self.unread))
        scan = replace(scan, source={**scan.source, **self.choice}, flags=flags)
        lesion = None
        if self.lesion is not None:
            lesion, flags = read_label(self.lesion, scan, settings.infarct_labels)
            scan = replace(scan, flags=(*scan.flags, *flags))
        brain = None if self.brain is None else read_image(self.brain, BRAIN_MASK)
        tissue, flags = _open_tissue(self.name, self.tissue)
        others = [brain] * (brain is not None) + [*(tissue or {}).values()]
        flags += number_flags(others, scan.image)
        return CaseInput(
            scan=replace(scan, flags=(*scan.flags, *flags)),
            lesion=lesion,
            brain=brain,
            tissue=tissue,
            pathological=(
                None
                if self.pathological is None
                else read_image(self.pathological, "map of the infarct's darkening")
            ),
            truth={} if self.pose is None else read_json(self.pose),
        )


@dataclass(frozen=True)
class RefusedCase:
    """A case whose files contradict each other: it fails alone, the others go on."""

    name: str
    reason: str

    def files(self) -> list[Path]:
        """None: nothing of it is read."""
        return []

    def load(self, settings: PrepareSettings, reading: ReadSettings) -> NoReturn:  # noqa: ARG002
        """Raise `UserError` with the reason."""
        raise UserError(self.reason)


def _check_alone(path: Path | None) -> None:
    """Raise `UserError` if a file has a twin of another ending: which counts?"""
    if path is None:
        return
    endings, name = (*NIFTI_ENDINGS, SEGMENTATION_ENDING), path.name
    ending = next((each for each in endings if name.lower().endswith(each)), None)
    if ending is None:
        return
    stem = name[: -len(ending)]
    twins = (path.with_name(stem + each) for each in endings if each != ending)
    if twin := next(filter(is_there, twins), None):
        raise UserError(
            f"it has both {name} and {twin.name}; keep the one that is meant."
        )


def unread_volumes(folder: Path, read: Collection[Path | None]) -> tuple[Path, ...]:
    """The volumes in a folder, in any format, that are not among those read.

    Hidden files do not count: macOS leaves a `._lesion.nii.gz` beside what it copies.
    """
    files = (path for path in sorted(folder.glob("[!.]*")) if path not in read)
    return tuple(path for path in files if path.name.lower().endswith(VOLUME_ENDINGS))


def unread_flags(unread: Sequence[Path]) -> tuple[str, ...]:
    """A flag that names volumes that are not read.

    Raises `UserError` for one whose name says that it should be.
    """
    for path in unread:
        stem = path.name.split(".")[0].lower()
        if stem in {"ct", "lesion", "brain"}:
            raise UserError(f"{path.name} is not read; save it as {stem}.nii.gz.")
    names = few_of([path.name for path in unread], 3)
    return (
        (f"not read, for a label is called lesion.nii.gz: {names}",) if unread else ()
    )


def read_label(
    path: Path, scan: RawScan, infarct_labels: Sequence[int]
) -> tuple[Image, tuple[str, ...]]:
    """The infarct that a NIfTI or DICOM SEG file marks on a scan, and flags."""
    flags: tuple[str, ...] = ()
    if path.name.lower().endswith(SEGMENTATION_ENDING):
        lesion, found = segmented_label(path, scan, infarct_labels)
    else:
        label = read_image(path, "lesion label")
        lesion = native_label(label, scan, infarct_labels)
        flags = number_flags([label], scan.image) + _nan_flags(label)
        rounded = np.rint(label.voxels[~np.isnan(label.voxels)])
        values, counts = np.unique(rounded[rounded != 0], return_counts=True)
        found = dict(zip(values.astype(int).tolist(), counts.tolist(), strict=True))
    return lesion, flags + _label_flags(found, lesion, infarct_labels)


def _nan_flags(label: Image) -> tuple[str, ...]:
    """A flag that counts the voxels of a label that are no number."""
    count = int(np.isnan(label.voxels).sum())
    return (f"voxels of the label that are NaN, taken for 0: {count}",) if count else ()


def _label_flags(
    found: Mapping[int, int], lesion: Image, infarct_labels: Sequence[int]
) -> tuple[str, ...]:
    """A flag where a label is empty, or where not all of it counts as infarct; `found`
    has the number of voxels of each value."""
    marked = {value: count for value, count in found.items() if value and count}
    if not marked:
        return ("the label is empty: it marks no infarct",)
    rule = ", ".join(map(str, infarct_labels))
    if not lesion.voxels.any():
        return (f"no voxel of the label counts as infarct ({rule})",)
    return tuple(
        f"the value {value} of the label ({counted(count, 'voxel')}) does not count as "
        f"infarct ({rule})"
        for value, count in marked.items()
        if value not in infarct_labels
    )


def _open_tissue(
    name: str, paths: Mapping[str, Path] | None
) -> tuple[TissueMaps | None, tuple[str, ...]]:
    """The given tissue maps from 0 to 1, and a flag if they were not stored so.

    They are 0 where they have no number (SPM's have none beside the head). Raises
    `UserError` if only some of the three exist, or one cannot be a probability.
    """
    if not paths:
        return None, ()
    if missing := [tissue for tissue in TISSUES if tissue not in paths]:
        raise UserError(
            f"{name} has tissue maps but none of {missing[0]}; give all of "
            f"{', '.join(TISSUES)}, or none."
        )
    maps = {}
    for tissue, path in paths.items():
        image = read_image(path, f"map of {tissue}")
        values = np.nan_to_num(image.voxels, nan=0.0, posinf=0.0, neginf=0.0)
        maps[tissue] = image.holding(values, image.meaning)
    whole = _top_of_maps(maps, paths)
    for tissue, image in maps.items():
        if (least := image.voxels.min()) < -BEYOND_A_MAP * whole:
            raise UserError(
                f"{paths[tissue].name} has values down to {least:g}; give the "
                f"{image.meaning} as a probability."
            )
    scaled = {
        tissue: image.holding((image.voxels / whole).clip(min=0.0), image.meaning)
        for tissue, image in maps.items()
    }
    flag = f"the tissue maps go up to {whole:g}; they were divided by it"
    return scaled, (flag,) if whole != 1 else ()


def _top_of_maps(maps: TissueMaps, paths: Mapping[str, Path]) -> float:
    """What stands for 1 in all maps; `UserError` if that is not one of `MAP_TOPS`."""
    tops = {tissue: float(image.voxels.max()) for tissue, image in maps.items()}
    most = max(tops.values())
    fitting = (one for one in MAP_TOPS if most <= one * (1 + BEYOND_A_MAP))
    whole = next(fitting, None)
    least = min(filter(None, tops.values()), default=0.0)
    if whole is None or (whole > 1 and least < whole / 2):
        said = [f"{paths[tissue].name} to {top:g}" for tissue, top in tops.items()]
        raise UserError(
            f"the tissue maps go up to different or odd values ({', '.join(said)}); "
            "give all three as probabilities from 0 to 1, 100 or 255."
        )
    return whole


def given_splits(folder: Path) -> Mapping[str, Sequence[str]] | None:
    """The splits that a user wrote beside the cases, whatever the layout."""
    path = folder / "splits.json"
    return read_json(path) if is_there(path) else None


def first_file(folder: Path, stem: str) -> Path | None:
    """`stem` with the first NIfTI ending that exists in a folder.

    A folder that is a link to nothing stands for what it should hold, to be named.
    """
    if is_dangling(folder):
        return folder
    paths = (folder / f"{stem}{ending}" for ending in NIFTI_ENDINGS)
    return next((path for path in paths if is_there(path)), None)


def is_lost(path: Path) -> bool:
    """Whether it may be a folder that is a link to nothing: files have an ending, and
    git-annex, whose links name its store, links to files alone."""
    return (
        is_dangling(path)
        and not path.name.startswith(".")
        and not path.suffix
        and "annex" not in path.readlink().parts
    )
