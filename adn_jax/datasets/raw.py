"""What every layout of a raw data set comes down to: cases that can be loaded."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Num, UInt8

from adn_jax.config import PrepareSettings, ReadSettings
from adn_jax.errors import UserError, counted, few_of
from adn_jax.io.files import files_below, is_dangling, is_there, read_json
from adn_jax.io.image import Image, in_order_of, onto_voxels, read_image
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

LEAST_OF_A_MAP = -0.2
"""Splines leave probabilities below 0 by less."""

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
    placed = onto_scan(infarct, scan)
    return placed.holding((placed.voxels >= 0.5).astype(np.uint8), label.meaning)


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
    """1 where the label counts as infarct, in the image's own axis order.

    Raises `UserError` for values that are neither 0 to 5 nor among `infarct_labels`.
    """
    values = np.rint(label.voxels)
    # NaN is off, too
    off = ~np.isclose(label.voxels, values, rtol=0, atol=LABEL_ROUNDING)
    check_values(np.where(off, label.voxels, values), infarct_labels, "lesion label")
    return np.isin(values, infarct_labels).astype(np.uint8)


def check_values(
    values: Num[np.ndarray, "..."], infarct_labels: Sequence[int], what: str
) -> None:
    """Raise `UserError` for a label value of unknown meaning: neither one of AISD's nor
    one that is said to be infarct, as 255 in masks of 0 and 255."""
    known = np.isin(values, [*range(LARGEST_LABEL + 1), *infarct_labels])
    if wrong := np.unique(values[~known]).tolist():
        rule = ", ".join(map(str, infarct_labels))
        advice = (
            f"if {wrong[0]:g} is infarct, name it in --infarct-labels"
            if wrong[0] > 0 and wrong[0] % 1 == 0
            else "give whole numbers, drawn and not interpolated"
        )
        raise UserError(
            f"the {what} holds the value {wrong[0]:g}; known are 0 to {LARGEST_LABEL} "
            f"and what counts as infarct ({rule}); {advice}."
        )


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
        return CaseInput(
            scan=scan,
            lesion=lesion,
            brain=None if self.brain is None else read_image(self.brain, "brain mask"),
            tissue=_open_tissue(self.name, self.tissue),
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
    if path.name.lower().endswith(SEGMENTATION_ENDING):
        lesion, found = segmented_label(path, scan, infarct_labels)
    else:
        label = read_image(path, "lesion label")
        lesion = native_label(label, scan, infarct_labels)
        rounded = np.rint(label.voxels)
        values, counts = np.unique(rounded[rounded != 0], return_counts=True)
        found = dict(zip(values.astype(int).tolist(), counts.tolist(), strict=True))
    return lesion, _label_flags(found, lesion, infarct_labels)


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


def _open_tissue(name: str, maps: Mapping[str, Path] | None) -> TissueMaps | None:
    """The given tissue maps; `UserError` if only some of the three exist."""
    if not maps:
        return None
    if missing := [tissue for tissue in TISSUES if tissue not in maps]:
        raise UserError(
            f"{name} has tissue maps but none of {missing[0]}; give all of "
            f"{', '.join(TISSUES)}, or none."
        )
    return {
        tissue: _read_map(path, f"map of {tissue}") for tissue, path in maps.items()
    }


def _read_map(path: Path, meaning: str) -> Image:
    """A map of a tissue, 0 where it has no number (SPM's have none beside the head).

    Raises `UserError` for values far below 0, which are no probabilities.
    """
    image = read_image(path, meaning)
    values = np.nan_to_num(image.voxels, nan=0.0, posinf=0.0, neginf=0.0)
    if (least := values.min()) < LEAST_OF_A_MAP:
        raise UserError(
            f"{path.name} has values down to {least:g}; give the {meaning} as a "
            "probability."
        )
    return image.holding(values.clip(min=0.0), meaning)


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
