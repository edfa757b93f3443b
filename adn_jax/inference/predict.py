"""Unseen scans segmented, with every result on the scan's own grid."""

import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8
from nibabel.affines import apply_affine
from rich.progress import track
from scipy import ndimage

from adn_jax.config import AsymmetrySettings
from adn_jax.config.serialization import settings_to_json
from adn_jax.data.cases import PreparedCase, sha256
from adn_jax.datasets.raw import unlabelled_input
from adn_jax.errors import (
    UserError,
    is_out_of_memory,
    memory_sentence,
    one_line,
    typed_line,
)
from adn_jax.inference.chain import as_map, on_scan_grid
from adn_jax.inference.dicom import Found, check_highdicom, check_series, write_dicom
from adn_jax.inference.figures import as_webp, save_figure, scan_figure
from adn_jax.inference.maps import CaseMaps, Lesions
from adn_jax.inference.shown import ShownScan
from adn_jax.inference.system import System, load_system
from adn_jax.inference.viewer import write_viewer
from adn_jax.io.files import (
    atomic_path,
    check_replaceable,
    check_writable,
    fingerprint,
    is_there,
    none_for_nan,
    read_json,
    remove_remains,
    write_json,
)
from adn_jax.io.image import Image, write_image
from adn_jax.io.paths import Place, unread_named
from adn_jax.pipeline.adn import AdnOutputs
from adn_jax.prepare.case import prepare_scan, to_native, to_slices
from adn_jax.runtime.capacity import MemoryShortageError
from adn_jax.runtime.platform import versions
from adn_jax.scans.dicom.straighten import taken_image
from adn_jax.scans.hounsfield import check_hu_range
from adn_jax.scans.read import RawScan, find_nifti, read_scan, scan_name
from adn_jax.training.runs import TrainedModel, run_name

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
    "uncertainty": "entropy of the mean probability of dropout samples, bits (0 to 1)",
}
"""The volumes written for each scan, as far as there are, with their units."""

IN_HU = {
    "pathological": "HU darker than the mirror voxel by ischaemia (P, a part of A)",
    "anatomical": "HU darker than the mirror voxel by anatomy (Q = A - P)",
    "salient": "HU of ct + Q, what F sees of the scan (X_hat)",
    "compensated": "HU of ct + P (X_tilde)",
}
"""Units of the volumes made with P if it is a part of A."""

POSITIVE_PART = {"anatomical": "max(A - P, 0), with P as stored; not HU (Q)"}
CLIPPED = {
    "compensated": "ct + P, at most the brighter of the voxel and its mirror voxel; "
    "not HU where P is not 0 (X_tilde)"
}
"""Units where Q and X_tilde are formed as the authors' code forms them."""

FACTS, FIGURE, VIEWER, DICOM_FOLDER = "scan.json", "figure.png", "viewer.html", "dicom"
"""What is written beside the volumes."""

NOT_WRITTEN = "not_written"
"""In `scan.json: dicom`: why there is no DICOM result."""

TAKEN_ENDING = "_as_taken"
"""How the names of volumes end that lie on the slices of a series."""

RESULTS = {
    *(f"{name}{ending}.nii.gz" for name in UNITS for ending in ("", TAKEN_ENDING)),
    *(FIGURE, VIEWER, DICOM_FOLDER),
}
"""What may lie beside `FACTS` in the results of a scan."""

PROBABILITY_STEP, MAP_STEP, SCAN_STEP = 1 / 1024, 1 / 64, 1 / 8

VALUE_STEPS = {
    "lesion": 0.0,
    **dict.fromkeys(("probability", "uncertainty"), PROBABILITY_STEP),
    **dict.fromkeys(("ct", "salient", "compensated"), SCAN_STEP),
}
"""Steps in which volumes are stored (0: as they are); of other maps `MAP_STEP` (HU)."""

AS_TAKEN_NOTE = (
    "the scan was straightened from its slices; *_as_taken.nii.gz lie on the slices of "
    "the series as they were taken, the other files on the straightened grid"
)

POSE_SIGNS = (
    "rotation positive: nose turned to the patient's left, modulo 180; offset "
    "positive: mid-line to the patient's right of the brain's centre"
)
POSE_SIGNS_UNKNOWN = (
    "rotation modulo 180; offset of the mid-line from the brain's centre, to which of "
    "the patient's sides is not known"
)


