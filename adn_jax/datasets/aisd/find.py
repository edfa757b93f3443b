"""The AISD download as users have it: which cases it holds, and which are used."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adn_jax.config import ReadSettings
from adn_jax.datasets.aisd import facts
from adn_jax.datasets.aisd.case import AisdCase
from adn_jax.datasets.aisd.files import Inventory, choose_copy, take_inventory
from adn_jax.datasets.aisd.png import slice_files
from adn_jax.datasets.aisd.unpack import packed_parts, unpack_command, unpack_part
from adn_jax.datasets.raw import RawCase, RawDataset, RefusedCase, given_splits
from adn_jax.errors import UserError
from adn_jax.io.files import check_fetched, is_there


def find_aisd(folder: Path, reading: ReadSettings) -> RawDataset:
    """The cases of a download; `UserError` if parts are packed or missing.

    A case whose files are incomplete is kept as a refused one, so that it is named.
    """
    inventory = take_inventory(_unpacked_places(folder, reading))
    if not inventory.masks:
        raise UserError(
            f"{folder} holds no masks (mask/<id>/000.png and so on); put AISD's "
            "mask.zip, unpacked, beside image.zip."
        )
    use_dicom = reading.aisd_images == "dicom" or (
        reading.aisd_images == "auto" and bool(inventory.copies)
    )
    reasons = {
        name: reason
        for name in inventory.names
        if (reason := facts.left_out(name, reading.aisd_leave_out)) is not None
    }
    cases = tuple(
        _find_aisd_case(name, inventory, use_dicom)
        for name in inventory.names
        if name not in reasons
    )
    if not cases:
        raise UserError(
            f"all cases of {folder} are left out on purpose ({', '.join(reasons)}); "
            "use them with --aisd-leave-out none."
        )
    return RawDataset(
        folder=folder,
        layout="aisd",
        cases=cases,
        splits=_find_aisd_splits(folder, [case.name for case in cases], reasons),
        left_out=reasons,
        remarks=(
            "HU are read from DICOM" if use_dicom else "HU are guessed from 8-bit PNG",
            *check_aisd(inventory),
        ),
    )


def _unpacked_places(folder: Path, reading: ReadSettings) -> list[Path]:
    """Where to look for cases: the folder, and where its archives are unpacked.

    Raises `UserError` with the commands to run if archives may not be unpacked.
    """
    packed = packed_parts(folder, with_dicom=reading.aisd_images != "png")
    if packed and not reading.aisd_unpack:
        commands = " && ".join(unpack_command(path) for path in packed)
        raise UserError(
            f"{folder} holds {packed[0].name}, which is packed; run `{commands}` "
            "there, or add --aisd-unpack DIR, where pictures and CT are unpacked once "
            "(an option of `adn prepare`)."
        )
    if not reading.aisd_unpack:
        return [folder]
    target = Path(reading.aisd_unpack).absolute()
    for path in packed:
        unpack_part(path, target)
    return [folder, target] if target.is_dir() else [folder]


def _find_aisd_case(name: str, inventory: Inventory, use_dicom: bool) -> RawCase:
    """One case, or why its files do not suffice."""
    masks, pictures = inventory.masks.get(name), inventory.pictures.get(name)
    copies = inventory.copies.get(name, ())
    copy, fixed = choose_copy(copies)
    if masks is None:
        return RefusedCase(name, "it has no masks; unpack mask.zip again.")
    if not use_dicom and pictures is None:
        return RefusedCase(name, "it has no pictures; unpack image.zip again.")
    if not use_dicom:
        return AisdCase(name, masks, pictures)
    if copy is None:
        places = ", ".join(one.archive for one in copies)
        what = f"its CT folder in {places} is empty" if copies else "it has no CT"
        return RefusedCase(
            name, f"{what}; download all of dicom-0 to dicom-3, or --aisd-images png."
        )
    return AisdCase(name, masks, pictures, copy, fixed)


def _find_aisd_splits(
    folder: Path, names: Sequence[str], reasons: Mapping[str, str]
) -> Any:
    """The split that lies beside the download, else the official one.

    `splits.json`, or a test case a line in `test.txt`; cases left out on purpose may be
    named there. It is checked where cases are chosen by it.
    """
    given = given_splits(folder)
    if given is not None:
        return without(reasons, given)
    listed = folder / "test.txt"
    if is_there(listed):
        check_fetched(listed)
        lines = listed.read_text(encoding="utf-8", errors="replace").split()
        test = [name for name in lines if name not in reasons]
    else:
        test = [name for name in names if name in facts.TEST_IDS]
    return {"train": [name for name in names if name not in test], "test": test}


def without(reasons: Mapping[str, str], splits: Any) -> Any:
    """A table of splits without some cases; what is no such table stays as it is."""
    if not isinstance(splits, dict):
        return splits
    return {
        split: [name for name in chosen if name not in reasons]
        if isinstance(chosen, list)
        else chosen
        for split, chosen in splits.items()
    }


def check_aisd(inventory: Inventory) -> tuple[str, ...]:
    """What the names and numbers of files tell of a download, a sentence each.

    Nothing is read; compares with what others counted in the whole download.
    """
    names = set(inventory.names)
    test = names & facts.TEST_IDS
    counts = [
        (facts.CASES, len(names)),
        (facts.TRAIN, len(names - test)),
        (facts.TEST, len(test)),
    ]
    slices = [
        chosen.slices
        for copies in inventory.copies.values()
        if (chosen := choose_copy(copies)[0]) is not None
    ]
    known = [number for number in slices if number is not None]
    if known and len(known) == len(slices):
        counts += [
            (facts.SLICES, sum(known)),
            (facts.SHORTEST_CT, min(known)),
            (facts.LONGEST_CT, max(known)),
        ]
    return (
        *(said(count, found) for count, found in counts),
        *_missing_parts(inventory),
        *_differing_slices(inventory),
    )


def said(count: facts.Count, found: int) -> str:
    """A figure beside the known one."""
    if found == count.known:
        return f"{count.what}: {found}, as known"
    return f"{count.what}: {found}, but {count.known} are known ({count.source})"


def _missing_parts(inventory: Inventory) -> list[str]:
    """A sentence on each part of the download that lacks cases others have."""
    parts = {
        "pictures": inventory.pictures,
        "masks": inventory.masks,
        "CT": inventory.copies,
    }
    return [
        f"cases without {part}: {len(missing)} ({', '.join(missing[:10])}"
        + (" and so on)" if len(missing) > 10 else ")")
        for part, found in parts.items()
        if found and (missing := sorted(set(inventory.names) - set(found)))
    ]


def _differing_slices(inventory: Inventory) -> list[str]:
    """A sentence on each case with other numbers of PNG and DICOM files."""
    remarks = []
    for name, masks in inventory.masks.items():
        copy = choose_copy(inventory.copies.get(name, ()))[0]
        png = len(slice_files(masks))
        if copy is not None and copy.slices not in (None, png):
            remarks.append(
                f"{name} has {png} PNG slices, but {copy.slices} files of CT in "
                f"{copy.archive}"
            )
    return remarks
