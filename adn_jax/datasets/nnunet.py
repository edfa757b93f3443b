"""nnU-Net's raw layout: `imagesTr/<case>_0000.nii.gz`, `labelsTr/<case>.nii.gz`."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adn_jax.datasets.raw import (
    FileCase,
    RawCase,
    RawDataset,
    RefusedCase,
    given_splits,
)
from adn_jax.errors import UserError, few_of
from adn_jax.io.files import check_fetched, is_dangling, is_there, read_json
from adn_jax.scans.dicom.words import has_contrast
from adn_jax.scans.read import NIFTI_ENDINGS

PLAIN_WORDS = {"ncct", "nect"}
"""Words in the name of a channel that say it is a CT without contrast agent."""

ENHANCED_WORDS = {"cta", "ctp", "cbf", "cbv", "mtt", "tmax", "angiography", "perfusion"}
"""Words that say it is a CT with contrast agent, or a map made of one."""

OTHER_IMAGES = {"mr", "mri", "dwi", "adc", "flair", "swi", "pd", "t1", "t2", "pet"}
"""Words that say it is no CT."""

Channels = dict[str, Path]
"""Four-digit number of a channel -> its file."""


@dataclass(frozen=True)
class Description:
    """What `dataset.json` says: the channel that is the CT, endings, label names."""

    channel: str
    ending: str
    labels: Mapping[int, str]
    """Value -> name, without the background."""


@dataclass(frozen=True)
class Subset:
    """The training (`Tr`) or test cases (`Ts`) of a data set, by their names."""

    ending: str
    images: Mapping[str, Channels]
    labels: Mapping[str, Path]

    @property
    def names(self) -> set[str]:
        """Every case that has an image or a label."""
        return {*self.images, *self.labels}


def looks_like_nnunet(folder: Path) -> bool:
    """Whether a folder, or a `Dataset*` folder in it, has `imagesTr`."""
    return bool(_dataset_folders(folder))


def find_nnunet(folder: Path) -> RawDataset:
    """The cases of a `DatasetXXX_Name` folder, or of the only one in a folder.

    Training cases are those of `imagesTr`, test cases those of `imagesTs`; fold 0 of a
    `splits_final.json` beside them says which training cases validate. Raises
    `UserError` if the folders, `dataset.json` or the channels do not fit.
    """
    root = _dataset_folder(folder)
    about = _read_description(root / "dataset.json")
    check_fetched(root / "labelsTr")
    if not (root / "labelsTr").is_dir():
        raise UserError(
            f"{root} has no labelsTr folder; add the labels of its training cases."
        )
    train, test = (_read_part(root, ending, about) for ending in ("Tr", "Ts"))
    names = sorted(train.names | test.names)
    if not names:
        raise UserError(
            f"{root / 'imagesTr'} holds no case; images are named "
            f"<case>_0000{about.ending}."
        )
    return RawDataset(
        folder=root,
        layout="nnunet",
        cases=tuple(_find_nnunet_case(name, train, test, about) for name in names),
        splits=given_splits(root) or _find_nnunet_splits(root, train, test),
        label_names=about.labels,
        remarks=_misnamed_images(root, about),
    )


def _dataset_folders(folder: Path) -> list[Path]:
    """The folder itself, or the data sets in it."""
    images = folder / "imagesTr"
    if images.is_dir() or is_dangling(images):
        return [folder]
    return [path for path in sorted(folder.glob("Dataset*/")) if _dataset_folders(path)]


def _dataset_folder(folder: Path) -> Path:
    """The one data set that a folder is or holds."""
    found = _dataset_folders(folder)
    if not found:
        raise UserError(
            f"{folder} is no raw data set of nnU-Net (it has no imagesTr); give the "
            "folder DatasetXXX_Name."
        )
    if len(found) > 1:
        raise UserError(
            f"{folder} holds {len(found)} data sets ({found[0].name}, "
            f"{found[1].name}); give the folder of one."
        )
    return found[0]


def _read_description(path: Path) -> Description:
    """What `dataset.json` says, also in the words of nnU-Net's first version."""
    content = read_json(path)
    if not isinstance(content, dict) or "dataset" in content:
        raise UserError(
            f"{path} is no table of facts, or lists each case's files itself "
            "(`dataset`); put the files into imagesTr and labelsTr and write "
            "channel_names, labels and file_ending."
        )
    channels = content.get("channel_names", content.get("modality"))
    labels = content.get("labels")
    ending = content.get("file_ending", ".nii.gz")
    if not isinstance(channels, dict) or not channels or not isinstance(labels, dict):
        raise UserError(
            f"{path} lacks or spoils channel_names or labels; write them as "
            '{"0": "CT"} and {"background": 0, "infarct": 1}.'
        )
    if ending not in NIFTI_ENDINGS:
        raise UserError(
            f"{path} says that files end in {ending!r}; convert them to NIfTI "
            f"({', '.join(NIFTI_ENDINGS)})."
        )
    if "ignore" in labels:
        raise UserError(
            f"{path} has a label `ignore` ({labels['ignore']}), but every voxel has to "
            "be infarct or not; complete these labels and remove it."
        )
    try:
        names = _label_names(labels)
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{path} has labels whose values are no whole numbers ({labels}); write "
            'them as {"background": 0, "infarct": 1}.'
        ) from error
    return Description(_ct_channel(channels, path), ending, names)


