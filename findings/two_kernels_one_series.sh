#!/usr/bin/env bash
# One would guess: where a series holds each slice twice, by a soft and by a bone kernel, as
# some archives send it, dcm2niix writes a file for each kernel, or says that it mixes them:
# the kernel is one of the things that its JSON sidecar names.
# What happens: it writes one file of two time points and reports no kernel but the one of
# the first slice.
# Why it matters: a reader of the first time point gets the image of either kernel, by the
# order of instance numbers; one that takes the mean of time points gets a mixture.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    dcm2niix==1.0.20260724 pydicom==3.0.2 nibabel==5.4.2 numpy==2.3.5
cd "$folder"
mkdir series nifti
PYTHONPATH=$here venv/bin/python - <<'PYTHON'
from ct_series import write_slice

for index in range(12):
    write_slice("series", 40, index)
    write_slice("series", 900, index, 101 + index, ConvolutionKernel="H60s")
PYTHON
venv/bin/dcm2niix -z n -f %s -o nifti series | tee said.txt
venv/bin/python - <<'PYTHON'
import json
from pathlib import Path

import nibabel as nib
import numpy as np

files = sorted(Path("nifti").glob("*.nii"))
print(*(path.name for path in files))
(path,) = files
image = nib.load(path)
means = [float(np.mean(image.dataobj[..., time])) for time in range(image.shape[-1])]
kernel = json.loads(path.with_suffix(".json").read_text()).get("ConvolutionKernel")
print(f"shape {image.shape}, mean of each time point {means} HU, kernel named: {kernel}")
assert image.shape == (64, 64, 12, 2)
assert sorted(means) == [40, 900]
assert kernel in {"H30s", "H60s"}
assert "kernel" not in Path("said.txt").read_text().lower()
PYTHON
