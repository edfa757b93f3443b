#!/usr/bin/env bash
# One would guess: direction cosines of a series that differ by 0.0002, which moves the far
# corner of a head's slice by 0.05 mm, are one orientation, and the series one volume.
# What happens: dcm2niix takes them for two stacks. Where they alternate it writes two files,
# each of every other slice, 10 mm apart instead of 5, and exits with 0; one line speaks of
# varied orientation. At 0.0001 it writes one file.
# Why it matters: each half looks like a whole head of thick slices. Who takes the first file
# segments half of the data, and volumes stay right, so that nothing shows it.
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
from pathlib import Path

from ct_series import write_slice

for turn in (0.0001, 0.0002):
    Path(f"series/{turn}").mkdir()
    for index in range(12):
        small = turn if index % 2 else 0.0
        cosines = [1, small, 0, -small, 1, 0]
        write_slice(f"series/{turn}", 40, index, ImageOrientationPatient=cosines)
PYTHON
for turn in 0.0001 0.0002; do
    venv/bin/dcm2niix -z n -f "$turn" -o nifti "series/$turn"
done | tee said.txt
venv/bin/python - <<'PYTHON'
from pathlib import Path

import nibabel as nib

found = {}
for path in sorted(Path("nifti").glob("*.nii")):
    image = nib.load(path)
    found.setdefault(path.name[:6], []).append(image.shape)
    print(path.name, image.shape, "slices", image.header.get_zooms()[2], "mm apart")
assert found == {"0.0001": [(64, 64, 12)], "0.0002": [(64, 64, 6)] * 2}
said = Path("said.txt").read_text()
assert "orientation varies" in said
assert "warning" not in said.lower()
PYTHON
