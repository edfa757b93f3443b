#!/usr/bin/env bash
# One would guess: tensorboardX, chosen to write TensorBoard's files without PyTorch or
# TensorFlow, imports neither.
# What happens: `import tensorboardX` imports PyTorch wherever that is installed: the
# import takes several times as long and some 200 MB more stay in use, whether or not
# anything of PyTorch is logged.
# Why it matters: a jax program that logs by it holds PyTorch in every process, in its
# measured memory and its start, as soon as someone installs both, as for a comparison.
set -euo pipefail
python3 -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' ||
    { echo "Python 3.11 is needed"; exit 1; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    tensorboardX==2.6.5 numpy==2.3.5
cd "$folder"
cat > measure.py <<'PYTHON'
import sys
import time
from pathlib import Path


def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(dict(line.split(":", 1) for line in lines)["VmRSS"].split()[0]) / 1000


before, start = resident(), time.perf_counter()
import tensorboardX

seconds, megabytes = time.perf_counter() - start, resident() - before
there = "torch" in sys.modules
print(
    f"tensorboardX {tensorboardX.__version__}: torch imported {there}, "
    f"{seconds:.2f} s, {megabytes:.0f} MB"
)
assert there == (sys.argv[1] == "with"), "PyTorch is left alone now"
assert not there or megabytes > 120
PYTHON
venv/bin/python measure.py without
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0
for _ in 1 2; do venv/bin/python measure.py with; done
