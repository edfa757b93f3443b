#!/usr/bin/env bash
# One would guess: the description of a TPU v4 slice lists the devices that jax shows on
# one, a chip each (its two cores work as one there), as those of v5p do.
# What happens: v4:2x2x1 has eight devices, half a chip each, unless the description is
# asked for with chip_config_name="megacore"; v5p:2x2x1 has four either way.
# Why it matters: a program compiled ahead of time is for half the memory and twice the
# devices of what will run, and a batch that fits it does not fit the slice.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    jax==0.10.2 jaxlib==0.10.2 libtpu==0.0.42.1
cd "$folder"
export JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 ALLOW_MULTIPLE_LIBTPU_LOAD=1
venv/bin/python - 2>noise.txt <<'PYTHON' || { tail -3 noise.txt; exit 1; }
import jax
from jax.experimental import topologies

print("jax", jax.__version__, "libtpu 0.0.42.1")
found = {}
for name in ("v4:2x2x1", "v5p:2x2x1"):
    for options in ({}, {"chip_config_name": "megacore"}):
        devices = topologies.get_topology_desc(
            platform="tpu", topology_name=name, **options
        ).devices
        found[name, bool(options)] = len(devices)
        print(name, options, len(devices), devices[0].device_kind)
assert found == {
    ("v4:2x2x1", False): 8,
    ("v4:2x2x1", True): 4,
    ("v5p:2x2x1", False): 4,
    ("v5p:2x2x1", True): 4,
}
PYTHON
