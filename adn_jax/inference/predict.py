"""Unseen scans segmented, with every result on the scan's own grid."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Num
from rich.progress import track

from adn_jax.config import PrepareSettings, Recipe
from adn_jax.config.serialization import settings_to_json
from adn_jax.data.cases import PreparedCase
from adn_jax.datasets.raw import CaseInput
from adn_jax.errors import UserError, is_out_of_memory, memory_sentence
from adn_jax.inference.chain import as_map, on_scan_grid
from adn_jax.inference.figures import save_figure, scan_figure
from adn_jax.inference.maps import CaseMaps
from adn_jax.inference.midline import pose_of
from adn_jax.inference.system import (
    AS_TRAINED,
    Averaging,
    System,
    infer_system,
    load_system,
)
from adn_jax.inference.uncertainty import Doubt, lesion_doubts
from adn_jax.inference.viewer import write_viewer
from adn_jax.io.files import atomic_path, none_for_nan, write_json
from adn_jax.io.image import Image, write_image
from adn_jax.io.paths import Place
from adn_jax.metrics.overlap import Mask, volume_ml
from adn_jax.prepare.case import prepare_scan, to_native
from adn_jax.runtime.capacity import MemoryShortageError
from adn_jax.runtime.platform import versions
from adn_jax.scans.dicom.straighten import SliceStack, onto_taken, taken_image
from adn_jax.scans.hounsfield import check_hu_range
from adn_jax.scans.read import RawScan, read_scan, scan_name
from adn_jax.training.runs import TrainedModel
from adn_jax.types import AdnOutputs

ONE_SIDED = 0.9
"""From this share of its volume on one side a lesion is called one-sided."""

UNITS = {
    "lesion": "1 infarct, 0 not",
    "probability": "infarct probability, 0 to 1",
    "asymmetry": "HU darker than the mirror voxel (A)",
    "pathological": "D's output for ischaemia, a sigmoid, times the width of window_hu "
    "(P); not HU, and not a part of A: it may exceed it",
    "anatomical": "A - P, with P as stored; not HU, and negative where P exceeds A (Q)",
    "salient": "ct + Q, what F sees of the scan; not HU where Q is not 0 (X_hat)",
    "compensated": "ct + P; not HU where P is not 0 (X_tilde)",
    "ct": "HU of the scan as it was used, gantry tilt corrected",
    "doubt": "entropy of the mean probability of dropout samples, bits (0 to 1)",
}
"""The volumes written for each scan, as far as there are, with their units."""

PROBABILITY_STEP, MAP_STEP, SCAN_STEP = 1 / 1024, 1 / 64, 1 / 8

STEPS = {
    "lesion": 0.0,
    **dict.fromkeys(("probability", "doubt"), PROBABILITY_STEP),
    **dict.fromkeys(("ct", "salient", "compensated"), SCAN_STEP),
}
"""Steps in which volumes are stored (0: as they are); of other maps `MAP_STEP` (HU)."""

AS_TAKEN = (
    "the scan was straightened from its slices; *_as_taken.nii.gz lie on the slices of "
    "the series as they were taken, the other files on the straightened grid"
)

Native = Float32[np.ndarray, "i j k"]
"""Voxels of a scan in the order of its file."""


@dataclass(frozen=True)
class Prediction:
    """What a system finds in one scan; each image lies on the scan's own voxels."""

    scan: RawScan
    """The scan in HU as it was read."""
    case: PreparedCase
    """The same on the system's prepared grid."""
    maps: CaseMaps
    """Every map of the chain on the prepared grid, by the paper's letters."""
    images: Mapping[str, Image]
    """Results by name, as far as the system has them: lesion, probability, asymmetry
    (A), pathological (P), anatomical (Q), salient, compensated, ct, doubt."""
    facts: Mapping[str, Any]
    """What `scan.json` says: lesion volume and side, pose, flags, quality."""


