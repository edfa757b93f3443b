"""Damaged scans through reading and preparing: run as a program, it prints JSON.

Every case is made from its number alone. Each one has to end in a prepared case or in a
`UserError`; anything else, a warning too, is printed with its traceback.
"""

import gzip
import json
import os
import resource
import shutil
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

import numpy as np

from adn_jax.config import PrepareSettings
from adn_jax.data.cases import PreparedCase
from adn_jax.datasets.raw import CaseInput
from adn_jax.errors import UserError
from adn_jax.prepare.case import prepare_scan
from adn_jax.scans.read import read_scan
from tests.made_heads import ellipsoids
from tests.scans.dicom.files import write_enhanced, write_series

MEMORY_BYTES = 4 << 30
SETTINGS = PrepareSettings(shape=(16, 24, 24), spacing_mm=(10.0, 8.0, 8.0))
HEADER = 348
FIELDS = {
    "sizeof_hdr": (0, "<i4"),
    "dim": (40, "<i2"),
    "datatype": (70, "<i2"),
    "bitpix": (72, "<i2"),
    "pixdim": (76, "<f4"),
    "vox_offset": (108, "<f4"),
    "scl_slope": (112, "<f4"),
    "scl_inter": (116, "<f4"),
    "xyzt_units": (123, "<u1"),
    "qform_code": (252, "<i2"),
    "quatern": (256, "<f4"),
    "srow": (280, "<f4"),
    "magic": (344, "<u1"),
}
COUNTS = {"dim": 8, "pixdim": 8, "quatern": 6, "srow": 12, "magic": 4, "qform_code": 2}
ODD = [0.0, -0.0, 1.0, -1.0, np.nan, np.inf, -np.inf, 1e38, -1e38, 1e-38, 1e10, 352.5]


def flip(content: bytearray, rng: np.random.Generator, first: int, last: int) -> None:
    """Turn one to eight bits between two places."""
    for place in rng.integers(first, last, rng.integers(1, 9)):
        content[place] ^= 1 << rng.integers(8)


def put(content: bytearray, field: str, index: int, value: float) -> None:
    """Set one number of a NIfTI header, cut to what its type can hold."""
    start, dtype = FIELDS[field]
    kind = np.dtype(dtype)
    if kind.kind != "f":
        limits = np.iinfo(kind)
        value = int(np.clip(np.nan_to_num(value), limits.min, limits.max))
    with np.errstate(all="ignore"):
        stored = np.array([value]).astype(kind).tobytes()
    at = start + index * kind.itemsize
    content[at : at + kind.itemsize] = stored


def odd_number(rng: np.random.Generator) -> float:
    """A number that a header should not hold."""
    if rng.random() < 0.4:
        return float(rng.choice(ODD))
    return float(rng.choice([-1, 1]) * 10.0 ** rng.uniform(-12, 12))


def odd_fields(content: bytearray, rng: np.random.Generator) -> None:
    """Put odd numbers into one to three fields."""
    for field in rng.choice(list(FIELDS), rng.integers(1, 4)):
        put(content, field, int(rng.integers(COUNTS.get(field, 1))), odd_number(rng))


def odd_affine(content: bytearray, rng: np.random.Generator) -> None:
    """Scale, spoil or flatten the affine."""
    for index in rng.choice(12, rng.integers(1, 13), replace=False):
        put(content, "srow", int(index), odd_number(rng))


def odd_size(content: bytearray, rng: np.random.Generator) -> None:
    """Declare other, mostly huge, dimensions."""
    count = int(rng.integers(0, 9))
    put(content, "dim", 0, count)
    for index in range(1, 8):
        put(content, "dim", index, rng.choice([-1, 0, 1, 7, 48, 513, 5000, 32767]))


def odd_type(content: bytearray, rng: np.random.Generator) -> None:
    """Declare another type of voxel, with its size or with another."""
    codes = [0, 1, 2, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1280, 1536, 2304, 9999]
    put(content, "datatype", 0, rng.choice(codes))
    if rng.random() < 0.5:
        put(content, "bitpix", 0, rng.choice([0, 1, 8, 16, 24, 32, 64, 128, -8]))


def odd_voxels(content: bytearray, rng: np.random.Generator) -> None:
    """Store floats, some of which are no numbers or absurd."""
    voxels = np.frombuffer(bytes(content[352:]), "<i2").astype("<f4")
    chosen = rng.random(len(voxels)) < 10.0 ** rng.uniform(-5, 0)
    voxels[chosen] = rng.choice(ODD, chosen.sum())
    put(content, "datatype", 0, 16)
    put(content, "bitpix", 0, 32)
    content[352:] = voxels.tobytes()


def flip_header(content: bytearray, rng: np.random.Generator) -> None:
    """Turn bits of the header."""
    flip(content, rng, 0, HEADER + 4)


def flip_voxels(content: bytearray, rng: np.random.Generator) -> None:
    """Turn bits of the voxels."""
    flip(content, rng, HEADER + 4, len(content))


def truncate(content: bytearray, rng: np.random.Generator) -> None:
    """Leave out the end."""
    del content[int(len(content) * rng.random()) :]


def add_noise(content: bytearray, rng: np.random.Generator) -> None:
    """Put random bytes at the end, or in place of a part."""
    noise = rng.bytes(int(rng.integers(1, 3000)))
    at = int(rng.integers(len(content))) if rng.random() < 0.5 else len(content)
    content[at : at + len(noise)] = noise


DAMAGES = (
    flip_header,
    flip_voxels,
    odd_fields,
    odd_affine,
    odd_size,
    odd_type,
    odd_voxels,
    truncate,
    add_noise,
)


