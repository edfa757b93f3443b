#!/usr/bin/env bash
# One would guess: MONAI's GeneralizedDiceLoss charges what is found in a scan without
# lesion, as DiceLoss does, which is 1 there; only its slope might be small.
# What happens: of one foreground class (a sigmoid, or a softmax without background) it is
# 0, the value of a perfect answer, with a slope of 0, even where half of the scan is called
# lesion; DiceLoss is 1, with next to no slope. With the background as a class, or in a batch
# that holds a lesion too (batch=True), the same answer is charged.
# Why it matters: networks for stroke learn from healthy heads, too. Nothing teaches them
# silence there, the loss of the epoch looks better the more healthy heads it has, and so
# does a validation that is chosen by the loss.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.13.0 monai==1.6.1 numpy==2.3.5
cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
import monai
import torch
from monai.losses import DiceLoss, GeneralizedDiceLoss

print("monai", monai.__version__, "torch", torch.__version__)

lesion = torch.zeros(1, 1, 16, 64, 64)
lesion[..., 6:10, 20:30, 20:30] = 1
nothing = torch.zeros_like(lesion)


def charged(loss, label, channels):
    """The loss of calling every voxel lesion with one half, and its summed slope."""
    logits = torch.zeros(len(label), channels, *label.shape[2:], requires_grad=True)
    value = loss(logits, label)
    value.backward()
    return value.item(), logits.grad.abs().sum().item()


two = {"softmax": True, "to_onehot_y": True}
alone = GeneralizedDiceLoss(sigmoid=True)
rows = {
    "sigmoid, lesion": charged(alone, lesion, 1),
    "sigmoid, no lesion": charged(alone, nothing, 1),
    "softmax without background, no lesion": charged(
        GeneralizedDiceLoss(**two, include_background=False), nothing, 2
    ),
    "softmax with background, no lesion": charged(
        GeneralizedDiceLoss(**two), nothing, 2
    ),
    "DiceLoss, no lesion": charged(DiceLoss(sigmoid=True), nothing, 1),
}
both = torch.cat([lesion, nothing])
for name, batch in (("case by case", False), ("as one batch", True)):
    logits = torch.zeros(both.shape, requires_grad=True)
    GeneralizedDiceLoss(sigmoid=True, batch=batch)(logits, both).backward()
    rows[f"slope in the healthy one of two, {name}"] = (
        0.0,
        logits.grad[1].abs().sum().item(),
    )
for name, (value, slope) in rows.items():
    print(f"{name}: loss {value:.4f}, slope {slope:.2g}")

assert rows["sigmoid, lesion"][0] > 0.95
assert rows["sigmoid, no lesion"] == (0.0, 0.0)
assert rows["softmax without background, no lesion"] == (0.0, 0.0)
assert rows["softmax with background, no lesion"][0] > 0.1
assert rows["softmax with background, no lesion"][1] > 0.01
assert rows["DiceLoss, no lesion"][0] > 0.999
assert rows["DiceLoss, no lesion"][1] < 1e-6
assert rows["slope in the healthy one of two, case by case"][1] == 0
assert rows["slope in the healthy one of two, as one batch"][1] > 1e-3
print("As described.")
PYTHON
