"""Predictions that another tool wrote: found, checked, and brought onto both grids.

A prediction lies on the scan's own grid, in any order of its axes, or on the prepared
one; the other of the two is computed as it is for our own runs. Any third grid is
refused: how to interpolate it fairly is known to who made it.
"""

import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from rich.progress import track

from adn_jax.data.cases import PreparedCase, read_native_lesion, sha256
from adn_jax.data.manifest import Manifest
from adn_jax.errors import UserError, counted, few_of
from adn_jax.evaluation.case import NativeLesion
from adn_jax.evaluation.source import labelled_cases
from adn_jax.inference.maps import CaseMaps, Map
from adn_jax.io.files import fingerprint, is_there, read_json
from adn_jax.io.image import Image, by, nearest_ras, onto_voxels, read_image
from adn_jax.io.paths import Source, unread_named
from adn_jax.prepare.case import to_native
from adn_jax.prepare.resample import Grid, resample

ENDINGS = (".nii.gz", ".nii")

PREFERRED = ("probability", "lesion")
"""Of the files that `adn predict` writes for a scan; the first says more."""

THRESHOLD = 0.5
"""From this value a voxel is infarct: in a mask, and of a probability."""

BEYOND = 1e-4
"""By how much a probability may lie beyond 0 and 1: rounding."""

NAMED = 5
"""At most so many cases are named in a message."""


@dataclass(frozen=True)
class Peer:
    """Another tool's predictions of the labelled cases of a split."""

    name: str
    folder: Path
    files: Mapping[str, Path]
    """Case -> file."""
    sha256: Mapping[str, str]
    """Case -> checksum of its file."""
    soft_cases: frozenset[str]
    """Cases with values between 0 and 1."""
    mask_cases: frozenset[str]
    """Cases with 1 and 0 alone; where nothing was found a case is in neither."""
    window_hu: tuple[float, float]
    """Of the data set."""

    @property
    def calibrated(self) -> bool:
        """Whether they are probabilities; masks have no calibration."""
        return bool(self.soft_cases) and not self.mask_cases

    def is_mask(self, case: str) -> bool:
        """Whether a case has a mask, as far as its values tell."""
        return case in self.mask_cases or not self.soft_cases

    def predict(
        self, case: PreparedCase, files: Source
    ) -> tuple[Map, NativeLesion | None]:
        """The prediction on the prepared grid, and beside the label on the scan's own;
        None: no label is there."""
        lesion = read_native_lesion(files)
        values = read_values(self.files[case.name])
        prepared, native = onto_both(values, case.geometry, lesion)
        if lesion is None:
            return prepared, None
        return prepared, NativeLesion.of(native, lesion)

    def maps(self, case: PreparedCase, files: Source) -> CaseMaps:
        """What a figure shows: the scan as it lies, its label, the prediction."""
        prediction, _ = self.predict(case, files)
        volume = np.asarray(case.volume)
        lesion = None if case.lesion is None else np.asarray(case.lesion) >= 0.5
        return CaseMaps(
            name=case.name,
            spacing_mm=case.spacing_mm,
            window_hu=self.window_hu,
            threshold=THRESHOLD,
            volume=volume,
            prediction=prediction,
            aligned=volume,
            asymmetry=np.zeros_like(volume),
            aligned_prediction=prediction,
            lesion=lesion,
            aligned_lesion=lesion,
        )


def find_peer(folder: Path, manifest: Manifest, split: str, name: str = "") -> Peer:
    """Find and check a prediction of each labelled case of a split.

    Args:
        folder: where they are (`find_files`).
        manifest: the prepared data set.
        split: which of its splits.
        name: what to call the tool; empty: as the folder.

    Raises:
        UserError: no such folder, a case without prediction or with several, values
            that are no probabilities, another grid.
    """
    with unread_named(folder):
        if not folder.is_dir():
            raise UserError(
                f"{folder} is no folder; give the one that holds the predictions, a "
                "NIfTI file for each case."
            )
        files = find_files(folder, labelled_cases(manifest, split), manifest.cases)
    soft, masks = set(), set()
    for case, path in track(files.items(), "check predictions"):
        source = manifest.case_folder(case)
        values = read_values(path)
        geometry = read_json(source / "case.json")["geometry"]
        place(values, geometry, read_native_lesion(source))
        if ((values.voxels > 0) & (values.voxels < 1)).any():
            soft.add(case)
        elif values.voxels.any():
            masks.add(case)
    _tell_mixed(folder, files, soft, masks)
    name = name or folder.absolute().name
    return Peer(
        name=name,
        folder=folder,
        files=files,
        sha256={case: sha256(path) for case, path in files.items()},
        soft_cases=frozenset(soft),
        mask_cases=frozenset(masks),
        window_hu=manifest.settings.window_hu,
    )


def _tell_mixed(
    folder: Path, files: Mapping[str, Path], soft: Collection[str], masks: Iterable[str]
) -> None:
    """Say on stderr where the predictions of cases were not made alike."""
    if soft and (hard := sorted(masks)):
        print(
            f"adn: {folder} has masks of {few_of(hard, NAMED)} and probabilities of "
            "others, so that calibration is left out.",
            file=sys.stderr,
        )
    told = {case: _told_of(path.parent).get("model") for case, path in files.items()}
    models: dict[str, str] = {}
    for case, model in comparable(told).items():
        models.setdefault(fingerprint(model), case)
    if len(models) > 1:
        print(
            f"adn: {folder} has predictions of {len(models)} models or options (those "
            f"of {few_of(list(models.values()), NAMED)} differ), which are scored as "
            "one tool.",
            file=sys.stderr,
        )