def predict_scans(
    run: Place,
    scans: Sequence[Path],
    out: Path,
    samples: int = 0,
    averaging: Averaging = AS_TRAINED,
    series: str = "",
    hu_range: tuple[float, float] | None = None,
) -> dict[Path, str]:
    """Predict scans one after the other; a scan that fails does not stop the rest.

    Args:
        run: a finished run.
        scans: NIfTI files or DICOM folders.
        out: each scan's results go to `out/<name>/`, replacing older ones.
        samples: passes with dropout that tell the doubt; 0: none.
        averaging: poses to average over instead of the recipe's.
        series: of DICOM folders, the series to read (`read_scan`).
        hu_range: HU to which the values were clipped before.

    Returns:
        What went wrong, a sentence for each scan that failed.

    Raises:
        UserError: the run is not usable, or two scans would share a folder.
    """
    check_hu_range(hu_range)
    system = load_system(run, samples, averaging=averaging)
    folders = result_folders(scans, out)
    failures = {}
    for scan, folder in track(folders.items(), description="predict"):
        try:
            predict_scan(system, scan, folder, series, hu_range)
        except MemoryShortageError:
            raise  # the same holds for every scan
        except UserError as error:
            failures[scan] = str(error)
        except Exception as error:  # whatever a file holds, the other scans go on
            failures[scan] = failure_sentence(scan, error)
    return failures


def failure_sentence(scan: Path, error: Exception) -> str:
    """What went wrong with a scan that nothing expected."""
    if is_out_of_memory(error):
        return f"{scan}: {memory_sentence(error)}"
    return f"{scan} failed: {type(error).__name__}: {error}"


def result_folders(scans: Sequence[Path], out: Path) -> dict[Path, Path]:
    """Folder of results of each scan, by the scan's name.

    Raises `UserError` where two scans would share one, or one holds something else.
    """
    folders: dict[Path, Path] = {}
    for scan, name in zip(scans, result_names(scans), strict=True):
        folder = out / name
        check_replaceable(folder, scan)
        for other, taken in folders.items():
            if taken == folder:
                raise UserError(
                    f"{other} and {scan} would both write to {folder}; "
                    "rename one, or give them in two calls with different --out."
                )
        folders[scan] = folder
    return folders


def result_names(scans: Sequence[Path]) -> list[str]:
    """The name of each scan; where several have the same, as in 0001/CT and 0002/CT,
    the parts of their paths that differ."""
    names = [scan_name(scan) for scan in scans]
    alike = {name: [s for s in scans if scan_name(s) == name] for name in names}
    return [
        _differing_part(scan, alike[name]) if len(alike[name]) > 1 else name
        for scan, name in zip(scans, names, strict=True)
    ]


def _differing_part(path: Path, others: Sequence[Path]) -> str:
    """What of a path differs from others, which it is among: `a/1/CT` of `a/2/CT` 1."""
    every = [_folders_above(place) for place in others]
    start = _shared_start(every)
    end = _shared_start([parts[start:][::-1] for parts in every])
    parts = _folders_above(path)
    return "_".join(parts[start : len(parts) - end]) or scan_name(path)


def _folders_above(scan: Path) -> tuple[str, ...]:
    """The folders above the part of a path that names the scan."""
    path = scan.absolute()
    named_by_itself = path.name.startswith(scan_name(scan))
    return (path if named_by_itself else path.parent).parent.parts


def _shared_start(every: Sequence[Sequence[str]]) -> int:
    """How many first items all sequences have in common."""
    columns = zip(*every, strict=False)
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))


def check_replaceable(folder: Path, scan: Path) -> None:
    """Raise `UserError` unless a folder of results may be replaced.

    Only results of an earlier call may: `--out` next to the scans would otherwise
    delete the case folder that holds the scan.
    """
    holds_scan = scan.resolve().is_relative_to(folder.resolve())
    results = (folder / "scan.json").is_file()
    if folder.exists() and (holds_scan or not results):
        raise UserError(
            f"the results of {scan} would replace {folder}, which holds "
            f"{'the scan itself' if holds_scan else 'something else'}; "
            "choose another --out."
        )


