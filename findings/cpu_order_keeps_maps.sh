#!/usr/bin/env bash
# One would guess: the gradient of layers in a row holds the maps that it needs and little
# beside them, and gradients of a batch's quarters, added up one after the other, hold a
# quarter of that.
# What happens: on a CPU XLA orders a program by what could run side by side, and keeps
# half as many maps again as in the order for memory (the option xla_cpu_scheduler_type,
# CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED), whose results are the same bits. In neither order
# do the quarters hold a quarter: nothing says that one is to be done before the next is
# begun, so that the maps of all are held together. Once the input of each needs a number
# of the gradients before it, they do hold a quarter.
# Why it matters: gradient accumulation is what one tries when a step does not fit; on a
# CPU it is in vain, and a good part of the memory is the compiler's order.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    jax==0.10.2 jaxlib==0.10.2 numpy==2.3.5
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp
import numpy as np

LAYERS, MAPS, CASES, SIDE = 8, 16, 8, 96
MAP_MB = CASES * SIDE * SIDE * MAPS * 4 / 1e6
FOR_MEMORY = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
kernels = list(jax.random.normal(jax.random.key(0), (LAYERS, 3, 3, MAPS, MAPS)) / 12)
images = jax.random.normal(jax.random.key(1), (CASES, SIDE, SIDE, MAPS))


def loss(kernels, images):
    for kernel in kernels:
        centred = images - images.mean((1, 2), keepdims=True)
        deviation = jnp.sqrt(jnp.square(centred).mean((1, 2), keepdims=True) + 1e-5)
        images = jax.nn.relu(
            jax.lax.conv_general_dilated(
                centred / deviation,
                kernel,
                (1, 1),
                "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
        )
    return jnp.square(images).sum()


def whole(kernels, images):
    return jax.grad(loss)(kernels, images)


def quarters(kernels, images, in_order=False):
    total = jax.tree.map(jnp.zeros_like, kernels)
    for part in jnp.split(images, 4):
        if in_order:
            made = sum(leaf.ravel()[0] for leaf in total)
            part = part + made * jnp.zeros(())
        total = jax.tree.map(jnp.add, total, whole(kernels, part))
    return total


def quarters_in_order(kernels, images):
    return quarters(kernels, images, in_order=True)


print(f"jax {jax.__version__}; {LAYERS} convolutions, a map {MAP_MB:.1f} MB")
planned, results = {}, {}
for function in (whole, quarters, quarters_in_order):
    for order, options in (("usual", None), ("for memory", FOR_MEMORY)):
        program = jax.jit(function).lower(kernels, images).compile(options)
        key = function.__name__, order
        planned[key] = program.memory_analysis().temp_size_in_bytes / 1e6
        results[key] = program(kernels, images)
        print(f"{function.__name__}, order {order}: {planned[key]:.0f} MB planned")
same = all(
    np.array_equal(one, other)
    for one, other in zip(
        results["whole", "usual"], results["whole", "for memory"], strict=True
    )
)
print(f"both orders give the same bits: {same}")
assert same
assert planned["whole", "usual"] > 1.35 * planned["whole", "for memory"]
for order in ("usual", "for memory"):
    assert planned["quarters", order] > 0.75 * planned["whole", order]
    assert planned["quarters_in_order", order] < 0.4 * planned["whole", order]
PYTHON
