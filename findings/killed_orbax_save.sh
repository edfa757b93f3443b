#!/usr/bin/env bash
# One would guess: a CheckpointManager that keeps one checkpoint also removes what a killed
# save left, for no step has that name.
# What happens: the folder STEP.orbax-checkpoint-tmp stays, is in no list of steps, does not
# count among max_to_keep, and goes only if the very same step is saved again, or with
# cleanup_tmp_directories=True.
# Why it matters: each kill can leave a whole checkpoint on the disk, and a folder that is
# full of remains looks empty to the manager.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    orbax-checkpoint==0.12.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.3.5
cd "$folder"
JAX_PLATFORMS=cpu venv/bin/python - <<'PYTHON'
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp

KILLED = """
import os, signal
from pathlib import Path
import numpy as np
import orbax.checkpoint as ocp

manager = ocp.CheckpointManager(Path("run").absolute())
manager.save(1, args=ocp.args.StandardSave({"w": np.zeros(4)}))
manager.wait_until_finished()
manager.save(2, args=ocp.args.StandardSave({"w": np.zeros(10_000_000)}))
while not list(Path("run").glob("2.*tmp*")):
    pass
os.kill(os.getpid(), signal.SIGKILL)
"""
print("orbax-checkpoint", version("orbax-checkpoint"))
run = Path("run").absolute()
subprocess.run([sys.executable, "-c", KILLED], check=False, capture_output=True)
print("after the kill:", sorted(each.name for each in run.iterdir()))
options = ocp.CheckpointManagerOptions(max_to_keep=1)
with ocp.CheckpointManager(run, options=options) as manager:
    assert manager.all_steps() == [1]
    for step in (3, 4):
        manager.save(step, args=ocp.args.StandardSave({"w": np.zeros(4)}))
    manager.wait_until_finished()
    steps = manager.all_steps()
left = sorted(each.name for each in run.iterdir())
print("after two more saves:", left, "steps:", steps)
assert steps == [4]
assert left == ["2.orbax-checkpoint-tmp", "4"]
PYTHON
