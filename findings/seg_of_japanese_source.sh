#!/usr/bin/env bash
# One would guess: a DICOM segmentation can be made of every valid CT series, for nothing
# of the source's text but a few attributes of patient and study goes into it.
# What happens: highdicom takes over the source's Specific Character Set and refuses
# "\ISO 2022 IR 87", the form that DICOM itself gives for Japanese (its first value empty,
# which stands for ASCII), with "'' is not a valid SpecificCharacterSetValues"; Korean
# ("\ISO 2022 IR 149") in the same way. With "ISO 2022 IR 6" written out it works.
# Why it matters: a pipeline that was tried on European scans loses every result in Japan
# and Korea, after the computing. Decode the source (pydicom's `decode`) and declare UTF-8
# (ISO_IR 192) before it is handed over.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    highdicom==0.28.2 pydicom==3.0.2 numpy==2.3.5
cp "$here/ct_series.py" "$folder"
cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
from pathlib import Path

import highdicom as hd
from ct_series import write_segmentation, write_slice

print("highdicom", hd.__version__)


def outcome(name, *sets):
    """What comes of a segmentation of a series with these character sets."""
    Path(name).mkdir()
    for index in range(5):
        write_slice(name, 30, index, SpecificCharacterSet=list(sets))
    try:
        write_segmentation(name, 5)
    except ValueError as error:
        told = str(error)
    else:
        told = "written"
    print(f"{name} {sets}: {told}")
    return told


assert outcome("western", "ISO_IR 100") == "written"
assert outcome("utf-8", "ISO_IR 192") == "written"
assert outcome("japanese_written_out", "ISO 2022 IR 6", "ISO 2022 IR 87") == "written"
for name, number in {"japanese": 87, "korean": 149}.items():
    told = outcome(name, "", f"ISO 2022 IR {number}")
    assert "not a valid SpecificCharacterSetValues" in told, "it is taken now"
PYTHON
