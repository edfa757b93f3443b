#!/usr/bin/env bash
# One would guess: of a lesion that is missed whole, MONAI's HausdorffDistanceMetric says
# with percentile=95 what it says without: that the distance is infinite, so that a mean
# over cases cannot hide it.
# What happens: the largest distance is inf, the 95th percentile NaN, and aggregate() leaves
# NaN out: the mean HD95 is that of the found lesions alone. The same holds of marks in a
# scan without lesion. The average surface distance is inf, the surface Dice 0.
# Why it matters: HD95 is what papers on stroke report beside Dice. A network that is silent
# on hard cases scores better for it, and two networks are compared over different cases;
# get_not_nans=True tells how many were left.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.13.0 monai==1.6.1 numpy==2.3.5 scipy==1.16.3
cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
import math

import monai
import torch
from monai.metrics import (
    HausdorffDistanceMetric,
    SurfaceDiceMetric,
    SurfaceDistanceMetric,
)

print("monai", monai.__version__, "torch", torch.__version__)


def lesion(column):
    mask = torch.zeros(1, 1, 16, 32, 32)
    mask[..., 4:8, 8:12, column : column + 4] = 1
    return mask


nothing = torch.zeros(1, 1, 16, 32, 32)
found, missed = (lesion(9), lesion(8)), (nothing, lesion(8))
false = (lesion(8), nothing)


def of(metric, *cases):
    """The metric of each case, its mean, and how many cases that is of."""
    each = [metric(prediction, label).item() for prediction, label in cases]
    mean, count = metric.aggregate()
    return each, mean.item(), int(count.item())


def shown(name, metric):
    answers = [of(metric(), found, other) for other in (missed, false)]
    for words, (each, mean, count) in zip(("missed", "false"), answers):
        print(f"{name}: found {each[0]:.3f}, {words} {each[1]}; mean {mean} of {count}")
    return answers


largest = shown("largest distance", lambda: HausdorffDistanceMetric(get_not_nans=True))
percentile = shown(
    "95th percentile",
    lambda: HausdorffDistanceMetric(percentile=95, get_not_nans=True),
)
average = shown(
    "average surface distance",
    lambda: SurfaceDistanceMetric(symmetric=True, get_not_nans=True),
)
overlap = shown("surface Dice", lambda: SurfaceDiceMetric([1.0], get_not_nans=True))

for each, mean, count in largest + average:
    assert each[1] == mean == math.inf and count == 2
for each, mean, count in percentile:
    assert math.isnan(each[1]) and mean == each[0] == 1 and count == 1
for each, mean, count in overlap:
    assert each[1] == 0 and mean == 0.5 and count == 2
print("the mean HD95 of a found and a missed lesion is that of the found one")
PYTHON