class DicomNotWrittenError(UserError):
    """A scan has no DICOM result, but all its other results are written."""


class Failure(NamedTuple):
    """What went wrong with a scan: not the error itself, which would keep the scan's
    volumes in memory."""

    sentence: str
    all_but_dicom: bool = False
    """Whether all results but those in DICOM are there."""
    older_stay: bool = False
    """Whether results of an earlier run are where its own would be."""

    def beside(self, folder: Path) -> "Failure":
        """The same, told with the older results that stay in a folder, if any do."""
        if self.all_but_dicom or not _holds_results(folder):
            return self
        sentence = (
            f"{self.sentence.rstrip('.')}; results of an earlier run stay in {folder}."
        )
        return self._replace(sentence=sentence, older_stay=True)


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
    (A), pathological (P), anatomical (Q), salient, compensated, ct, uncertainty."""
    as_taken: Mapping[str, Image]
    """ct, probability and lesion on the slices of the series as they were taken; empty
    if these are a regular grid."""
    shown: ShownScan
    """Scan, lesions and maps as figure and page show them."""
    facts: Mapping[str, Any]
    """What `scan.json` says: the scan, lesions, pose, flags, quality, model."""

    def write(self, folder: Path, viewer: bool = True, dicom: bool = False) -> None:
        """Write volumes, figure, `scan.json` and, with `viewer`, the page that shows
        them in a browser; whole or not at all.

        With `dicom` also `dicom/`: segmentations and a report that refer to the series
        (`inference.dicom`).

        Raises:
            UserError: the folder cannot be written, or holds what is not of an earlier
                prediction.
            DicomNotWrittenError: `dicom/` cannot be written; all else is.
        """
        _check_results(folder, self.facts["scan"])
        facts = dict(self.facts)
        with atomic_path(folder) as temporary:
            temporary.mkdir()
            for images, ending in ((self.images, ""), (self.as_taken, TAKEN_ENDING)):
                for name, image in images.items():
                    path = temporary / f"{name}{ending}.nii.gz"
                    write_image(path, image, VALUE_STEPS.get(name, MAP_STEP))
            figure = scan_figure(self.shown)
            save_figure(figure, temporary / FIGURE)
            if viewer:
                write_viewer(temporary / VIEWER, self.shown, as_webp(figure))
            if dicom:
                facts["dicom"] = self._try_dicom(temporary / DICOM_FOLDER)
            write_json(temporary / FACTS, none_for_nan(facts))
        if why := facts.get("dicom", {}).get(NOT_WRITTEN):
            raise DicomNotWrittenError(
                f"{self.facts['scan']} has no DICOM result ({why}); all its other "
                f"results are in {folder}."
            )

    def _try_dicom(self, folder: Path) -> dict[str, Any]:
        """Write the DICOM result; returns what `scan.json` says of it, which is why
        there is none where it fails: the other results took minutes."""
        try:
            return write_dicom(folder, self.scan, self._on_slices)
        except Exception as error:  # whatever the headers hold
            shutil.rmtree(folder, ignore_errors=True)
            return {NOT_WRITTEN: _reason(error)}

    @property
    def _on_slices(self) -> Found:
        """What was found on the slices of a series as they were taken."""
        images, facts = self.as_taken or self.images, self.facts
        return Found(
            lesion=images["lesion"].voxels,
            probability=images["probability"].voxels,
            recipe=facts["model"]["recipe"],
            run=facts["model"]["run"],
            threshold=facts["threshold"],
            left_out_ml=facts["lesions_left_out_ml"],
            flags=tuple(facts["flags"]),
        )


def units_of(settings: AsymmetrySettings) -> dict[str, str]:
    """The units of the volumes by the way in which P, Q and X_tilde are formed."""
    if settings.adds_up:
        return UNITS | IN_HU
    by_code = POSITIVE_PART if settings.anatomical == "positive_part" else {}
    return UNITS | by_code | (CLIPPED if settings.compensated == "clipped" else {})


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
    system = System((model,))
    return _predict_read(system, read_scan(path), path)


def predict_scans(
    run: Place,
    scans: Sequence[Path],
    out: Path,
    samples: int = 0,
    tta: Mapping[str, Any] | None = None,
    series: str = "",
    hu_range: tuple[float, float] | None = None,
    viewer: bool = True,
    dicom: bool = False,
    least_lesion_ml: float | None = None,
    least_ppv: float | None = None,
) -> dict[Path, Failure]:
    """Predict scans one after the other; a scan that fails does not stop the rest.

    Args:
        run: a finished run.
        scans: NIfTI files or DICOM folders.
        out: each scan's results go to `out/<name>/`, replacing older ones.
        samples: passes with dropout that tell the uncertainty; 0: none.
        tta: fields of `TtaSettings` that replace the recipe's.
        series: of DICOM folders, the series to read (`read_scan`).
        hu_range: HU to which the values were clipped before.
        viewer: whether to write `viewer.html`, which holds the scan itself.
        dicom: write DICOM segmentations and a report, too; scans have to be series.
        least_lesion_ml: smaller lesions are left out; None: the recipe's.
        least_ppv: lesions that are more rarely true are left out
            (`data.known_lesions`); None: as the run has it.

    Returns:
        What went wrong with each scan that failed.

    Raises:
        UserError: the run is not usable, nothing can be written into `out`, two scans
            would share a folder, or highdicom is missing for `dicom`.
    """
    check_hu_range(hu_range)
    if dicom:
        check_highdicom()
    check_writable(out)
    folders = result_folders(scans, out)
    system = load_system(
        run, samples, tta=tta, least_lesion_ml=least_lesion_ml, least_ppv=least_ppv
    )
    remove_remains(out, {folder.name for folder in folders.values()})
    failures = {}
    for scan, folder in track(folders.items(), description="predict"):
        try:
            predict_and_write(system, scan, folder, series, hu_range, viewer, dicom)
        except MemoryShortageError:
            raise  # the same holds for every scan
        except UserError as error:
            lacks_dicom = isinstance(error, DicomNotWrittenError)
            failures[scan] = Failure(str(error), lacks_dicom).beside(folder)
        except Exception as error:  # whatever a file holds, the other scans go on
            said = f"{scan} failed: {_reason(error)}"
            if is_out_of_memory(error):
                said = f"{scan}: {memory_sentence(error)}"
            failures[scan] = Failure(said).beside(folder)
    return failures


def _holds_results(folder: Path) -> bool:
    """Whether results of a scan are seen in a folder."""
    with suppress(UserError):  # a disk that has gone: the other scans go on
        return is_there(folder / FACTS)
    return False


def _reason(error: Exception) -> str:
    """What an error says, and its type unless it is for users."""
    return one_line(error) if isinstance(error, UserError) else typed_line(error)


def predict_and_write(
    system: System,
    path: Path,
    folder: Path,
    series: str = "",
    hu_range: tuple[float, float] | None = None,
    viewer: bool = True,
    dicom: bool = False,
) -> None:
    """Predict one scan and write its folder, whole or not at all."""
    scan = replace(read_scan(path, series, hu_range), name=folder.name)
    if dicom:
        check_series(scan, path)
    _predict_read(system, scan, path).write(folder, viewer, dicom)


def _predict_read(system: System, scan: RawScan, path: Path | str) -> Prediction:
    """Everything that a system finds in a scan that was read from a path."""
    identity = identity_of(scan, Path(path))
    recipe = system.model.recipe
    settings = replace(recipe.system.prepare, tissue="none")  # not needed to predict
    given = unlabelled_input(scan, Path(path))
    scan, case = given.scan, prepare_scan(given, settings)
    maps, outputs, uncertainty = system.infer(case)
    native = partial(to_native, geometry=case.geometry)
    volumes = lesion_of(native(maps.prediction), maps.threshold)
    lost = lost_lesions(maps, case, scan.image.holding(volumes["lesion"], "lesion"))
    maps = replace(maps, left_out_ml=(*maps.left_out_ml, *lost))
    volumes |= _maps_on_scan(scan, case, maps, outputs)
    further = {}
    if uncertainty is not None:
        volumes["uncertainty"] = native(uncertainty.entropy)
        further["mutual_information"] = native(uncertainty.mutual_information)
    shown = ShownScan.of_scan(scan, case, maps, volumes | further)
    facts: dict[str, Any] = {"scan": _spelled_out(path), "identity": identity}
    facts |= _describe_case(scan, case, maps, shown)
    if uncertainty is not None:
        facts["uncertainty"] = system.uncertainty_source
    facts["window_hu"] = list(settings.window_hu)
    units = units_of(recipe.system.asymmetry)
    facts["units"] = {name: units[name] for name in volumes}
    as_taken = {}
    if scan.taken is not None:
        place = taken_image(scan.taken, "ct")
        probability = to_slices(maps.prediction, case.geometry, scan.taken)
        taken = lesion_of(probability, maps.threshold)
        as_taken = {name: place.holding(one, name) for name, one in taken.items()}
        as_taken = {"ct": place, **as_taken}
        facts["as_taken"] = AS_TAKEN_NOTE
    tta = system.tta and system.tta[0]
    facts["model"] = {
        "recipe": recipe.name,
        "run": system.names[0],
        "run_folder": run_name(system.model.run.folder),
        "stages_sha256": fingerprint(system.model.run.finished),
        "steps": system.model.run.steps,
        "tta": settings_to_json(tta),
        "least_lesion_ml": recipe.least_lesion_ml,
        "known_lesions": settings_to_json(system.known_lesions),
    }
    facts["versions"] = versions()
    images = {name: scan.image.holding(one, name) for name, one in volumes.items()}
    return Prediction(scan, case, maps, images, as_taken, shown, facts)


def identity_of(scan: RawScan, path: Path) -> dict[str, str]:
    """What tells a scan that was read from a path from others that come to lie there.

    The UID of its series or the checksum of its file, and nothing of the patient. Empty
    if the images of a folder name no series.
    """
    uid = scan.frames[0].header.get("SeriesInstanceUID") if scan.frames else ""
    if uid:
        return {"series_instance_uid": uid}
    file = find_nifti(path) or path
    return {"sha256": sha256(file)} if file.is_file() else {}


def lesion_of(
    probability: Float32[np.ndarray, "i j k"], threshold: float
) -> dict[str, Float32[np.ndarray, "i j k"] | UInt8[np.ndarray, "i j k"]]:
    """The lesion, as `evaluate` finds it, and the probability in the steps in which it
    is stored, on the same side of the threshold."""
    step, lesion = np.float32(PROBABILITY_STEP), probability >= threshold
    stored = np.rint(probability / step) * step
    stored += step * (lesion.astype(np.float32) - (stored >= threshold))
    return {"lesion": lesion.astype(np.uint8), "probability": stored}


def lost_lesions(
    maps: CaseMaps, case: PreparedCase, lesion: Image
) -> tuple[float, ...]:
    """Volumes in mL of the lesions of the prepared grid that have no voxel on the
    scan's own, whose slices may lie beside a small one."""
    lesions = Lesions.of(maps.predicted)
    # A voxel of the scan is interpolated from the eight around it; no two of these
    # belong to different lesions, for such would touch.
    around = ndimage.maximum_filter(lesions.number, size=2, origin=-1)
    to_case = np.linalg.solve(case.affine, lesion.affine)
    places = apply_affine(to_case, np.argwhere(lesion.voxels))[:, ::-1]
    lowest = np.clip(np.floor(places).astype(int), 0, np.array(around.shape) - 1)
    lost = np.ones(1 + len(lesions.voxels), bool)
    lost[around[tuple(lowest.T)]] = False
    return tuple(lesions.volumes_ml(maps.spacing_mm)[lost[1:]].tolist())


