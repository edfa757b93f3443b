"""BIDS-like folders, above all ISLES'24: `sub-*/[ses-*/]sub-*_ncct.nii.gz`.

BIDS has no suffix for CT yet; `_ct` and `_ncct` are read. ISLES'24 (Zenodo 16813698)
keeps the scans under `raw_data` and the labels, drawn on the follow-up MRI of session 2
and registered to the scan, under `derivatives` with `space-ncct`.
"""

import csv
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import StringIO
from itertools import chain
from pathlib import Path
from typing import Any

from adn_jax.datasets.raw import (
    FileCase,
    RawCase,
    RawDataset,
    RefusedCase,
    given_splits,
    is_lost,
)
from adn_jax.datasets.sessions import order_of_session
from adn_jax.errors import UserError
from adn_jax.io.files import check_fetched, files_below, is_there
from adn_jax.scans.dicom.words import has_contrast, is_sharp
from adn_jax.scans.read import NIFTI_ENDINGS

RAW_FOLDERS = ("rawdata", "raw_data")

SCAN_SUFFIXES = {"ct", "ncct"}

SCAN_SPACES = {"ct", "ncct", "orig", "individual", "native", "scanner"}
"""Values of `space-` that mean the grid of the scan itself."""

LABEL_FOLDER = re.compile(r"lesion|infarct|label|mask|msk|manual|seg|annot|truth")
"""Words of folders of derivatives that may hold labels."""

TEXT_FILES = {"README", "LICENSE", "CHANGES", "CITATION", "AUTHORS"}
"""Files without an ending that BIDS knows."""

MASK_ENDINGS = ("mask", "msk", "dseg", "roi", "lesion")
"""How the suffix of a mask ends."""

LESION_WORDS = re.compile(r"(?<!no)(?<!non)(?<!un)(?:lesion|infarct|stroke)")

LESION_LABEL = "l"
"""What BIDS itself calls a lesion (`label-L`)."""

DATATYPES = {"anat", "ct", "dwi", "fmap", "func", "perf", "pet"}
"""Folders that BIDS sorts images of a session into, by what they are."""

UNNAMED_MASKS = ("dseg", "mask", "msk")
"""Suffixes that are taken for the lesion where no mask says what it is of."""

TISSUE_LABELS = {"grey": "gm", "white": "wm", "csf": "csf"}

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""What the column `split` of participants.tsv may say."""


@dataclass(frozen=True)
class BidsFile:
    """A file by its name: `sub-1_ses-2_space-ncct_lesion-msk.nii.gz`.

    `suffix` and the values of `entities` are in lower case.
    """

    path: Path
    entities: Mapping[str, str]
    suffix: str

    @property
    def space(self) -> str:
        """The grid it lies on; empty for the scan's own."""
        space = self.entities.get("space", "")
        return "" if space in SCAN_SPACES else space

    @property
    def about(self) -> str:
        """All words that say what it shows."""
        return " ".join(
            [self.suffix, *(self.entities.get(key, "") for key in ("label", "desc"))]
        )


Kind = Callable[[BidsFile], int | None]
"""How clearly a file is of a kind (0: it says so); None: it is not."""


def looks_like_bids(folder: Path) -> bool:
    """Whether there are `sub-*` folders with names in them as BIDS gives them."""
    return any(
        any(subject.glob(pattern))
        for root in _roots_of(folder)
        for source in _sources_of(root)
        for subject in source.glob("sub-*/")
        for pattern in ("ses-*", "sub-*", "*/sub-*")
    )


def _roots_of(folder: Path) -> list[Path]:
    """The folder itself where it has subjects, else those folders in it that do."""
    if _sources_of(folder):
        return [folder]
    return [path for path in sorted(folder.glob("[!.]*/")) if _sources_of(path)]


def _sources_of(root: Path) -> list[Path]:
    """The folders that hold subjects: of scans first, then of derivatives."""
    scans = [root / name for name in (*RAW_FOLDERS, ".")]
    made = [root / "derivatives", *sorted(root.glob("derivatives/[!.]*/"))]
    with_scans, with_derivatives = (
        [place for place in places if _subjects_in(place)] for places in (scans, made)
    )
    return with_scans and [*with_scans, *with_derivatives]


def _check_sources(root: Path) -> None:
    """Raise `UserError` for a link to nothing where every subject's scan or label
    should be."""
    for name in (*RAW_FOLDERS, "derivatives"):
        check_fetched(root / name)
    for path in _lost_derivatives(root):
        if LABEL_FOLDER.search(path.name.lower()):
            check_fetched(path)


