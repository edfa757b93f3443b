"""The project's own layout: `<case>/ct.nii.gz` or `<case>/dicom/`, and labels."""

import re
from collections.abc import Collection, Iterable
from itertools import islice
from pathlib import Path

from adn_jax.datasets.raw import (
    MAP_NAMES,
    SEGMENTATION_ENDING,
    TISSUES,
    FileCase,
    RawDataset,
    RefusedCase,
    first_file,
    given_splits,
    is_lost,
    unread_volumes,
)
from adn_jax.errors import UserError, few_of
from adn_jax.io.archive import ARCHIVE_ENDINGS
from adn_jax.io.files import is_dangling, is_there
from adn_jax.scans.dicom.headers import has_preamble
from adn_jax.scans.dicom.series import FEWEST_SLICES
from adn_jax.scans.read import NIFTI_ENDINGS, find_nifti

BESIDE_MAPS = re.compile(r"c[4-6]")
"""How SPM's maps of bone, soft tissue and air begin, which are of no use here."""


def looks_like_plain(folder: Path) -> bool:
    """Whether a folder in it holds a scan."""
    return any(_find_plain_case(path) is not None for path in folder.glob("[!.]*/"))


def find_plain(folder: Path) -> RawDataset:
    """The cases of a folder by name; `UserError` if there are none.

    A folder with volumes or slices but no scan under its name is a refused case, to be
    named.
    """
    folders = sorted(folder.glob("[!.]*/"))
    cases = [case for path in folders if (case := _find_plain_case(path)) is not None]
    cases += [FileCase(path.name, path) for path in folder.iterdir() if is_lost(path)]
    if not cases:
        what = "is empty" if not any(folder.iterdir()) else "holds no case"
        raise UserError(
            f"{folder} {what}; a raw data set has folders <case>/ with ct.nii.gz or "
            "dicom/ in them."
        )
    found = {case.name for case in cases}
    refused = [
        RefusedCase(path.name, why)
        for path in folders
        if path.name not in found and (why := _why_no_case(path))
    ]
    return RawDataset(
        folder=folder,
        layout="plain",
        cases=tuple(sorted([*cases, *refused], key=lambda case: case.name)),
        splits=given_splits(folder),
        remarks=(
            *_loose_volumes(folder),
            *_deeper_volumes(
                path
                for path in folders
                if path.name not in found | {case.name for case in refused}
            ),
            *_second_scans(cases),
        ),
    )


def _why_no_case(folder: Path) -> str:
    """Why a folder with a scan or volumes in it is no case; empty if it has none."""
    volumes = unread_volumes(folder, ())
    others = [path for path in volumes if path.suffix != SEGMENTATION_ENDING]
    inner = _only_way_down(folder)
    files = [path for path in sorted(inner.glob("[!.]*")) if path.is_file()]
    slices = [] if others else [*islice(filter(has_preamble, files), FEWEST_SLICES)]
    if len(slices) == FEWEST_SLICES:
        inside = slices[0].relative_to(folder).parent.as_posix()
        where = "" if inside == "." else f" in {inside}/"
        return f"it has DICOM files{where}, but no folder dicom/; move them into one."
    packed = [
        path.name
        for path in sorted(folder.glob("[!.]*"))
        if path.is_file() and path.name.lower().endswith(ARCHIVE_ENDINGS)
    ]
    if packed and not volumes:
        return f"it has {packed[0]} but no dicom/; unpack that into dicom/."
    if volumes:
        return (
            f"it has {volumes[0].name} but no ct.nii.gz and no dicom/; rename the scan."
        )
    return ""


def _only_way_down(folder: Path) -> Path:
    """The first folder below that holds a file or several folders."""
    while True:
        inside = sorted(folder.glob("[!.]*"))
        if len(inside) != 1 or not inside[0].is_dir() or inside[0].is_symlink():
            return folder
        folder = inside[0]


