#!/usr/bin/env bash
# One would guess: nnU-Net's normalisation of CT clips what no tissue of interest has, air,
# bone and metal, and leaves the brain as it is.
# What happens: it clips at percentiles 0.5 and 99.5 of the labelled voxels alone. Where the
# only label is an infarct, darker than all around it, the upper one lies below healthy
# grey matter, two thirds of which become one and the same value in heads of ordinary
# contrast; of white matter under a hundredth.
# Why it matters: an infarct shows by what the tissue beside it and on the other side has
# more. nnU-Net as a baseline for stroke starts with part of that cut off.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.13.0 torchvision==0.28.0 nnunetv2==2.8.1 nibabel==5.4.2
cd "$folder"
export nnUNet_raw=$folder/raw nnUNet_preprocessed=$folder/ready nnUNet_results=$folder/runs
venv/bin/python - <<'PYTHON'
import json
from pathlib import Path

import nibabel
import numpy as np

folder = Path("raw/Dataset501_Heads")
for name in ("imagesTr", "labelsTr"):
    (folder / name).mkdir(parents=True)
shape, affine = (64, 64, 16), np.diag([3.0, 3.0, 9.0, 1.0])
x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
radius = np.sqrt((x / 0.85) ** 2 + (y / 0.85) ** 2 + (z / 1.2) ** 2)
random = np.random.default_rng(0)
for number in range(6):
    hu = np.full(shape, -1000.0)
    brain, ventricle = radius < 0.9, (abs(x) < 0.1) & (abs(y) < 0.3)
    tissue = np.select([ventricle, radius > 0.7], [8.0, 38.0], 29.0)
    centre = random.uniform(-0.35, 0.35, 3)
    centre[0] = 0.45 if number % 2 else -0.45
    away = sum(
        ((axis - c) / size) ** 2
        for axis, c, size in zip((x, y, z), centre, (0.25, 0.3, 0.5), strict=True)
    )
    infarct = brain & ~ventricle & (away < 1)
    hu[radius < 1] = 900.0
    hu[brain] = (tissue - 8.0 * infarct + random.normal(0, 3, shape))[brain]
    name = f"head_{number}"
    for place, values in (
        (f"imagesTr/{name}_0000", hu.astype(np.float32)),
        (f"labelsTr/{name}", infarct.astype(np.uint8)),
    ):
        nibabel.save(nibabel.Nifti1Image(values, affine), folder / f"{place}.nii.gz")
    if number == 0:
        healthy = brain & ~infarct & ~ventricle
        np.savez("head.npz", hu=hu, grey=healthy & (tissue == 38), infarct=infarct,
                 white=healthy & (tissue == 29))
(folder / "dataset.json").write_text(json.dumps({
    "channel_names": {"0": "CT"}, "labels": {"background": 0, "infarct": 1},
    "numTraining": 6, "file_ending": ".nii.gz",
}))
PYTHON
venv/bin/nnUNetv2_extract_fingerprint -d 501 -np 1 > log 2>&1
venv/bin/nnUNetv2_plan_experiment -d 501 >> log 2>&1
venv/bin/python -W ignore - <<'PYTHON'
import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
from nnunetv2.preprocessing.normalization.default_normalization_schemes import (
    CTNormalization,
)

print("nnunetv2", version("nnunetv2"))
plans = json.loads(Path("ready/Dataset501_Heads/nnUNetPlans.json").read_text())
scheme = plans["configurations"]["3d_fullres"]["normalization_schemes"]
found = plans["foreground_intensity_properties_per_channel"]["0"]
lowest, highest = found["percentile_00_5"], found["percentile_99_5"]
print(f"{scheme[0]}: clipped to {lowest:.1f} to {highest:.1f} HU")
head = np.load("head.npz")
ready = CTNormalization(False, intensityproperties=found).run(
    head["hu"][None].astype(np.float32)
)[0]
clipped = {
    tissue: float((ready[head[tissue]] == ready.max()).mean())
    for tissue in ("grey", "white", "infarct")
}
for tissue, share in clipped.items():
    print(f"{tissue}: {head['hu'][head[tissue]].mean():.1f} HU, {share:.1%} clipped above")
assert scheme == ["CTNormalization"]
assert highest < 38
assert clipped["grey"] > 0.5
assert clipped["white"] < 0.02
print("As described.")
PYTHON
