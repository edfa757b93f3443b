#!/usr/bin/env bash
# One would guess: a transposed convolution written with lhs_dilation, as jax documents it,
# becomes cuDNN's backward-data convolution on a GPU, and its gradients are cuDNN's too.
# What happens: the forward one is a forward convolution of a map that is blown up with
# zeros, and the kernel's gradient a convolution whose window is the whole map. Written as
# the vjp of a strided convolution the same values come from cuDNN's own programs.
# Why it matters: eight times the work and gigabytes of zeros, for the same mathematics.
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
NAMES = ("NDHWC", "DHWIO", "NDHWC")
SIZE = 16
print("jax", jax.__version__, "plugin 0.10.2")


def dilated(maps, kernel):
    return lax.conv_general_dilated(
        maps, kernel, (1, 1, 1), [(2, 2)] * 3, lhs_dilation=(2, 2, 2),
        dimension_numbers=NAMES,
    )


def transposed(maps, kernel):
    mirrored = jnp.flip(kernel, (0, 1, 2)).swapaxes(3, 4)

    def halve(large):
        return lax.conv_general_dilated(
            large, mirrored, (2, 2, 2), [(1, 1)] * 3, dimension_numbers=NAMES
        )

    b, z, y, x, _ = maps.shape
    large = jnp.zeros((b, 2 * z, 2 * y, 2 * x, kernel.shape[-1]), maps.dtype)
    return jax.vjp(halve, large)[1](maps)[0]


maps = jax.random.normal(jax.random.key(0), (1, 4, 5, 6, 3))
kernel = jax.random.normal(jax.random.key(1), (4, 4, 4, 3, 2))
difference = jnp.abs(dilated(maps, kernel) - transposed(maps, kernel)).max()
print("largest difference of the two forms on a CPU:", float(difference))
assert difference < 1e-4


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.bfloat16, sharding=here)


def programs(function, *shapes):
    text = jax.jit(function).lower(*shapes).compile({"xla_gpu_force_conv_nhwc": True})
    return re.findall(
        r'window=\{size=(\d+x\d+x\d+)[^}]*\}.*?custom_call_target="__cudnn\$(\w+)"',
        text.as_text(),
    )


def kernel_gradient(maps, kernel, cotangent):
    return jax.vjp(lambda kernel: dilated(maps, kernel), kernel)[1](cotangent)


small, taps = shape(2, SIZE, SIZE, SIZE, 32), shape(4, 4, 4, 32, 32)
large = shape(2, 2 * SIZE, 2 * SIZE, 2 * SIZE, 32)
found = {
    "lhs_dilation": programs(dilated, small, taps),
    "vjp of a strided one": programs(transposed, small, taps),
    "kernel's gradient of lhs_dilation": programs(kernel_gradient, small, taps, large),
}
for name, each in found.items():
    print(name, each)
assert found["lhs_dilation"] == [("4x4x4", "convForward")]
assert found["vjp of a strided one"] == [("4x4x4", "convBackwardInput")]
assert found["kernel's gradient of lhs_dilation"] == [
    (f"{2 * SIZE}x{2 * SIZE}x{2 * SIZE}", "convForward")
]
PYTHON