def _loose_volumes(folder: Path) -> tuple[str, ...]:
    """A remark on volumes beside the case folders."""
    loose = [path.name for path in unread_volumes(folder, ())]
    if not loose:
        return ()
    return (
        f"{few_of(loose, 3)} beside the folders of cases is not read: a case is a "
        "folder with ct.nii.gz or dicom/ in it",
    )


def _second_scans(cases: Iterable[FileCase]) -> tuple[str, ...]:
    """A remark on cases that have a NIfTI file, which is read, and `dicom/`."""
    both = [
        case.name for case in cases if case.scan.is_file() and _has_dicom(case.scan)
    ]
    if not both:
        return ()
    return (f"dicom/ is not read where there is ct.nii.gz: {few_of(both, 3)}",)


def _has_dicom(scan: Path) -> bool:
    """Whether the folder of a scan has a series, too."""
    return _named_folder(scan.parent, "dicom") is not None


def _deeper_volumes(folders: Iterable[Path]) -> tuple[str, ...]:
    """A remark for each folder that is no case, but has scans deeper down."""
    return tuple(
        f"{folder.name}/ has scans or volumes in folders of its own, which are not "
        "read: a case is a folder with ct.nii.gz or dicom/ in it"
        for folder in folders
        if any(
            unread_volumes(path, ()) or _find_plain_case(path)
            for path in folder.glob("[!.]*/")
        )
    )


def _find_plain_case(folder: Path) -> FileCase | None:
    """The files of a case folder; None if there is no scan in it."""
    scan = find_nifti(folder) or _named_folder(folder, "dicom")
    if scan is None:
        return None
    pose = folder / "truth" / "pose.json"
    tissue = _named_folder(folder, "tissue") or folder / "tissue"
    maps = {name: find_map(tissue, name) for name in TISSUES}
    flags = _map_flags(tissue, maps.values())
    found = {name: path for name, path in maps.items() if path is not None}
    lesion = first_file(folder, "lesion") or _segmentation_file(folder)
    brain = first_file(folder, "brain")
    return FileCase(
        name=folder.name,
        scan=scan,
        lesion=lesion,
        brain=brain,
        tissue=found or None,
        pathological=first_file(folder / "truth", "pathological"),
        pose=pose if is_there(pose) else None,
        flags=flags,
        unread=unread_volumes(folder, (scan, lesion, brain)),
    )


def _named_folder(folder: Path, name: str) -> Path | None:
    """A folder of this name in letters of any case, or the link to nothing that stands
    for it."""
    named = (path for path in sorted(folder.iterdir()) if path.name.lower() == name)
    return next((path for path in named if path.is_dir() or is_dangling(path)), None)


def _segmentation_file(folder: Path) -> Path | None:
    """`lesion.dcm`, a label as DICOM SEG, where there is one."""
    path = folder / f"lesion{SEGMENTATION_ENDING}"
    return path if is_there(path) else None


def find_map(folder: Path, tissue: str) -> Path | None:
    """A tissue map under its own name, or the first that says so (`MAP_NAMES`)."""
    named = first_file(folder, tissue)
    return named or next(
        (
            path
            for path in sorted(folder.glob("[!.]*"))
            if path.name.lower().endswith(NIFTI_ENDINGS)
            and MAP_NAMES[tissue].search(path.name.lower())
        ),
        None,
    )


def _map_flags(folder: Path, used: Collection[Path | None]) -> tuple[str, ...]:
    """A flag that names the volumes beside tissue maps that are not used."""
    left = [
        path.name
        for path in unread_volumes(folder, used)
        if not BESIDE_MAPS.match(path.name.lower())
    ]
    if not left:
        return ()
    return (
        f"not used of {folder.name}/: {few_of(left, 3)}; a tissue has one map, with "
        "grey, white or csf, GM, WM or CSF, or SPM's c1 to c3 in its name",
    )