def predict(model: TrainedModel, path: Path | str) -> Prediction:
    """Segment one scan in memory.

    Args:
        model: a finished run, as `load_run` reads it.
        path: a NIfTI file, DICOM files or a case folder (`read_scan`).

    Returns:
        The lesion and every map on the scan's own voxels.

    Raises:
        UserError: the path is no head CT, or no brain is found in it.
    """
    system = System((model,), (model.recipe.name,))
    return _predict_read(system, read_scan(path))


def _predict_read(system: System, scan: RawScan) -> Prediction:
    """Everything that a system finds in a scan that was read."""
    recipe = system.model.recipe
    case = prepare_scan(CaseInput(scan), _without_tissue(recipe))
    maps, outputs, doubt = infer_system(system, case)
    volumes = _scan_volumes(scan, case, maps, outputs, recipe)
    facts = _describe_scan(scan, case, maps, volumes["lesion"])
    if doubt is not None:
        native = _on_native_grid(doubt, case)
        volumes["doubt"] = scan.image.holding(native.entropy, "doubt")
        facts |= _describe_doubt(system, native, volumes["lesion"])
    facts["window_hu"] = list(recipe.system.prepare.window_hu)
    facts["units"] = {name: UNITS[name] for name in volumes}
    return Prediction(scan, case, maps, volumes, facts)


def _without_tissue(recipe: Recipe) -> PrepareSettings:
    """How a scan is prepared for prediction, which needs no tissue maps."""
    return replace(recipe.system.prepare, tissue="none")


def predict_scan(
    system: System,
    path: Path,
    folder: Path,
    series: str = "",
    hu_range: tuple[float, float] | None = None,
) -> None:
    """Predict one scan and write its folder, whole or not at all."""
    scan = replace(read_scan(path, series, hu_range), name=folder.name)
    _write_prediction(folder, _predict_read(system, scan), system)


def _write_prediction(folder: Path, found: Prediction, system: System) -> None:
    """Write the folder of a scan's results: volumes, figure, viewer, `scan.json`."""
    scan, model = found.scan, system.model
    as_taken = (
        {}
        if scan.taken is None
        else _taken_volumes(scan.taken, found.images, found.maps)
    )
    tta = system.averaging and system.averaging[0]
    facts = {
        **found.facts,
        **({"as_taken": AS_TAKEN} if as_taken else {}),
        "model": {
            "recipe": model.recipe.name,
            "run": system.names[0],
            "steps": model.steps,
            "averaging": settings_to_json(tta),
        },
        "versions": versions(),
    }
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        for images, ending in ((found.images, ""), (as_taken, "_as_taken")):
            for name, image in images.items():
                path = temporary / f"{name}{ending}.nii.gz"
                write_image(path, image, STEPS.get(name, MAP_STEP))
        save_figure(scan_figure(found.maps), temporary / "figure.png")
        write_viewer(
            temporary / "viewer.html",
            scan.image,
            found.case,
            found.maps,
            _without_tissue(model.recipe),
        )
        write_json(temporary / "scan.json", none_for_nan(facts))


def _scan_volumes(
    scan: RawScan,
    case: PreparedCase,
    maps: CaseMaps,
    outputs: AdnOutputs,
    recipe: Recipe,
) -> dict[str, Image]:
    """Every result on the scan's own voxels, by the names of `UNITS`.

    The asymmetry maps are 0 outside the brain; without a mid-line there are none. The
    two synthetic scans are the scan
    itself plus what the model adds, so that they stay as sharp and keep the skull.
    """
    low, high = recipe.system.prepare.window_hu
    hu = scan.image.voxels
    found = _lesion_of(to_native(maps.prediction, case.geometry), maps.threshold)
    moved = {
        name: (high - low) * to_native(as_map(volume) * case.brain, case.geometry)
        for name, volume in on_scan_grid(outputs, recipe.system).items()
        if maps.plane is not None
    }
    synthetic = {
        name: hu + moved.pop(f"{name}_change")
        for name in ("salient", "compensated")
        if f"{name}_change" in moved
    }
    volumes = found | moved | synthetic | {"ct": hu}
    return {name: scan.image.holding(values, name) for name, values in volumes.items()}