def comparable(told: Mapping[str, Any]) -> dict[str, Any]:
    """What cases tell of their model, as far as it tells models apart: without the
    folder, which a run that was moved has changed, and without what an older version
    did not write for one of them."""
    ours = {case: model for case, model in told.items() if isinstance(model, dict)}
    shared = set.intersection(*map(set, ours.values())) if ours else set()
    kept = sorted(shared - {"run_folder"})
    return {
        **told,
        **{case: {key: model[key] for key in kept} for case, model in ours.items()},
    }


def _told_of(folder: Path) -> Mapping[str, Any]:
    """What `scan.json` tells of a prediction of ours; of another tool's nothing."""
    facts = folder / "scan.json"
    told = read_json(facts) if is_there(facts) else None
    return told if isinstance(told, dict) else {}


def find_files(
    folder: Path, cases: Sequence[str], known: Sequence[str]
) -> dict[str, Path]:
    """The file of each of the `cases`.

    It is `<case>.nii.gz` (nnU-Net), one named `<case>_ANY.nii.gz`, or lies in a folder
    called so, alone (MONAI) or as `probability.nii.gz` or `lesion.nii.gz` (ours;
    the latter if `scan.json` tells a threshold that is not 0.5).
    `known` are all names of cases: what belongs to a longer one is not the shorter's.

    Raises `UserError` if a case has no file or several.
    """
    entries: dict[str, list[Path]] = {case: [] for case in known}
    for path in sorted(folder.iterdir()):
        if path.is_dir() or path.name.endswith(ENDINGS):
            stem = path.name if path.is_dir() else path.name.partition(".nii")[0]
            owners = [
                case for case in known if stem == case or stem.startswith(f"{case}_")
            ]
            if owners:
                entries[max(owners, key=len)].append(path)
    files = {case: _files_of(entries[case]) for case in cases}
    missing = [case for case in cases if not files[case]]
    if missing:
        raise UserError(
            f"{folder} has no prediction of {len(missing)} of "
            f"{counted(len(cases), 'case')} ({few_of(missing, NAMED)}); give one for "
            "each, called <case>.nii.gz: an empty mask where nothing was found."
        )
    several = {case: found for case, found in files.items() if len(found) > 1}
    for case, found in several.items():
        raise UserError(
            f"{folder} has {len(found)} predictions of {case} "
            f"({', '.join(str(path.relative_to(folder)) for path in found)}); leave "
            "one."
        )
    return {case: found[0] for case, found in files.items()}


def _files_of(entries: Sequence[Path]) -> list[Path]:
    """The files that a case's entries are or hold; of ours the one that says most."""
    found = []
    for entry in entries:
        inside = [entry]
        if entry.is_dir():
            inside = sorted(p for p in entry.iterdir() if p.name.endswith(ENDINGS))
            preferred = _preferred_of(entry)
            ours = [entry / f"{name}{end}" for name in preferred for end in ENDINGS]
            inside = [path for path in ours if path in inside][:1] or inside
        found += inside
    return found


def _preferred_of(folder: Path) -> Sequence[str]:
    """`PREFERRED`; of a prediction by another threshold than ours the mask first, which
    the probability would not give back."""
    threshold = _told_of(folder).get("threshold")
    is_other = isinstance(threshold, float) and threshold != THRESHOLD
    return PREFERRED[::-1] if is_other else PREFERRED


def read_values(path: Path) -> Image:
    """Read a mask of 0 and 1, or probabilities, which means in float32 may leave by a
    little.

    Raises `UserError` for anything else.
    """
    image = read_image(path, f"prediction {path}")
    low, high = float(image.voxels.min()), float(image.voxels.max())
    if low >= -BEYOND and high <= 1 + BEYOND:
        return image.holding(image.voxels.clip(0, 1), image.meaning)
    what = "values that are no numbers"
    if np.isfinite(low) and np.isfinite(high):
        what = f"values from {low:g} to {high:g} (labels, logits, per cent?)"
    raise UserError(
        f"{path} holds {what}; give a mask of 0 and 1, or the probability of infarct "
        "from 0 to 1."
    )


def place(
    values: Image, geometry: Mapping[str, Any], lesion: Image | None
) -> tuple[Image, bool]:
    """A prediction in the order of its grid, and whether that is the scan's own.

    Args:
        values: the prediction.
        geometry: `PreparedCase.geometry`.
        lesion: the label on the scan's own grid, whose header may name two places.

    Raises:
        UserError: it lies on neither grid.
    """
    own, prepared = (
        Image(
            np.broadcast_to(np.float32(0), geometry[f"{of}shape"]),
            np.array(geometry[f"{of}affine"], float),
            "grid",
        )
        for of in ("native_", "")
    )
    try:
        return onto_voxels(values, own if lesion is None else lesion), True
    except UserError as error:
        try:
            return onto_voxels(values, prepared), False
        except UserError:
            raise UserError(
                f"{str(error).rstrip('.')}, or on its prepared grid of "
                f"{by(prepared.shape)} voxels of {by(prepared.spacing_mm)} mm."
            ) from None


def onto_both(
    values: Image, geometry: Mapping[str, Any], lesion: Image | None
) -> tuple[Map, Float[np.ndarray, "i j k"]]:
    """A prediction on the prepared grid (z y x), and on the scan's own in the order of
    its file; arguments and errors as of `place`.

    From the own grid to the prepared one it goes as labels do, a voxel's value being
    the mean over it; the other way as our predictions do, linearly.
    """
    placed, is_own = place(values, geometry, lesion)
    if not is_own:
        prepared = placed.voxels.transpose(2, 1, 0)
        return prepared, to_native(prepared, geometry)
    grid = Grid(tuple(geometry["shape"][::-1]), np.array(geometry["affine"], float))
    return resample(*nearest_ras(placed), grid), placed.voxels
