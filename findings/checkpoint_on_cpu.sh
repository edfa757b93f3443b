#!/usr/bin/env bash
# One would guess: jax.checkpoint around each block of a network makes the gradient keep the
# blocks' inputs alone, on every platform.
# What happens: on a CPU the barriers that hold the second computation back are removed, and
# the compiler merges it with the first: nothing is computed again, and memory is that without
# jax.checkpoint. Under jax.lax.scan, where the passes are two loops, it works.
# Why it matters: a setting that trades time for memory does neither in blocks written one
# after the other, and no warning says so.
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

weights = jnp.ones((8, 256, 256)) / 256
volume = jnp.ones((4096, 256))


def block(x, weight):
    return jnp.tanh(jnp.tanh(x @ weight) @ weight)


def in_a_row(x, block):
    for weight in weights:
        x = block(x, weight)
    return x


def in_a_loop(x, block):
    return jax.lax.scan(lambda x, weight: (block(x, weight), None), x, weights)[0]


def measure(network, block):
    """Temporary memory in sizes of the input; products lowered and compiled."""
    loss = lambda x: (network(x, block) ** 2).sum()
    lowered = jax.jit(jax.grad(loss)).lower(volume)
    compiled = lowered.compile()
    memory = compiled.memory_analysis().temp_size_in_bytes / volume.nbytes
    products = lowered.as_text().count("dot_general"), compiled.as_text().count(" dot(")
    return round(memory, 1), *products


print("jax", jax.__version__)
found = {}
for network in (in_a_row, in_a_loop):
    for name, each in (("plain", block), ("checkpoint", jax.checkpoint(block))):
        found[network, name] = measure(network, each)
        print(network.__name__, name, "memory, products lowered, compiled:",
              *found[network, name])
plain, again = found[in_a_row, "plain"], found[in_a_row, "checkpoint"]
assert again[1] > plain[1]
assert (again[0], again[2]) == (plain[0], plain[2])
assert found[in_a_loop, "checkpoint"][0] < 0.5 * found[in_a_loop, "plain"][0]
PYTHON
