#!/usr/bin/env bash
# One would guess: jax.lax.optimization_barrier, or jax.lax.reduce_precision to float32's
# own bits, keeps a product from being fused into a sum, so that t + a * b is rounded twice.
# What happens: on a CPU the compiled program has neither; the multiplication and the sum
# become one instruction that rounds once. Alone, outside jit, the same line rounds twice.
# Why it matters: floor(t + a * b) names another voxel in a few of 100,000 cases, and an
# index and a weight that are computed from one expression in two places can disagree.
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
import numpy as np

generator = np.random.default_rng(0)
t, a, b = (
    jnp.asarray(generator.uniform(-100, 100, 100_000), jnp.float32) for _ in range(3)
)


def plain(t, a, b):
    return t + a * b


def with_barrier(t, a, b):
    return t + jax.lax.optimization_barrier(a * b)


def with_reduced_precision(t, a, b):
    return t + jax.lax.reduce_precision(a * b, exponent_bits=8, mantissa_bits=23)


print("jax", jax.__version__)
rounded_twice = np.asarray(t) + np.asarray(a) * np.asarray(b)
assert (plain(t, a, b) == rounded_twice).all()
for function in (plain, with_barrier, with_reduced_precision):
    compiled = jax.jit(function)(t, a, b)
    other = int((compiled != rounded_twice).sum())
    floors = int((jnp.floor(compiled) != np.floor(rounded_twice)).sum())
    print(f"{function.__name__}: {other} of {t.size} differ, {floors} floors")
    assert other > 1000
    assert floors > 0
lowered = jax.jit(with_barrier).lower(t, a, b)
assert "optimization_barrier" in lowered.as_text()
assert "opt-barrier" not in lowered.compile().as_text()
print("the barrier is in the lowered program and not in the compiled one")
PYTHON