def _lost_derivatives(root: Path) -> list[Path]:
    """Links to nothing where folders of derivatives should be; a subject's own fails
    its case alone."""
    paths = sorted(root.glob("derivatives/[!.]*"))
    lost = [path for path in paths if is_lost(path) and path.name not in TEXT_FILES]
    return [path for path in lost if not path.name.startswith("sub-")]


def _subjects_in(place: Path) -> list[Path]:
    """Folders of subjects, links whose folder is missing included."""
    return [
        path for path in sorted(place.glob("sub-*")) if path.is_dir() or is_lost(path)
    ]


def find_bids(folder: Path) -> RawDataset:
    """One case a subject; `UserError` if there is none.

    Of several scans of a subject one without contrast agent and not for bone is taken,
    by `ce-` and the words of `acq-`, `rec-` and `desc-`; then that with a lesion label
    in its own session, then the first session and run. `case.json` says which files
    were chosen.
    """
    _check_sources(folder)
    root = _root_of(folder)
    _check_sources(root)
    files: dict[str, list[BidsFile]] = {}
    lost: dict[str, RawCase] = {}
    for source in _sources_of(root):
        for subject in _subjects_in(source):
            found = files_below(subject) if subject.is_dir() else [subject]
            if absent := next(filter(is_lost, found), None):
                lost[subject.name] = FileCase(subject.name, absent)
            files.setdefault(subject.name, []).extend(_nifti_files(found))
    found = {
        name: lost.get(name) or _find_bids_case(name, files[name], root)
        for name in sorted(files)
    }
    cases = tuple(case for case in found.values() if case is not None)
    if not cases:
        raise UserError(
            f"{root} has {len(found)} subjects and no CT; scans are named "
            "sub-*_ct.nii.gz or sub-*_ncct.nii.gz."
        )
    if not any(_is_lesion(file) is not None for file in chain(*files.values())):
        for path in _lost_derivatives(root):
            check_fetched(path)
    return RawDataset(
        folder=root,
        layout="bids",
        cases=cases,
        splits=given_splits(root)
        or _find_bids_splits(root, [case.name for case in cases]),
        left_out={
            name: "it has no scan named *_ct.nii.gz or *_ncct.nii.gz."
            for name, case in found.items()
            if case is None
        },
        remarks=_bids_label_remarks(cases, root),
    )


def _root_of(folder: Path) -> Path:
    """The one data set that a folder is or holds."""
    roots = _roots_of(folder)
    if len(roots) != 1:
        raise UserError(
            f"{folder} holds {len(roots) or 'no'} data sets with folders of subjects; "
            "give one folder with sub-*/ or rawdata/sub-*/ in it."
        )
    return roots[0]


def _nifti_files(paths: Iterable[Path]) -> list[BidsFile]:
    """The NIfTI files of a subject, taken apart by their names."""
    names = (path for path in paths if path.name.startswith("sub-"))
    return [file for file in map(_parse_name, names) if file is not None]


def _parse_name(path: Path) -> BidsFile | None:
    """What a name says; None if it is no NIfTI file's."""
    ending = next((end for end in NIFTI_ENDINGS if path.name.endswith(end)), None)
    if ending is None:
        return None
    *parts, suffix = path.name.removesuffix(ending).lower().split("_")
    entities = dict(part.split("-", 1) for part in parts if "-" in part)
    return BidsFile(path, entities, suffix)


def _find_bids_case(name: str, files: Sequence[BidsFile], root: Path) -> RawCase | None:
    """The files of a subject; None without a scan, refused where two could be meant."""
    scans = [file for file in files if file.suffix in SCAN_SUFFIXES]
    if not scans:
        return None
    times = _session_times(root, name, {_session_of(one) for one in scans})
    fitness = partial(_fitness_of_scan, files=files)
    turn = partial(_turn_of_scan, times=times)
    fittest = min(map(fitness, scans))
    fit = [one for one in scans if fitness(one) == fittest]
    scan = min(fit, key=turn)
    alike = [
        one
        for one in fit
        if one.path.parent == scan.path.parent and turn(one) == turn(scan)
    ]
    try:
        lesion = nearest(scan, files, _is_lesion)
        brain = nearest(scan, files, _is_brain)
        maps = {
            tissue: nearest(scan, files, partial(_is_tissue, label=label))
            for tissue, label in TISSUE_LABELS.items()
        }
    except UserError as error:
        return RefusedCase(name, str(error))
    given = {tissue: path for tissue, path in maps.items() if path is not None}
    chosen = {"scan": scan.path, "lesion": lesion, "brain": brain, **given}
    return FileCase(
        name=name,
        scan=scan.path,
        lesion=lesion,
        brain=brain,
        tissue=given or None,
        flags=_choice_flags(scan, fit, alike, is_dated=bool(times)),
        choice={
            "chosen": {
                what: str(path.relative_to(root))
                for what, path in chosen.items()
                if path is not None
            },
            "other_scans": [
                str(other.path.relative_to(root)) for other in scans if other != scan
            ],
        },
    )


