#!/usr/bin/env bash
# One would guess: a dataset that repeats for ever can be put into batches of any size, of
# one as well as of two.
# What happens: its length is sys.maxsize, which .batch(1) rounds up to one more than len()
# may give: OverflowError. drop_remainder=True, which changes nothing there, works.
# Why it matters: a batch of one on each device is what large volumes leave room for.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    grain==0.2.18
cd "$folder"
venv/bin/python - <<'PYTHON'
import sys
from importlib.metadata import version

import grain

print("grain", version("grain"))
endless = grain.MapDataset.source([1, 2, 3]).repeat()
assert len(endless) == sys.maxsize
assert endless.batch(2)[0].tolist() == [1, 2]
assert endless.batch(1, drop_remainder=True)[0].tolist() == [1]
try:
    print("length in batches of one:", len(endless.batch(1)))
except OverflowError as error:
    print("batches of one: OverflowError:", error)
else:
    sys.exit("batches of one work")
PYTHON
