#!/usr/bin/env bash
# One would guess: a NIfTI whose quaternion was rounded to five digits, by a tool that
# keeps headers as text, is read as before: the rotation is off by 0.001 degrees.
# What happens: for half a turn (patient prone, or x and y exchanged) b^2 + c^2 + d^2 is
# above 1 by 9e-6, and nibabel's get_qform() raises "w2 should be positive". With an sform
# the file loads, saves and turns to RAS without a word, and only code that asks for the
# qform ends; without an sform even nibabel.load refuses it. ITK reads both.
# Why it matters: code that compares qform and sform, as one should, ends with a traceback
# on files that viewers and registrations take.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    nibabel==5.4.2 SimpleITK==2.5.7 numpy==2.3.5
cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk

print("nibabel", nib.__version__, "SimpleITK", sitk.Version_VersionString())
EXCHANGED = np.array([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0], [0, 0, 0, 1.0]])


def write(path, with_sform):
    """An image turned by half a turn, its quaternion rounded to five digits."""
    image = nib.Nifti1Image(np.zeros((8, 9, 10), np.int16), EXCHANGED)
    image.set_qform(EXCHANGED, 1)
    image.set_sform(EXCHANGED if with_sform else None, int(with_sform))
    nib.save(image, path)
    header = image.header.copy()
    for name in ("quatern_b", "quatern_c", "quatern_d"):
        header[name] = round(float(header[name]), 5)
    whole = Path(path).read_bytes()
    Path(path).write_bytes(header.binaryblock + whole[len(header.binaryblock) :])


def told_by(call):
    try:
        call()
    except ValueError as error:
        return str(error)
    return "read"


for with_sform in (True, False):
    write("turned.nii", with_sform)
    load = told_by(lambda: nib.load("turned.nii"))
    qform = told_by(lambda: nib.load("turned.nii").get_qform())
    itk = np.reshape(sitk.ReadImage("turned.nii").GetDirection(), (3, 3))
    print(f"sform {with_sform}: load: {load}; get_qform: {qform}; ITK: {itk.tolist()}")
    assert "w2 should be positive" in qform, "get_qform reads it now"
    assert (load == "read") is with_sform
    assert np.allclose(np.diag([-1, -1, 1]) @ EXCHANGED[:3, :3], itk, atol=1e-4)
PYTHON