def _choice_flags(
    scan: BidsFile,
    fit: Sequence[BidsFile],
    alike: Sequence[BidsFile],
    is_dated: bool,
) -> tuple[str, ...]:
    """What is doubtful in the choice of a scan among those that are fit, a sentence
    each: between sessions, where no table tells their times, and within one."""
    sessions = {_session_of(one) for one in fit}
    flags = []
    if len(sessions) > 1 and not is_dated:
        named = ", ".join(sorted(session or "none" for session in sessions))
        flags.append(
            f"there are scans of several sessions ({named}); by its name "
            f"{_session_of(scan) or 'none'} is taken for the first"
        )
    if len(alike) > 1:
        flags.append(
            f"{len(alike)} scans could be meant; the first found is read, "
            f"{scan.path.name}"
        )
    return tuple(flags)


def _session_of(file: BidsFile) -> str:
    """The session of a file; empty if its name has none."""
    return file.entities.get("ses", "")


def _session_times(root: Path, name: str, sessions: Collection[str]) -> dict[str, str]:
    """When sessions of a subject were taken, by its `sessions.tsv`; none unless all of
    them are told."""
    tables = [
        table
        for source in _sources_of(root)
        if is_there(table := source / name / f"{name}_sessions.tsv")
    ]
    times = {
        row.get("session_id", "").lower().removeprefix("ses-"): row.get("acq_time", "")
        for table in tables
        for row in _read_table(table)
    }
    told = {one: time for one, time in times.items() if time.lower() not in {"", "n/a"}}
    return told if set(sessions) <= set(told) else {}


def _fitness_of_scan(scan: BidsFile, files: Sequence[BidsFile]) -> tuple[bool, ...]:
    """Sorts first the scans that serve best, of whatever session and run."""
    labelled = any(
        _is_lesion(file) is not None and distance(scan, file) in {(0, 0), (0, 1)}
        for file in files
    )
    said = " ".join(scan.entities.get(key, "") for key in ("acq", "rec", "desc"))
    return (
        "ce" in scan.entities or has_contrast("", said) is True,
        is_sharp(scan.entities.get("rec", ""), said),
        scan.space != "",
        not labelled,
    )


def _turn_of_scan(scan: BidsFile, times: Mapping[str, str]) -> tuple[Any, ...]:
    """Sorts first the scan of the first session and run."""
    session, run = _session_of(scan), scan.entities.get("run", "")
    return times.get(session, ""), order_of_session(session), len(run), run


def distance(scan: BidsFile, file: BidsFile) -> tuple[int, int] | None:
    """How far a file is from a scan by its name; None if it is of another grid.

    First counts the session: the scan's (0), none (1), another (2); then whether
    `space-` says outright that it lies on the scan's grid (0). A mask of ISLES'24 is of
    another session, and one that was left in the space of its MRI has no `space-`.
    Without `space-` it is of another grid, too, in another folder for a kind of image
    (`anat`). Unless it is of another session, so is one that names another run or,
    without `space-`, another acquisition or reconstruction.
    """
    is_said = "space" in file.entities
    folders = {one.path.parent.name.lower() for one in (file, scan)}
    is_elsewhere = len(folders) > 1 and folders <= DATATYPES
    if file.space != scan.space or (is_elsewhere and not is_said):
        return None
    session = file.entities.get("ses")
    sessions = (scan.entities.get("ses"), None)
    away = sessions.index(session) if session in sessions else 2
    same = () if away == 2 else ("run",) if is_said else ("run", "acq", "rec")
    if any(_differs(scan, file, key) for key in same):
        return None
    return away, int(not is_said)


def _differs(one: BidsFile, other: BidsFile, key: str) -> bool:
    """Whether both names have an entity, with different values."""
    values = {file.entities[key] for file in (one, other) if key in file.entities}
    return len(values) > 1