def _lesion_of(
    probability: Native, threshold: float
) -> dict[str, Num[np.ndarray, "i j k"]]:
    """The probability in the steps in which it is stored, and the lesion in it."""
    stored = _round_to(probability, PROBABILITY_STEP)
    return {"lesion": (stored >= threshold).astype(np.uint8), "probability": stored}


def _taken_volumes(
    taken: SliceStack, volumes: Mapping[str, Image], maps: CaseMaps
) -> dict[str, Image]:
    """CT, probability and lesion on the slices of the series as they were taken."""
    place = taken_image(taken, "ct")
    probability = onto_taken(volumes["probability"].voxels, taken)
    found = _lesion_of(probability, maps.threshold)
    return {
        "ct": place,
        **{name: place.holding(values, name) for name, values in found.items()},
    }


def _on_native_grid(doubt: Doubt, case: PreparedCase) -> Doubt:
    """Every map of the doubt on the scan's own voxels."""
    return Doubt(*(to_native(volume, case.geometry) for volume in doubt))


def _round_to(values: Native, step: float) -> Native:
    """The nearest multiples of `step`."""
    return np.rint(values / np.float32(step)) * np.float32(step)


def _describe_scan(
    scan: RawScan, case: PreparedCase, maps: CaseMaps, lesion: Image
) -> dict[str, Any]:
    """What `scan.json` says: lesion, pose of the head, quality."""
    return {
        "name": scan.name,
        "purpose": "research only, not for diagnosis",
        "lesion_volume_ml": volume_ml(lesion.voxels > 0, lesion.spacing_mm),
        "threshold": maps.threshold,
        **_describe_pose(maps, case),
        "flags": [*case.flags, *maps.midline_flags],
        "quality": case.quality,
        "source": case.source,
    }


def _describe_pose(maps: CaseMaps, case: PreparedCase) -> dict[str, Any]:
    """How the head lies, and on which side of its mid-line the lesion; nothing where
    the recipe does not look for the mid-line or found none."""
    if maps.plane is None:
        return {}
    pose = pose_of(maps, case)
    side = {"lesion_side": lesion_side(maps.aligned_predicted)}
    return {
        **(side if maps.knows_sides else {}),
        "head_rotation_deg": pose["rotation_deg"],
        "head_offset_mm": pose["offset_mm"],
        "pose_signs": "rotation positive: nose turned to the patient's left, modulo "
        "180; offset positive: mid-line to the patient's right of the brain's centre",
    }


def _describe_doubt(system: System, native: Doubt, lesion: Image) -> dict[str, Any]:
    """Where the doubt comes from, and its mean in each predicted lesion, in bits."""
    found = lesion_doubts(lesion.voxels > 0, native, lesion.spacing_mm)
    return {
        "doubt": system.doubts,
        "lesions": [
            {
                "volume_ml": one.volume_ml,
                "mean_probability": one.probability,
                "doubt_bits": one.entropy,
                "mutual_information_bits": one.mutual_information,
            }
            for one in found
        ],
    }


def lesion_side(aligned: Mask) -> str:
    """The patient's side of a mask on X's grid: left, right, both or none.

    x grows to the patient's right, and X's mid-line is the middle of x.
    """
    total = np.count_nonzero(aligned)
    if total == 0:
        return "none"
    width = aligned.shape[2]
    right = np.count_nonzero(aligned[:, :, (width + 1) // 2 :])
    left = np.count_nonzero(aligned[:, :, : width // 2])
    if max(left, right) < ONE_SIDED * total:
        return "both"
    return "left" if left > right else "right"
