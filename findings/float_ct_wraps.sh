#!/usr/bin/env bash
# One would guess: SimpleITK, told to write CT numbers with fractions as DICOM with a rescale
# slope of 0.001 and 16 bits, as its documentation shows for float arrays, refuses or clips
# what 16 bits of 0.001 cannot hold.
# What happens: all above 32.767 HU wraps round, without a word: grey matter of 37 HU is
# written as -28.536, blood of 60 as -5.536; white matter and CSF are right. With a slope of
# 0.01 the brain is right and bone above 327 HU wraps. Nothing fails when the file is read.
# Why it matters: what is written so looks like a CT with odd dark spots where the brain is
# brightest, to people and to networks. The header alone tells: the type times the slope.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    SimpleITK==2.5.7 pydicom==3.0.2 numpy==2.3.5
cd "$folder"
venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import numpy as np
import SimpleITK
from pydicom import dcmread
from pydicom.pixels import apply_rescale

print("SimpleITK", version("SimpleITK"), "pydicom", version("pydicom"))
HU = [-1000, -30, 8, 29, 32, 37, 60, 300, 1000]


def written(slope):
    """What a file holds of these CT numbers, by SimpleITK and by pydicom."""
    image = SimpleITK.GetImageFromArray(np.tile(np.float32(HU), (9, 1)))
    elements = {
        "0008|0060": "CT",
        "0028|1053": slope,
        "0028|1052": "0",
        "0028|0100": "16",
        "0028|0101": "16",
        "0028|0102": "15",
        "0028|0103": "1",
    }
    for tag, value in elements.items():
        image.SetMetaData(tag, value)
    SimpleITK.WriteImage(image, "slice.dcm")
    read = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage("slice.dcm"))
    header = dcmread("slice.dcm")
    other = apply_rescale(header.pixel_array, header)
    np.testing.assert_allclose(read[0, 0], other[0], atol=1e-3)
    return read[0, 0]


print("HU     ", HU)
for slope in ("0.001", "0.01", "1"):
    found = written(slope)
    print(f"{slope:7}", [round(float(value), 3) for value in found])
    ends = 2**15 * float(slope)
    wrapped = (np.array(HU) + ends) % (2 * ends) - ends
    np.testing.assert_allclose(found, wrapped, atol=float(slope))
    lost = np.abs(found - HU) > 1
    assert list(lost) == [not -ends <= hu < ends for hu in HU]
    assert lost.any() == (slope != "1")
PYTHON
