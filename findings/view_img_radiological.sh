#!/usr/bin/env bash
# One would guess: nilearn's view_img(radiological=True) opens at cut_coords and shows the
# millimetres of the place under the cross, as it does without it.
# What happens: the picture is mirrored, but neither the slice it opens at nor the affine of
# the coordinates is: what the page calls x = 20 mm is the voxel at x = -20 mm.
# Why it matters: the sagittal panel is of the other hemisphere and clicks read the wrong
# side; nothing on the page shows it on a head that is nearly symmetric.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    nilearn==0.14.1 nibabel==5.4.2 numpy==2.3.5 matplotlib==3.10.8
cd "$folder"
venv/bin/python - <<'PYTHON'
import base64
import io
import json
import re

import nibabel as nib
import nilearn
import numpy as np
from matplotlib.image import imread
from nilearn.plotting import view_img

affine = np.diag([2.0, 2.0, 2.0, 1.0])
affine[:3, 3] = -40, -50, -30
volume = np.zeros((41, 51, 31), np.float32)
volume[30, 25, 15] = 1  # one bright voxel, at x = 20 mm
image = nib.Nifti1Image(volume, affine)


def page(radiological):
    """Slice of the page's pictures with the voxel, slice it opens at, its affine."""
    html = view_img(image, bg_img=image, cut_coords=(20, 0, 0), threshold=None,
                    symmetric_cmap=False, radiological=radiological).html
    start = json.loads(re.search(r'"numSlice": (\{.*?\})', html)[1])["X"]
    grid = json.loads(re.search(r'"affine": (\[\[.*?\]\])', html)[1])
    for content in re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", html):
        sprite = imread(io.BytesIO(base64.b64decode(content)))[..., :3].sum(axis=-1)
        bright = abs(sprite - np.median(sprite))
        row, column = np.unravel_index(bright.argmax(), bright.shape)
        if len(sprite) >= 31 and row + column:
            across = sprite.shape[1] // 51
            return row // 31 * across + column // 51, start, grid
    raise AssertionError("the voxel is in no picture")


print("nilearn", nilearn.__version__)
found = {radiological: page(radiological) for radiological in (False, True)}
for radiological, (bright, start, grid) in found.items():
    print(f"radiological={radiological}: the voxel is in slice {bright}, the page "
          f"opens at {start}, affine {grid[0]}")
assert found[False][0] == found[False][1] == found[True][1] == 30
assert found[True][0] == 10
assert found[True][2] == found[False][2]
PYTHON
