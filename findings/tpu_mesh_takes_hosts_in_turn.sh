#!/usr/bin/env bash
# One would guess: jax.make_mesh with one axis lays the devices of a TPU slice out host by
# host, so that host p of n reads the p-th part of a batch, and
# make_array_from_process_local_data puts it there.
# What happens: make_mesh follows the wires of the slice, and along the axis the devices of
# several hosts take turns, in each of six usual slices. What a host has read is put into
# its own rows, in order, which lie all over the batch. Nothing fails: each case is there
# once, in another row than the one that it was read for.
# Why it matters: where a last batch is filled up at its end and the filling is cut off by
# its rows, cases are lost and fillings are counted, without a word.
# Laid out for TPUs that are not there; no chip is asked.
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
from jax.sharding import NamedSharding, PartitionSpec

print("jax", jax.__version__, "libtpu 0.0.42.1; host of each device along a mesh's axis")
turns = {}
for name in ("v5e:4x4", "v5e:8x8", "v6e:4x4", "v5p:2x2x2", "v5p:2x2x4", "v5p:4x4x4"):
    devices = topologies.get_topology_desc(platform="tpu", topology_name=name).devices
    mesh = jax.make_mesh((len(devices),), ("data",), devices=devices)
    rows = NamedSharding(mesh, PartitionSpec("data"))
    places = rows.devices_indices_map((len(devices),))
    own = [places[each][0].start or 0 for each in devices if each.process_index == 0]
    turns[name] = sorted(own) != [*range(len(own))]
    hosts = [device.process_index for device in mesh.devices]
    print(f"{name}:", *hosts[:24], "..." * (len(hosts) > 24))
    print("    rows of a batch that host 0 has:", *sorted(own))
    listed = [device.process_index for device in devices]
    print("    the slice's own list is host by host:", listed == sorted(listed))
print("hosts take turns:", turns)
assert all(turns.values())
PYTHON
