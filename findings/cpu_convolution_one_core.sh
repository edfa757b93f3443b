#!/usr/bin/env bash
# One would guess: XLA on a CPU computes a convolution on all cores, whatever its channels, so
# that one program of one device is the fastest form for one image.
# What happens: a 2-D convolution of 32 images to 32 channels keeps one core busy. The same
# convolution, its rows shared by two devices of the same CPU (shard_map, a row from each
# neighbour), keeps two cores busy and takes little more than half the time.
# Why it matters: U-Nets have 16 to 64 channels at full size, where most of their time goes; a
# program of one device leaves all cores but one idle there, and no flag says so.
set -euo pipefail
[ "$(nproc)" -ge 2 ] || { echo "two cores are needed"; exit 1; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    jax==0.10.2 jaxlib==0.10.2 numpy==2.3.5
cd "$folder"
JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=2 taskset -c 0,1 venv/bin/python - <<'PYTHON'
import time

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

mesh = jax.make_mesh((2,), ("rows",))
SHARED = PartitionSpec(None, "rows")


def convolve(images, kernel, above=1):
    return lax.conv_general_dilated(
        images, kernel, (1, 1), [(above, above), (1, 1)],
        dimension_numbers=("NHWC", "HWIO", "NHWC"))


def of_own_rows(own, kernel):
    above = lax.ppermute(own[:, -1:], "rows", [(0, 1)])
    below = lax.ppermute(own[:, :1], "rows", [(1, 0)])
    return convolve(jnp.concatenate([above, own, below], 1), kernel, above=0)


def measure(function, *inputs):
    """(seconds, cores busy) of the quickest of five calls."""
    program = jax.jit(function).lower(*inputs).compile()
    jax.block_until_ready(program(*inputs))
    found = []
    for _ in range(5):
        start, busy = time.perf_counter(), time.process_time()
        jax.block_until_ready(program(*inputs))
        seconds = time.perf_counter() - start
        found.append((seconds, (time.process_time() - busy) / seconds))
    return min(found)


print("jax", jax.__version__)
images = jnp.ones((32, 160, 128, 32))
kernel = jnp.ones((3, 3, 32, 32)) / 288
alone, busy_alone = measure(convolve, images, kernel)
shared = jax.shard_map(of_own_rows, mesh=mesh, in_specs=(SHARED, PartitionSpec()),
                       out_specs=SHARED)
placed = (jax.device_put(images, NamedSharding(mesh, SHARED)),
          jax.device_put(kernel, NamedSharding(mesh, PartitionSpec())))
together, busy_together = measure(shared, *placed)
print(f"one device: {alone:.3f} s, {busy_alone:.2f} cores busy")
print(f"two devices that share rows: {together:.3f} s, {busy_together:.2f} cores busy")
assert jnp.allclose(shared(*placed), convolve(images, kernel), atol=1e-4)
assert busy_alone < 1.3 and busy_together > 1.6
assert together < 0.75 * alone
PYTHON