def damaged_nifti(number: int, whole: bytes, folder: Path) -> Path:
    """Write a damaged NIfTI file; every third one is damaged after its compression."""
    rng = np.random.default_rng([1, number])
    content = bytearray(whole)
    late = number % 3 == 0
    if not late:
        DAMAGES[number % len(DAMAGES) if number % 2 else rng.integers(9)](content, rng)
    compressed = late or rng.random() < 0.4
    if compressed:
        content = bytearray(gzip.compress(bytes(content), 1))
    if late:
        damage = (truncate, add_noise, flip)[number // 3 % 3]
        damage(content, rng, *((0, len(content)) if damage is flip else ()))
    name = (
        f"{number}.nii.gz" if compressed != (rng.random() < 0.05) else f"{number}.nii"
    )
    path = folder / name
    path.write_bytes(content)
    return path


def damaged_dicom(number: int, hu: np.ndarray, folder: Path) -> Path:
    """Write a series of which some or all files are damaged."""
    rng = np.random.default_rng([2, number])
    z_mm = [12.0 * index for index in range(len(hu))]
    kind = number % 12
    if kind == 11:
        write_enhanced(folder / "all.dcm", hu, z_mm)
    else:
        tags = odd_tags(kind, rng, len(hu))
        write_series(
            folder,
            hu,
            z_mm=z_mm,
            jpeg=kind in (1, 2),
            tilt_deg=float(rng.choice([0, 0, 20])),
            **{"PixelSpacing": (4.2, 4.2), "SliceThickness": 12.0} | tags,
        )
    paths = sorted(folder.iterdir())
    share = rng.choice([0.1, 0.5, 1.0])
    for path in paths:
        if rng.random() > share and len(paths) > 1:
            continue
        content = bytearray(path.read_bytes())
        if kind in (0, 1, 11):
            flip(content, rng, 128, min(len(content), 1500))
        elif kind == 2:
            flip(content, rng, 1200, len(content))
        elif kind == 3:
            truncate(content, rng)
        elif kind == 4:
            add_noise(content, rng)
        elif kind == 5:
            content.clear()
        path.write_bytes(content)
    return folder


def odd_tags(kind: int, rng: np.random.Generator, slices: int) -> dict:
    """Elements of a series that contradict each other or the pixels."""
    spread = [
        tuple(
            float(np.round(one, 3)) for one in rng.normal(0, 10.0 ** rng.integers(4), 3)
        )
        for _ in range(slices)
    ]
    return {
        6: {"Rows": int(rng.choice([0, 1, 47, 49, 65535])), "Columns": 65535},
        7: {"ImagePositionPatient": spread},
        8: {"PixelSpacing": tuple(float(one) for one in rng.choice([0, 1e-9, 1e6], 2))},
        9: {
            "RescaleSlope": float(rng.choice([0, -1, 1e30, 1e-30])),
            "BitsAllocated": int(rng.choice([1, 8, 12, 16, 32])),
        },
        10: {
            "ImageOrientationPatient": tuple(
                float(one) for one in rng.choice([0, 0, 1, -1, 7], 6)
            )
        },
    }.get(kind, {})


def prepared(path: Path) -> PreparedCase:
    """Read and prepare a scan."""
    return prepare_scan(CaseInput(read_scan(path)), SETTINGS)


def outcome(path: Path, whole: PreparedCase) -> tuple[str, str]:
    """`prepared`, `refused` or `broken`, with flags, reason or traceback.

    A case without flags has to be nearly that of the undamaged scan.
    """
    try:
        case = prepared(path)
    except UserError as error:
        text = str(error)
        return ("refused", text) if "\n" not in text else ("broken", text)
    except Exception:
        return "broken", traceback.format_exc()
    inside = case.volume[case.brain > 0]
    if not (
        inside.size
        and np.isfinite(inside).all()
        and 0 <= inside.min() <= inside.max() <= 1
    ):
        return "broken", "the prepared volume is not between 0 and 1"
    if not case.flags and not is_like(case, whole):
        return "broken", "it differs from the undamaged scan, and no flag says so"
    return "prepared", "; ".join(case.flags)


def is_like(case: PreparedCase, whole: PreparedCase) -> bool:
    """Whether two cases have nearly the same brain: Dice 0.9, 2 HU on average."""
    both = (case.brain > 0) & (whole.brain > 0)
    dice = 2 * both.sum() / (case.brain.sum() + whole.brain.sum())
    apart = abs(case.volume - whole.volume)[both].mean() * np.ptp(SETTINGS.window_hu)
    return bool(dice > 0.9 and apart < 2)


def processor_seconds() -> float:
    """What this process and its children have taken, whatever runs beside them."""
    return sum(os.times()[:4])


def main(niftis: int, dicoms: int) -> None:
    """Run every case and print outcome, words and processor seconds of each."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    warnings.simplefilter("error")
    head = ellipsoids((24, 48, 48), (6.5, 4.2, 4.2)).ct
    hu = np.asarray(ellipsoids((12, 48, 48), (12.0, 4.2, 4.2)).ct.dataobj).T
    results = []
    with tempfile.TemporaryDirectory(prefix="adn-fuzz-") as name:
        folder = Path(name)
        content = head.to_bytes()
        (folder / "whole.nii").write_bytes(content)
        whole = prepared(folder / "whole.nii")
        for number in range(niftis + dicoms):
            if number < niftis:
                path = damaged_nifti(number, content, folder)
            else:
                path = damaged_dicom(number - niftis, hu, folder / str(number))
            start = processor_seconds()
            found, words = outcome(path, whole)
            seconds = round(processor_seconds() - start, 2)
            results.append({"case": path.name, "found": found, "words": words,
                            "seconds": seconds})  # fmt: skip
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    print(json.dumps(results))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
