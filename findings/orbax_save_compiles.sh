#!/usr/bin/env bash
# One would guess: saving arrays that each of several devices holds whole copies them to
# the host and writes them; nothing is compiled.
# What happens: Orbax lets the devices share the work of writing ("replica parallel"), for
# which it slices each array, and every slice is a program that XLA compiles: the first
# save of many small arrays compiles one for each shape.
# Why it matters: seconds of compilation in the middle of a training, at its first
# checkpoint, and again in each process, for arrays of a few kilobytes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    jax==0.10.2 jaxlib==0.10.2 orbax-checkpoint==0.12.8
cd "$folder"
export JAX_PLATFORMS=cpu XLA_FLAGS=--xla_force_host_platform_device_count=2
venv/bin/python - <<'PYTHON'
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

compiled = []
jax.monitoring.register_event_duration_secs_listener(
    lambda name, seconds, **_: compiled.append(seconds)
    if name.endswith("backend_compile_duration")
    else None
)
mesh = Mesh(np.array(jax.devices()), ("data",))
everywhere = NamedSharding(mesh, PartitionSpec())
arrays = {
    f"kernel_{n}": jax.device_put(np.ones((3, 3, 2 * n, 8), np.float32), everywhere)
    for n in range(1, 21)
}
print("jax", jax.__version__, "orbax-checkpoint", ocp.__version__)


def save(folder, replica_parallel):
    registry = ocp.type_handlers.create_type_handler_registry(
        (
            jax.Array,
            ocp.type_handlers.ArrayHandler(use_replica_parallel=replica_parallel),
        )
    )
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
    before, start = len(compiled), time.perf_counter()
    with ocp.Checkpointer(handler) as checkpointer:
        checkpointer.save(Path(folder).absolute(), args=ocp.args.PyTreeSave(arrays))
    return len(compiled) - before, time.perf_counter() - start


def default(folder):
    before, start = len(compiled), time.perf_counter()
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        checkpointer.save(Path(folder).absolute(), args=ocp.args.StandardSave(arrays))
    return len(compiled) - before, time.perf_counter() - start


found = {
    "by default": default("default"),
    "use_replica_parallel=False": save("whole", False),
}
for how, (programs, seconds) in found.items():
    print(f"{how}: {programs} programs compiled for 20 arrays, {seconds:.2f} s")
assert found["by default"][0] >= 20, "the default compiles nothing now"
assert found["use_replica_parallel=False"][0] == 0, "it compiles even so"
PYTHON
