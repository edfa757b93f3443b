#!/usr/bin/env bash
# One would guess: panoptica, which scores lesions one by one, gives two NIfTI files the
# same distances in mm on every machine: it takes their spacing from the headers.
# What happens: where SimpleITK is installed it reads the files by that, whose arrays are
# z y x and whose spacing is x y z, and pairs the two as they come. Of voxels of
# 0.5 x 0.5 x 5 mm a shift by one slice then counts 0.5 mm and one by a column 5 mm. Without SimpleITK nibabel reads them, and the distances are right. Dice and
# volumes are the same, and nothing is said.
# Why it matters: HD95 and surface distances of thick-sliced CT, as in most stroke data,
# depend on what else is installed, by a factor of ten.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/pip" install --quiet --disable-pip-version-check "$@"; }
pip panoptica==2.1.7 nibabel==5.4.2 numpy==2.2.6
cd "$folder"
cat > score.py <<'PYTHON'
import json
import sys

import nibabel
import numpy as np
from panoptica import (
    ConnectedComponentsInstanceApproximator,
    InputType,
    Metric,
    NaiveThresholdMatching,
    Panoptica_Evaluator,
)

spacing = (0.5, 0.5, 5.0)
label = np.zeros((64, 64, 16), np.uint8)
label[20:40, 20:40, 4:10] = 1
shifts = {"a slice": (1, 2), "a column": (1, 0)}
found = {}
for name, (by, axis) in shifts.items():
    for kind, mask in (("label", label), ("prediction", np.roll(label, by, axis))):
        nibabel.save(nibabel.Nifti1Image(mask, np.diag([*spacing, 1])), f"{kind}.nii.gz")
    evaluator = Panoptica_Evaluator(
        expected_input=InputType.SEMANTIC,
        instance_approximator=ConnectedComponentsInstanceApproximator(),
        instance_matcher=NaiveThresholdMatching(),
        instance_metrics=[Metric.DSC, Metric.HD],
    )
    (result,) = evaluator.evaluate("prediction.nii.gz", "label.nii.gz").values()
    found[name] = [round(float(result.sq_dsc), 3), round(float(result.sq_hd), 3)]
json.dump(found, open(sys.argv[1], "w"))
PYTHON
venv/bin/python score.py nibabel.json > log 2>&1
pip SimpleITK==2.5.4
venv/bin/python score.py simpleitk.json >> log 2>&1
venv/bin/python - <<'PYTHON'
import json
from importlib.metadata import version

one, other = (json.load(open(f"{name}.json")) for name in ("nibabel", "simpleitk"))
print(f"panoptica {version('panoptica')}, voxels of 0.5 x 0.5 x 5 mm; Dice, HD in mm")
for shift in one:
    print(f"label moved by {shift}: {one[shift]}, with SimpleITK {other[shift]}")
assert [one[shift][1] for shift in one] == [5.0, 0.5], "nibabel's distances are others"
assert [other[shift][1] for shift in one] == [0.5, 5.0], "SimpleITK's are others"
assert all(one[shift][0] == other[shift][0] for shift in one)
print("the same two files: 5 mm are told as 0.5 and 0.5 as 5 where SimpleITK is there")
PYTHON
