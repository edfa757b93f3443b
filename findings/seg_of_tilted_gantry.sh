#!/usr/bin/env bash
# One would guess: dcmqi, on which 3D Slicer's reader of DICOM segmentations is built, puts
# each frame where its ImagePositionPatient says, or refuses frames that it cannot stack.
# What happens: of a tilted gantry it takes a frame's height and drops the rest of its
# position, so that each slice slips by the tilt, 1.5 mm at 18 degrees and 5 mm a slice,
# more the higher it lies. Tilted the other way no image is written at all. Its exit status
# is 0 both times. On even, upright slices every voxel is in place.
# Why it matters: head CT is often taken with a tilted gantry; laid over the scan the lesion
# lies beside its place, and a script sees no failure.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    highdicom==0.28.2 pydicom==3.0.2 SimpleITK==2.5.7 numpy==2.3.5 dcmqi==1.5.7
cp "$here/ct_series.py" "$folder"
cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
import math
import subprocess
from pathlib import Path

import highdicom as hd
import numpy as np
import SimpleITK as sitk
from ct_series import write_segmentation, write_slice

print("highdicom", hd.__version__)


def read_segmentation(name, tilt_deg):
    """How far dcmqi puts the highest marked slice from its place (mm), None: nowhere."""
    Path(name).mkdir()
    tilt = math.radians(tilt_deg)
    down = [0, round(math.cos(tilt), 9), round(math.sin(tilt), 9)]
    for index in range(5):
        place = {"ImagePositionPatient": [-80, -80, 5 * index]}
        write_slice(name, 30, index, ImageOrientationPatient=[1, 0, 0, *down], **place)
    write_segmentation(name, 5)
    made = ["--inputDICOM", f"{name}.dcm", "--outputDirectory", name, "-t", "nrrd"]
    done = subprocess.run(
        ["venv/bin/segimage2itkimage", *made], capture_output=True, text=True
    )
    print(f"{name}: exit status {done.returncode}")
    print(*(x for x in (done.stdout + done.stderr).splitlines() if "ERROR" in x))
    assert done.returncode == 0, "it says that it failed now"
    images = list(Path(name).glob("*.nrrd"))
    if not images:
        return None
    image = sitk.ReadImage(images[0])
    z, row, column = np.argwhere(sitk.GetArrayFromImage(image))[-1]
    found = np.array(image.TransformIndexToPhysicalPoint([int(column), int(row), int(z)]))
    true = np.array([-80, -80, 15]) + 2.5 * 29 * (np.array([1, 0, 0]) + down)
    print(f"last marked voxel lies {found - true} mm beside its place")
    return float(np.linalg.norm(found - true))


assert read_segmentation("upright", 0) < 0.01
assert read_segmentation("tilted", 18) > 4, "it is in its place now"
assert read_segmentation("other_way", -18) is None, "it writes an image now"
PYTHON
