"""Reading one raw scan: a NIfTI file, or a DICOM folder through dcm2niix."""

import re
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dcm2niix
import nibabel as nib
import numpy as np

from adn_jax.data.nifti import open_nifti, read_voxels
from adn_jax.errors import UserError
from adn_jax.prepare.window import to_hounsfield
from adn_jax.runtime.files import read_json

FEWEST_SLICES = 5
NIFTI_ENDINGS = (".nii", ".nii.gz")
CONVERSION_LIMIT_S = 600


@dataclass(frozen=True)
class RawScan:
    """A scan in HU on its own grid; a tilted gantry is already corrected."""

    name: str
    image: nib.Nifti1Image
    source: dict[str, Any] = field(default_factory=dict)
    """Where it came from and how it was read."""
    flags: tuple[str, ...] = ()
    """What had to be corrected, a sentence each."""


def read_scan(path: Path, series: str = "") -> RawScan:  # noqa: ARG001
    """Read a NIfTI file, a DICOM folder, or a case folder that holds either.

    Raises `UserError` for everything that is no head CT volume: see the messages.
    """
    if not path.exists():
        raise UserError(
            f"{path} does not exist; give a NIfTI file or a folder of DICOM files."
        )
    nifti = find_nifti(path)
    if nifti is not None:
        return finish(scan_name(path), open_nifti(nifti), {"file": nifti.name}, nifti)
    if path.is_file():
        raise UserError(
            f"{path} is no NIfTI file (.nii, .nii.gz); for DICOM give the folder that "
            "holds the slices."
        )
    if not any(path.iterdir()):
        raise UserError(f"{path} is empty; give a folder of DICOM files.")
    with tempfile.TemporaryDirectory(prefix="adn-") as scratch:
        chosen, source = convert_dicom(path, Path(scratch))
        return finish(scan_name(path), open_nifti(chosen), source, path)


def find_nifti(path: Path) -> Path | None:
    """The file itself, or `ct.nii(.gz)` of a case folder; None: DICOM."""
    if path.is_file():
        return path if path.name.endswith(NIFTI_ENDINGS) else None
    found = [path / f"ct{ending}" for ending in NIFTI_ENDINGS]
    return next((file for file in found if file.is_file()), None)


def scan_name(path: Path) -> str:
    """The case folder's name for `ct.nii.gz` and `dicom/`, else the path's own."""
    name = path.name.removesuffix(".gz").removesuffix(".nii")
    return path.absolute().parent.name if name in {"ct", "dicom"} else name


def finish(
    name: str, image: nib.Nifti1Image, source: dict[str, Any], path: Path
) -> RawScan:
    """Check the opened image and load it as HU."""
    check_layout(image, path)
    values = read_voxels(image, np.float32).reshape(image.shape[:3])
    if not np.isfinite(values).all():
        raise UserError(
            f"{path} has voxels that are NaN or infinite; convert the scan again."
        )
    if values.min() == values.max():
        raise UserError(
            f"every voxel of {path} is {values.min():g}, so there is no image; "
            "convert the scan again."
        )
    hu, flags = to_hounsfield(values)
    return RawScan(name, nib.Nifti1Image(hu, image.affine), source, flags)


def check_layout(image: nib.Nifti1Image, path: Path) -> None:
    """Raise `UserError` unless the image is one grey volume of enough slices."""
    if image.get_data_dtype().kind not in "iuf":
        raise UserError(
            f"{path} holds {image.get_data_dtype()} voxels (a colour picture?); give "
            "the CT volume itself."
        )
    if len(image.shape) < 3 or any(n > 1 for n in image.shape[3:]):
        raise UserError(
            f"{path} has {len(image.shape)} dimensions {image.shape}; give one "
            "3D volume."
        )
    if min(image.shape[:3]) < FEWEST_SLICES:
        raise UserError(
            f"{path} has only {min(image.shape[:3])} slices; a head CT needs at least "
            f"{FEWEST_SLICES}."
        )


def convert_dicom(folder: Path, scratch: Path) -> tuple[Path, dict[str, Any]]:
    """Convert a folder with dcm2niix and choose the series.

    Returns the NIfTI file in `scratch` (with the tilt corrected and slices evenly
    spaced) and a record of the choice. Raises `UserError` where there is no CT series.
    """
    command = [dcm2niix.bin, "-z", "n", "-b", "y", "-f", "series%s"]
    try:
        done = subprocess.run(
            [*command, "-o", str(scratch), str(folder)],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=CONVERSION_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(
            f"dcm2niix took longer than {CONVERSION_LIMIT_S} s for {folder}; "
            "give the folder of one series."
        ) from error
    series = [
        describe_series(sidecar)
        for sidecar in sorted(scratch.glob("*.json"))
        if sidecar.with_suffix(".nii").is_file()
    ]
    if not series:
        raise UserError(
            f"{folder} holds no DICOM series that dcm2niix can read; "
            "give a folder of CT slices or a NIfTI file."
        )
    ranked = sorted(series, key=preference)
    chosen = ranked[-1]
    if chosen["modality"] != "CT":
        raise UserError(
            f"{folder} holds {chosen['modality']} and no CT; give a head CT."
        )
    file = best_variant(scratch, chosen["file"])
    warnings = re.findall(r"^Warning: (.*)$", done.stdout, re.MULTILINE)
    record = {"file": file.name, "series": ranked[::-1], "warnings": warnings}
    return file, record


def describe_series(sidecar: Path) -> dict[str, Any]:
    """What the choice of the series needs to know of one of dcm2niix's outputs."""
    facts = read_json(sidecar)
    image = nib.as_closest_canonical(open_nifti(sidecar.with_suffix(".nii")))
    normal = image.affine[:3, 2] / np.linalg.norm(image.affine[:3, 2])
    kinds = {str(kind).upper() for kind in facts.get("ImageType", [])}
    return {
        "file": sidecar.stem,
        "modality": facts.get("Modality", "CT"),
        "description": facts.get("SeriesDescription", ""),
        "slices": int(image.shape[2]),
        "axial": bool(abs(normal[2]) > np.cos(np.pi / 4)),
        "original": not kinds & {"LOCALIZER", "SECONDARY", "DERIVED"},
        "contrast": bool(facts.get("ContrastBolusAgent")),
    }


def preference(series: dict[str, Any]) -> tuple[bool, bool, bool, bool, bool, int, str]:
    """Order of choice: CT, axial, a volume, original, without contrast, most slices."""
    return (
        series["modality"] == "CT",
        series["axial"],
        series["slices"] >= FEWEST_SLICES,
        series["original"],
        not series["contrast"],
        series["slices"],
        series["file"],
    )


def best_variant(folder: Path, stem: str) -> Path:
    """dcm2niix's most corrected output of a series: tilt and slice distance, if any."""
    corrected = re.compile(re.escape(stem) + r"(_Tilt)?(_Eq)?(_\d+)?\.nii")
    files = [path for path in folder.iterdir() if corrected.fullmatch(path.name)]
    return max(files, key=lambda path: ("_Eq" in path.name, "_Tilt" in path.name))