def _maps_on_scan(
    scan: RawScan, case: PreparedCase, maps: CaseMaps, outputs: AdnOutputs
) -> dict[str, Float32[np.ndarray, "i j k"]]:
    """A, P and Q on the scan's own voxels, the synthetic scans, and the scan.

    The asymmetry maps are 0 outside the brain; without a mid-line there are none. The
    two synthetic scans are the scan itself plus what the model adds, so that they stay
    as sharp and keep the skull.
    """
    hu, width = scan.image.voxels, maps.window_width_hu
    if maps.plane is None:
        return {"ct": hu}
    moved = {
        name: width * to_native(as_map(volume) * case.brain, case.geometry)
        for name, volume in on_scan_grid(outputs).items()
    }
    synthetic = {
        name: hu + moved.pop(f"{name}_change")
        for name in ("salient", "compensated")
        if f"{name}_change" in moved
    }
    return {**moved, **synthetic, "ct": hu}


def _describe_case(
    scan: RawScan, case: PreparedCase, maps: CaseMaps, shown: ShownScan
) -> dict[str, Any]:
    """Lesions, pose of the head, flags and quality.

    Nothing of the pose if the recipe does not look for the mid-line or found none; no
    side if it is not known which is left.
    """
    facts = {
        "name": scan.name,
        "purpose": "research only, not for diagnosis",
        "lesion_volume_ml": sum(one.volume_ml for one in shown.lesions),
        "lesions": [one.to_json() for one in shown.lesions],
        "slices_counted": shown.counted,
        "threshold": maps.threshold,
        "lesions_left_out": len(maps.left_out_ml),
        "lesions_left_out_ml": maps.left_out_ml,
    }
    if maps.plane is not None:
        if maps.knows_sides:
            facts["lesion_side"] = shown.lesion_side
        pose = maps.pose(case.affine)
        facts["head_rotation_deg"] = pose["rotation_deg"]
        facts["head_offset_mm"] = pose["offset_mm"]
        facts["pose_signs"] = POSE_SIGNS if maps.knows_sides else POSE_SIGNS_UNKNOWN
    facts["flags"] = [*case.flags, *maps.flags]
    return {**facts, "quality": case.quality, "source": case.source}