def nearest(scan: BidsFile, files: Sequence[BidsFile], kind: Kind) -> Path | None:
    """The file of a kind that belongs to a scan; None if there is none.

    Raises `UserError` if two files are equally near.
    """
    near = sorted(
        (
            (clearness, apart, file.path)
            for file in files
            if (clearness := kind(file)) is not None
            and (apart := distance(scan, file)) is not None
        ),
    )
    if not near:
        return None
    (*best, path), *others = near
    if others and [*others[0][:2]] == best:
        raise UserError(
            f"{path.name} and {others[0][2].name} could both belong to "
            f"{scan.path.name}; keep one of them."
        )
    return path


def _is_lesion(file: BidsFile) -> int | None:
    """0: a mask that says it shows a lesion; above: one that does not say what."""
    says_so = LESION_WORDS.search(file.about)
    is_named = says_so or file.entities.get("label") == LESION_LABEL
    if file.suffix.endswith(MASK_ENDINGS) and is_named:
        return 0
    if file.about.strip() in UNNAMED_MASKS:
        return 1 + UNNAMED_MASKS.index(file.suffix)
    return None


def _is_brain(file: BidsFile) -> int | None:
    """0: a mask that says it shows the brain."""
    shows_brain = file.suffix.endswith(MASK_ENDINGS) and "brain" in file.about
    return 0 if shows_brain and _is_lesion(file) is None else None


def _is_tissue(file: BidsFile, label: str) -> int | None:
    """0: the probability of a tissue."""
    shows_tissue = file.suffix == "probseg" and file.entities.get("label") == label
    return 0 if shows_tissue else None


def _find_bids_splits(root: Path, names: Sequence[str]) -> dict[str, list[str]] | None:
    """The column `split` of participants.tsv, beside the subjects or above them; None
    if there is none.

    Raises `UserError` for a split of another name, a subject in two, or none that is
    here.
    """
    places = [root / name / "participants.tsv" for name in ("", *RAW_FOLDERS)]
    tables = [(path, _read_table(path)) for path in places if is_there(path)]
    with_splits = [
        (path, rows) for path, rows in tables if any(row.get("split") for row in rows)
    ]
    if not with_splits:
        return None
    path, rows = with_splits[0]
    told: dict[str, str] = {}
    for row in rows:
        split = row.get("split", "").lower()
        if split in {"", "n/a"}:
            continue
        name = f"sub-{row.get('participant_id', '').removeprefix('sub-')}"
        if told.setdefault(name, split) != split:
            raise UserError(
                f"{path} puts {name} into the splits {told[name]} and {split}; leave "
                "one."
            )
    if unknown := sorted(set(told.values()) - set(SPLIT_NAMES)):
        raise UserError(
            f"{path} has a split named {unknown[0]!r}; use train, validation and test."
        )
    splits: dict[str, list[str]] = {split: [] for split in SPLIT_NAMES.values()}
    for name in names:
        if name in told:
            splits[SPLIT_NAMES[told[name]]].append(name)
    if told and not any(splits.values()):
        raise UserError(
            f"{path} has splits, but of none of the cases (it names "
            f"{next(iter(told))}, the first case is {names[0]}); write its "
            "participant_id as the folders are called."
        )
    return splits if told else None


def _read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a table such as participants.tsv, their columns in lower case;
    commas are taken for tabs if there are none."""
    check_fetched(path)
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    delimiter = "\t" if "\t" in text.partition("\n")[0] else ","
    return [
        {
            name.strip().lower(): value.strip()
            for name, value in row.items()
            if isinstance(name, str) and isinstance(value, str)
        }
        for row in csv.DictReader(StringIO(text, newline=""), delimiter=delimiter)
    ]


def _bids_label_remarks(cases: Sequence[RawCase], root: Path) -> tuple[str, ...]:
    """What the report should say of the lesion labels that were found, or not."""
    cases = [case for case in cases if isinstance(case, FileCase)]
    labels = [_parse_name(case.lesion) for case in cases if case.lesion is not None]
    unnamed = [file for file in labels if file is not None and _is_lesion(file) != 0]
    remarks = []
    if len(labels) < len(cases):
        remarks.append(
            f"{len(cases) - len(labels)} of {len(cases)} cases have no lesion label on "
            f"the scan's grid, neither beside the scan nor in {root / 'derivatives'}."
        )
    if unnamed:
        remarks.append(
            f"{len(unnamed)} masks do not say what they show and are taken for the "
            f"lesion, the first one {unnamed[0].path.name}."
        )
    return tuple(remarks)
