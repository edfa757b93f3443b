#!/usr/bin/env bash
# One would guess: a CheckpointManager with best_fn keeps the best checkpoints beside the
# latest, which it would resume from: `latest_step()` is what its users restore.
# What happens: the best alone are kept. A checkpoint that is not among them is written,
# `save` returns True, and it is removed at once; `latest_step()` then names an older one.
# With max_to_keep=1 that is the best step itself.
# Why it matters: a training on a plateau that is killed, or preempted as on a spot TPU,
# goes back to its best step each time, and never passes it if it is killed often enough.
# Preservation policies say what is meant: LatestN and BestN, either one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    orbax-checkpoint==0.12.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.3.5
cd "$folder"
JAX_PLATFORMS=cpu venv/bin/python -W ignore - <<'PYTHON'
from importlib.metadata import version
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy as policies

print("orbax-checkpoint", version("orbax-checkpoint"))
DICE = [0.2, 0.5, 0.6, 0.4, 0.3, 0.1]


def train(name, **options):
    """Save a step for each score; the steps that are left, and the latest."""
    chosen = ocp.CheckpointManagerOptions(
        best_fn=lambda metrics: metrics["dice"],
        enable_async_checkpointing=False,
        **options,
    )
    with ocp.CheckpointManager(Path(name).absolute(), options=chosen) as manager:
        for step, dice in enumerate(DICE):
            state = ocp.args.StandardSave({"weights": np.ones(3)})
            assert manager.save(step, args=state, metrics={"dice": dice})
        found = list(manager.all_steps()), manager.latest_step()
    print(f"{name}: steps {found[0]} are left of {len(DICE)}, the latest is {found[1]}")
    return found


assert train("max_to_keep_1", max_to_keep=1) == ([2], 2), "the latest is kept now"
assert train("max_to_keep_3", max_to_keep=3) == ([1, 2, 3], 3)
either = policies.AnyPreservationPolicy(
    [
        policies.LatestN(1),
        policies.BestN(get_metric_fn=lambda metrics: metrics["dice"], n=1),
    ]
)
assert train("latest_and_best", preservation_policy=either) == ([2, 5], 5)
PYTHON
