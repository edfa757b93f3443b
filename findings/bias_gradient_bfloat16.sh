#!/usr/bin/env bash
# One would guess: a bfloat16 sum of many numbers is taken in float32 and rounded at the end,
# as jnp.sum does, also where jax differentiates a bias that was added to a volume.
# What happens: the gradient of the bias is the transpose of a broadcast, a reduce_sum that
# adds up in bfloat16. A partial sum stops growing once a summand is below half its last bit:
# on a CPU, of 131,072 voxels of a batch of volumes 1,024 are left.
# Why it matters: the gradients of biases in mixed precision are many times too small where
# maps are large, while those of kernels, whose products gather in float32, are right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    jax==0.10.2 jaxlib==0.10.2 numpy==2.3.5
cd "$folder"
JAX_PLATFORMS=cpu venv/bin/python - <<'PYTHON'
import jax
import jax.numpy as jnp

SHAPE = 2, 16, 64, 64, 8
VOXELS = 2 * 16 * 64 * 64


def gradient(slopes):
    """Gradient of a bias that was added to volumes, from the slopes of every voxel."""
    add = lambda bias: jnp.zeros_like(slopes) + bias.astype(slopes.dtype)
    return jax.vjp(add, jnp.zeros(8))[1](slopes)[0]


print("jax", jax.__version__)
found = {}
for dtype in (jnp.float32, jnp.bfloat16):
    slopes = jnp.ones(SHAPE, dtype)
    found[dtype] = float(jax.jit(gradient)(slopes)[0])
    print("gradient of the bias in", dtype.__name__, found[dtype])
summed = float(jax.jit(lambda x: x.sum(axis=(0, 1, 2, 3)))(slopes)[0])
print("jnp.sum of the same slopes in bfloat16", summed)
assert found[jnp.float32] == summed == VOXELS
assert found[jnp.bfloat16] < VOXELS / 10
PYTHON
