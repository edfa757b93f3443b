#!/usr/bin/env bash
# One would guess: of pixels whose 12 bits are the upper ones of 16 (Bits Stored 12, High
# Bit 15, which older editions of DICOM allow), a reader shifts them down, or refuses them:
# that is what the element High Bit is for.
# What happens: pydicom, ITK (GDCM) and dcm2niix all take the lower 12 bits and say nothing.
# Grey matter of 40 HU comes out as -384 and air as -640 HU, the same in all three, so that
# comparing readers finds nothing.
# Why it matters: CT from old archives is read without a warning, hundreds of HU wrong.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    pydicom==3.0.2 SimpleITK==2.5.7 numpy==2.3.5 nibabel==5.4.2 dcm2niix==1.0.20250506
cp "$here/ct_series.py" "$folder"
cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import SimpleITK as sitk
from ct_series import SIZE, write_slice

print("pydicom", pydicom.__version__, "SimpleITK", sitk.Version_VersionString())
print(subprocess.run(["venv/bin/dcm2niix", "-v"], capture_output=True, text=True).stdout)


def read_by_all(name, shift, **tags):
    """The values in HU that each reader finds in slices of air and 40 HU."""
    Path(name).mkdir()
    stored = np.full((SIZE, SIZE), (40 + 1024) << shift, "<u2")
    stored[:5] = (-1000 + 1024) << shift
    for index in range(6):
        write_slice(name, 40, index, PixelData=stored.tobytes(), **tags)
    first = str(Path(name) / "001.dcm")
    subprocess.run(["venv/bin/dcm2niix", "-f", name, "-o", ".", "-z", "n", name],
                   check=True, capture_output=True)  # fmt: skip
    found = {
        "pydicom": pydicom.dcmread(first).pixel_array.astype(int) - 1024,
        "ITK": sitk.GetArrayFromImage(sitk.ReadImage(first)),
        "dcm2niix": nib.load(f"{name}.nii").get_fdata(),
    }
    values = {reader: sorted(set(map(int, np.ravel(hu)))) for reader, hu in found.items()}
    print(name, values)
    return list(values.values())


assert read_by_all("lower_bits", 0, BitsStored=12, HighBit=11) == [[-1000, 40]] * 3
upper = read_by_all("upper_bits", 4, BitsStored=12, HighBit=15)
assert upper == [[-640, -384]] * 3, "High Bit is read, or such pixels are refused, now"
PYTHON
