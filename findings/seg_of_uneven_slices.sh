#!/usr/bin/env bash
# One would guess: a DICOM segmentation of slices that lie unevenly (a head CT often has
# them) comes from ITK with an error or a warning, or at least with the size of a pixel
# and its first slice in place, as it does with even slices.
# What happens: SimpleITK reads it without a word as voxels of 1 x 1 x 1 mm, and from the
# last slice's position upwards, though its pixels are 2.5 mm and its slices go down.
# Why it matters: volumes in mL are wrong by the size of a voxel, and laid over the scan the
# mask is another size and elsewhere; nothing tells.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    highdicom==0.28.2 pydicom==3.0.2 SimpleITK==2.5.7 numpy==2.3.5
cp "$here/ct_series.py" "$folder"
cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
from pathlib import Path

import highdicom as hd
import SimpleITK as sitk
from ct_series import write_segmentation, write_slice

print("SimpleITK", sitk.Version.VersionString(), "highdicom", hd.__version__)


def read_segmentation(name, heights_mm):
    """The segmentation of a block, on slices at these heights, as SimpleITK reads it."""
    Path(name).mkdir()
    for index, height in enumerate(heights_mm):
        write_slice(name, 30, index, ImagePositionPatient=[-80, -80, height])
    write_segmentation(name, len(heights_mm))
    image = sitk.ReadImage(f"{name}.dcm")
    print(
        f"slices at {heights_mm} mm: spacing {image.GetSpacing()}, origin "
        f"{image.GetOrigin()}, slices along {image.GetDirection()[2::3]}"
    )
    return image


even = read_segmentation("even", [0, 5, 10, 15, 20])
uneven = read_segmentation("uneven", [0, 5, 10, 17, 24])
assert even.GetSpacing() == (2.5, 2.5, 5.0)
assert uneven.GetSpacing() == (1.0, 1.0, 1.0), "it has another spacing now"
assert uneven.GetOrigin()[2] == 24 and uneven.GetDirection()[8] == 1
PYTHON
