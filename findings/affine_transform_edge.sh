#!/usr/bin/env bash
# One would guess: resampling gives the value outside where the scan ends, at the outer edge
# of its last voxel, half a voxel beyond its centre.
# What happens: SciPy's affine_transform, mode "constant", gives it from 1e-12 of a voxel
# beyond the centre on, for order 1 and 0 alike; ITK goes on to the edge.
# Why it matters: rounding in an affine decides whether a whole border slice is there; of
# 5 mm slices 2.5 mm are lost at either end.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    scipy==1.15.3 SimpleITK==2.5.2 numpy==2.3.5
cd "$folder"
venv/bin/python - <<'PYTHON'
import numpy as np
import scipy
import SimpleITK
from scipy import ndimage

volume, outside = np.full((5, 5, 5), 10.0), -1000.0
image = SimpleITK.GetImageFromArray(volume)
print("scipy", scipy.__version__, "SimpleITK", SimpleITK.Version.VersionString())
found = {}
for shift in (0.0, 1e-12, 0.49, 0.51):
    scipys = [
        float(ndimage.affine_transform(volume, np.eye(3), (0, 0, shift), order=order,
                                       mode="constant", cval=outside)[2, 2, 4])
        for order in (0, 1)
    ]
    move = SimpleITK.TranslationTransform(3, (shift, 0.0, 0.0))
    moved = SimpleITK.Resample(image, image, move, SimpleITK.sitkLinear, outside)
    itks = float(SimpleITK.GetArrayFromImage(moved)[2, 2, 4])
    print(f"{shift} voxels beyond the last centre: SciPy {scipys}, ITK {itks}")
    found[shift] = (*scipys, itks)
assert found[0.0] == (10, 10, 10)
assert found[1e-12] == found[0.49] == (-1000, -1000, 10)
assert found[0.51] == (-1000, -1000, -1000)
PYTHON
