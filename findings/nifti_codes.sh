#!/usr/bin/env bash
# One would guess: programs that read NIfTI agree on which of qform and sform counts when a
# file has both and they differ.
# What happens: nibabel takes the sform whenever it has a code. ITK takes it only if its code
# is 1; with the codes 2, 3 and 4 it takes the qform, if that has any code.
# Why it matters: a label that is saved with one of them changed lies elsewhere in ITK-SNAP,
# Slicer and ANTs than in Python, by as much as the two differ; changing a code alone, as
# nibabel does for an affine given without a header, moves a scan.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    SimpleITK==2.5.2 nibabel==5.4.2 numpy==2.3.5
cd "$folder"
venv/bin/python - <<'PYTHON'
import nibabel as nib
import numpy as np
import SimpleITK

array = np.zeros((4, 5, 6), np.int16)
qform, sform = np.diag([2.0, 2.0, 3.0, 1.0]), np.diag([2.0, 2.0, 3.0, 1.0])
qform[:3, 3], sform[:3, 3] = (-10, -20, 5), (7, 8, 9)


def taken(origin):
    """Which of the two an origin in NIfTI's millimetres is of."""
    return {(-10, -20, 5): "qform", (7, 8, 9): "sform"}[tuple(np.rint(origin).astype(int))]


print("nibabel", nib.__version__, "SimpleITK", SimpleITK.Version.VersionString())
found = {}
for codes in ((q, s) for q in (1, 2) for s in (1, 2, 3, 4)):
    image = nib.Nifti1Image(array, None)
    image.set_qform(qform, codes[0])
    image.set_sform(sform, codes[1])
    image.to_filename("image.nii")
    itk = SimpleITK.ReadImage("image.nii").GetOrigin() * np.array([-1, -1, 1])
    found[codes] = taken(nib.load("image.nii").affine[:3, 3]), taken(itk)
    print("qform code %d, sform code %d:" % codes, "nibabel %s, ITK %s" % found[codes])
for (_, code), (nibabel, itk) in found.items():
    assert nibabel == "sform"
    assert itk == ("sform" if code == 1 else "qform")
PYTHON