def _label_names(labels: Mapping[str, Any]) -> dict[int, str]:
    """Value -> name, of names of values, names of regions (lists of values), or, as in
    the first version, values with their names; without the background."""
    if all(str(key).isdigit() for key in labels):
        return {int(value): str(name) for value, name in labels.items() if int(value)}
    names: dict[int, list[str]] = {}
    for name, values in labels.items():
        for value in values if isinstance(values, list) else [values]:
            names.setdefault(int(value), []).append(name)
    return {value: " and ".join(those) for value, those in names.items() if value}


def _ct_channel(channels: Mapping[str, str], path: Path) -> str:
    """Number of the channel that is the CT without contrast agent: the only one so
    named, or the only one if its name is that of no other image."""
    words = {
        number: set(re.findall(r"t[12]|[a-z]+", str(name).lower()))
        for number, name in channels.items()
    }
    enhanced = {
        number
        for number, name in channels.items()
        if ENHANCED_WORDS & words[number] or has_contrast("", str(name))
    }
    found = [
        number
        for number, those in words.items()
        if PLAIN_WORDS & those or ("ct" in those and number not in enhanced)
    ]
    if not found and len(channels) == 1:
        found = [
            number
            for number, those in words.items()
            if not OTHER_IMAGES & those and number not in enhanced
        ]
    if len(found) != 1 or not found[0].isdigit():
        raise UserError(
            f"{path} names the channels {channels}, of which {len(found)} are a plain "
            'CT by name; exactly one is wanted, as in {"0": "CT", "1": "CTA"}.'
        )
    return f"{int(found[0]):04d}"


def _read_part(root: Path, part: str, about: Description) -> Subset:
    """The files of `images<part>` and `labels<part>`; none where there is no folder."""
    ending = re.escape(about.ending)
    for kind in ("images", "labels"):
        check_fetched(root / f"{kind}{part}")
    images: dict[str, Channels] = {}
    for path in sorted((root / f"images{part}").glob("*")):
        if match := re.fullmatch(rf"([^.].*)_(\d{{4}}){ending}", path.name):
            images.setdefault(match[1], {})[match[2]] = path
    labels = {
        match[1]: path
        for path in sorted((root / f"labels{part}").glob("*"))
        if (match := re.fullmatch(rf"([^.].*){ending}", path.name))
    }
    return Subset(part, images, labels)


def _misnamed_images(root: Path, about: Description) -> tuple[str, ...]:
    """A remark for images that have no number of a channel, or another ending."""
    odd = [
        f"{path.parent.name}/{path.name}"
        for path in sorted(root.glob("images[Tt][rs]/[!.]*"))
        if path.name.endswith(NIFTI_ENDINGS)
        and not re.fullmatch(rf".+_\d{{4}}{re.escape(about.ending)}", path.name)
    ]
    if not odd:
        return ()
    return (
        f"not read, for images are called <case>_0000{about.ending}: {few_of(odd, 3)}",
    )


def _find_nnunet_case(
    name: str, train: Subset, test: Subset, about: Description
) -> RawCase:
    """The files of one case; a `RefusedCase` where they contradict each other."""
    if name in train.names & test.names:
        return RefusedCase(
            name,
            f"{name} is among the training and the test cases; keep the files of one.",
        )
    part = train if name in train.names else test
    images, label = part.images.get(name, {}), part.labels.get(name)
    if about.channel not in images:
        file = f"images{part.ending}/{name}_{about.channel}{about.ending}"
        return RefusedCase(
            name, f"{file}, the CT of {name}, is missing; add it or remove the case."
        )
    if label is None and part is train:
        file = f"labelsTr/{name}{about.ending}"
        return RefusedCase(
            name, f"{file}, the label of {name}, is missing; add it or remove the case."
        )
    return FileCase(name, images[about.channel], lesion=label)


def _find_nnunet_splits(
    root: Path, train: Subset, test: Subset
) -> dict[str, Sequence[str]]:
    """Training, validation (fold 0 of `splits_final.json`) and test cases."""
    only_train = sorted(train.names - test.names)
    tested = {"test": sorted(test.names - train.names)}
    path = root / "splits_final.json"
    if not is_there(path):
        return {"train": only_train, **tested}
    try:
        fold = read_json(path)[0]
        chosen = {"train": list(fold["train"]), "validation": list(fold["val"])}
        named = {*chosen["train"], *chosen["validation"]}
    except (IndexError, KeyError, TypeError) as error:
        raise UserError(
            f'{path} is no list of folds {{"train": [...], "val": [...]}}; restore or '
            "remove it."
        ) from error
    if unknown := sorted(map(str, named - set(only_train))):
        raise UserError(
            f"{path} names {unknown[0]!r}, which is no training case; correct it."
        )
    return {**chosen, **tested}
