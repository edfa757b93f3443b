#!/usr/bin/env bash
# One would guess: XLA for a GPU leaves channels-last 3-D convolutions in bfloat16 as they
# are written, as it does with 2-D ones; tensor cores want channels last.
# What happens: every 3-D one is turned channels first, its maps are transposed before and
# after; 2-D ones stay. The compiler option xla_gpu_force_conv_nhwc keeps both.
# Why it matters: a 3-D U-Net spends its memory bandwidth on transposes, and nothing says so.
# Compiled for an H200 that is not there: no card and no driver is needed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    jax==0.10.2 jaxlib==0.10.2 jax-cuda13-plugin==0.10.2 jax-cuda13-pjrt==0.10.2
cd "$folder"
export JAX_PLATFORMS=cpu CUDA_VISIBLE_DEVICES=-1 XLA_FLAGS=--xla_gpu_autotune_level=0
venv/bin/python - <<'PYTHON'
import re

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax._src import xla_bridge
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

HOPPER = """gpu_device_info { threads_per_block_limit: 1024 threads_per_warp: 32
threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
registers_per_core_limit: 65536 registers_per_block_limit: 65536
shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448
shared_memory_per_core: 233472 l2_cache_size: 52428800 block_dim_limit_x: 2147483647
block_dim_limit_y: 65535 block_dim_limit_z: 65535 clock_rate_ghz: 1.98
memory_bandwidth: 4800000000000 device_memory_size: 141000000000
cuda_compute_capability { major: 9 } } platform_name: "CUDA"
dnn_version_info { major: 9 minor: 15 } runtime_version { major: 13 }
device_description_str: "NVIDIA H200" """
usual = xla_bridge.canonicalize_platform
xla_bridge.canonicalize_platform = lambda name: (
    "cuda" if name in ("gpu", "cuda") else usual(name)
)
devices = topologies.get_topology_desc(
    platform="cuda", target_config=HOPPER, topology="1x1x1"
).devices
here = NamedSharding(Mesh(np.array(devices), ("x",)), PartitionSpec())
print("jax", jax.__version__, "plugin 0.10.2")


def compiled(dims, options):
    letters = "DHW"[3 - dims :]
    names = f"N{letters}C", f"{letters}IO", f"N{letters}C"
    maps = jax.ShapeDtypeStruct((2, *(32,) * dims, 32), jnp.bfloat16, sharding=here)
    kernel = jax.ShapeDtypeStruct((*(3,) * dims, 32, 32), jnp.bfloat16, sharding=here)
    convolve = jax.jit(
        lambda v, k: lax.conv_general_dilated(
            v, k, (1,) * dims, "SAME", dimension_numbers=names
        )
    )
    text = convolve.lower(maps, kernel).compile(options).as_text()
    layout = re.search(r"dim_labels=(\w+)_", text)[1]
    return layout, len(re.findall(r" = bf16\[\S+ transpose\(", text))


found = {}
for dims in (2, 3):
    for options in (None, {"xla_gpu_force_conv_nhwc": True}):
        found[dims, bool(options)] = compiled(dims, options)
        print(f"{dims}-D, option {bool(options)}: layout, transposes", found[dims, bool(options)])
assert found[2, False][0] == "b01f"
assert found[3, False][0] == "bf012" and found[3, False][1] >= 2
assert found[3, True][0] == "b012f"
PYTHON
