#!/usr/bin/env bash
# One would guess: a lower optimization level of XLA compiles sooner and runs slower, and
# changes nothing but the last digits.
# What happens: the gradient of jnp.max over an axis is wrong by its own size, without a
# word. It looks for the elements that equal the largest one. Where XLA computes these
# elements again in another fusion, with or without a fused multiply-add, they differ in
# the last digit from the largest of the first time: the gradient goes to no element, or
# the share is 0 / 0. The loss itself is right.
# Why it matters: test suites set --xla_backend_optimization_level=0 to compile quickly, and
# max pooling written as a maximum over a reshaped axis is common in JAX networks. A choice
# by comparison, jnp.where(b > a, b, a), keeps its gradient at every level.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    jax==0.10.2 jaxlib==0.10.2 numpy==2.3.5
cd "$folder"
cat > gradients.py <<'PYTHON'
import sys

import jax
import jax.numpy as jnp

volume = jax.random.uniform(jax.random.key(1), (2, 3, 4, 8, 2))
kernel = jax.random.normal(jax.random.key(0), (3, 3, 3, 2, 2))
layout = ("NDHWC", "DHWIO", "NDHWC")


def by_maximum(maps):
    n, z, y, x, c = maps.shape
    return maps.reshape(n, z, y // 2, 2, x // 2, 2, c).max((3, 5))


def by_choice(maps):
    for axis in (2, 3):
        first, second = (
            jax.lax.slice_in_dim(maps, start, None, stride=2, axis=axis)
            for start in (0, 1)
        )
        maps = jnp.where(second > first, second, first)
    return maps


def loss(kernel, pool):
    maps = jax.lax.conv_general_dilated(
        volume, kernel, (1, 1, 1), "SAME", dimension_numbers=layout
    )
    mean = maps.mean((0, 1, 2, 3))
    variance = ((maps - mean) ** 2).mean((0, 1, 2, 3))
    maps = jax.nn.relu((maps - mean) * jax.lax.rsqrt(variance + 1e-5))
    return (pool(maps) ** 2).sum()


wrong = {}
for pool in (by_maximum, by_choice):
    expected = jax.value_and_grad(loss)(kernel, pool)
    found = jax.jit(jax.value_and_grad(loss), static_argnums=1)(kernel, pool)
    value, wrong[pool] = (
        float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))
        for a, b in zip(found, expected)
    )
    print(f"  {pool.__name__}: off by {value:.1e} of the loss, "
          f"{wrong[pool]:.1e} of the gradient")
    assert value < 1e-5
level_0 = sys.argv[1] == "0"
assert (wrong[by_maximum] > 0.1) == level_0
assert wrong[by_choice] < 1e-4
PYTHON
venv/bin/python -c 'import jax; print("jax", jax.__version__)'
for level in 3 0; do
    echo "jitted with --xla_backend_optimization_level=$level, against unjitted"
    JAX_PLATFORMS=cpu XLA_FLAGS=--xla_backend_optimization_level=$level \
        venv/bin/python gradients.py $level
done
