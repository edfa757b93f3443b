#!/usr/bin/env bash
# One would guess: a label of whole numbers that is saved with the header of its scan, as
# Nifti1Image(label, affine, scan.header), comes back as whole numbers.
# What happens: floats are squeezed into the scan's int16 by a slope, and 3 comes back as
# 2.9999999993, unless it is rounded or the label was an integer array.
# Why it matters: label == 3 finds no voxel, and int(label) makes a 2 of it: another class.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    nibabel==5.4.2 numpy==2.3.5
cd "$folder"
venv/bin/python - <<'PYTHON'
import nibabel as nib
import numpy as np

scan = nib.Nifti1Image(np.zeros((3, 4, 5), np.int16), np.eye(4))
label = np.zeros((3, 4, 5))
label[0], label[1] = 1, 3
print("nibabel", nib.__version__)
for array in (label, label.astype(np.uint8)):
    nib.Nifti1Image(array, np.eye(4), scan.header).to_filename("label.nii")
    back = np.unique(nib.load("label.nii").get_fdata())
    print(array.dtype, "comes back as", back.tolist(), "as integers", back.astype(int))
    if array.dtype == np.uint8:
        assert back.tolist() == [0, 1, 3]
    else:
        assert back.astype(int).tolist() == [0, 0, 2]
PYTHON
