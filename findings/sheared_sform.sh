#!/usr/bin/env bash
# One would guess: a scan whose sform leans, as a CT with a tilted gantry has it, is either
# read with its shear or refused.
# What happens: ITK refuses it if it has no qform. With one, which can hold no shear (nibabel
# writes the nearest rotation), it opens the file without a warning and lays the slices as the
# qform has them; nibabel lays them as the sform has them.
# Why it matters: at 15 degrees the two lie 19 mm apart after 140 mm; a label drawn in one
# program is somewhere else in the other, and whether an error or that happens depends on a
# header field that neither shows.
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

array = np.zeros((8, 8, 29), np.int16)
affine = np.diag([1.0, 1.0, 5.0, 1.0])
affine[1, 2] = -5 * np.tan(np.deg2rad(15))
last = 0, 0, 28


def places(name):
    """Where nibabel and ITK lay the last slice's corner, in NIfTI's millimetres."""
    image = SimpleITK.ReadImage(name)
    itk = image.TransformIndexToPhysicalPoint(last) * np.array([-1, -1, 1])
    return (nib.load(name).affine @ [*last, 1])[:3], itk


print("nibabel", nib.__version__, "SimpleITK", SimpleITK.Version.VersionString())
image = nib.Nifti1Image(array, affine)
image.to_filename("sform_alone.nii")
image.set_sform(affine, 1)
image.set_qform(affine, 1)
image.to_filename("both.nii")
try:
    SimpleITK.ReadImage("sform_alone.nii")
except RuntimeError as error:
    print("sform alone:", str(error).splitlines()[-1])
    assert "orthonormal" in str(error)
else:
    raise SystemExit("ITK reads a sform that leans")
one, other = places("both.nii")
print("both: nibabel", one.round(1), "ITK", other.round(1))
assert np.linalg.norm(one - other) > 15
PYTHON