def result_folders(scans: Sequence[Path], out: Path) -> dict[Path, Path]:
    """Folder of results of each scan, by the scan's name.

    Only results of an earlier call may be replaced: `--out` next to the scans would
    otherwise delete the case folder that holds a scan, or a mask that was corrected by
    hand. Raises `UserError` if a folder holds something else, or two scans would share
    it.
    """
    if is_there(out / FACTS):
        raise UserError(
            f"{out} holds the results of a scan, among which those of others have no "
            "place; give the folder above, or another --out."
        )
    folders: dict[Path, Path] = {}
    for scan, name in zip(scans, result_names(scans), strict=True):
        folder = out / name
        with unread_named(folder):
            is_taken = folder.exists()
        if is_taken and scan.resolve().is_relative_to(folder.resolve()):
            raise UserError(
                f"the results of {scan} would replace {folder}, which holds the scan "
                "itself; choose another --out."
            )
        _check_results(folder, _spelled_out(scan))
        for other, taken in folders.items():
            if taken == folder:
                raise UserError(
                    f"{other} and {scan} would both write to {folder}; "
                    "rename one, or give them in two calls with different --out."
                )
        folders[scan] = folder
    return folders


def _spelled_out(scan: Path | str) -> str:
    """The path of a scan, by which its results are known; links stay as they are."""
    return str(Path(scan).absolute())


def _check_results(folder: Path, scan: str) -> None:
    """Raise `UserError` unless a folder is vacant or holds results of this scan alone,
    however its path is spelled.

    Of a scan that is not where it was nobody knows whether it was another one; nor of
    results of old versions, which do not say whose they are.
    """
    check_replaceable(folder, FACTS, RESULTS)
    told: Any = None
    with suppress(UserError):  # absent or damaged
        told = read_json(folder / FACTS)
    other = told.get("scan", scan) if isinstance(told, dict) else scan
    with unread_named(Path(other)):
        is_there_still = Path(other).exists()
    if is_there_still and Path(other).resolve() != Path(scan).resolve():
        raise UserError(
            f"{folder} holds the results of {other}, which those of {scan} would "
            "replace; give another --out, or remove them."
        )


def result_names(scans: Sequence[Path]) -> list[str]:
    """The name of each scan; if several have the same, as in 0001/CT and 0002/CT, the
    parts that differ in their paths and in all others of as many folders."""

    def parts_of(scan: Path) -> tuple[str, ...]:
        """The folders above the part of a path that names the scan, and its name."""
        path, name = Path(os.path.normpath(scan.absolute())), scan_name(scan)
        folder = path if path.name.startswith(name) else path.parent
        return (*folder.parent.parts, name)

    def shared_start(every: Sequence[Sequence[str]]) -> int:
        """How many first items all sequences have in common."""
        columns = zip(*every, strict=False)
        return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))

    paths = [parts_of(scan) for scan in scans]
    often = Counter(path[-1] for path in paths)
    lengths = {len(path) for path in paths if often[path[-1]] > 1}
    alike = [path for path in paths if len(path) in lengths]
    start = shared_start(alike)
    end = shared_start([path[start:][::-1] for path in alike])
    names = []
    for path in paths:
        differing = path[start : len(path) - end] if path in alike else ()
        names.append("_".join(differing) or path[-1])
    return names
