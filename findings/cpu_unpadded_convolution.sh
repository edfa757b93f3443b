#!/usr/bin/env bash
# One would guess: a convolution without padding costs no more than the same one with it,
# and `memory_analysis()` says what it needs.
# What happens: on a CPU, jax 0.10.2 lays the input of a convolution without any padding
# out as patches, one copy of the map a tap: 3 x 3 taps, 256 to 128 channels, take twice
# the time and nearly a gigabyte of which the compiler's plan says nothing. With one row
# of zeros, whose output is dropped, they take neither. jax 0.9.2 and 0.11.2 do not.
# Why it matters: convolutions without padding are those of DeepMedic, of the 2D U-Net,
# and of stride 2 written as blocks of voxels; a program that fits by its plan is killed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    jax==0.10.2 jaxlib==0.10.2 numpy==2.3.5
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp

SIZE, MAPS = 66, 256
volume = jnp.ones((11, SIZE, SIZE, MAPS))
kernel = jnp.ones((3, 3, MAPS, 128))


def unpadded(volume, kernel, below=0):
    return jax.lax.conv_general_dilated(
        volume,
        kernel,
        window_strides=(1, 1),
        padding=[(0, below), (0, 0)],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def with_a_row(volume, kernel):
    return unpadded(volume, kernel, below=1)[:, :-1]


def resident(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(dict(line.split(":", 1) for line in lines)[name].split()[0]) / 1000


def compiled(function):
    program = jax.jit(function).lower(volume, kernel).compile()
    planned = program.memory_analysis()
    jax.block_until_ready(program(volume, kernel))
    return program, (planned.temp_size_in_bytes + planned.output_size_in_bytes) / 1e6


def taken(program):
    """Seconds of a call, and megabytes beyond those in use before."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, start = resident("VmRSS"), time.perf_counter()
    jax.block_until_ready(program(volume, kernel))
    return time.perf_counter() - start, resident("VmHWM") - before


print("jax", jax.__version__)
programs = {each.__name__: compiled(each) for each in (unpadded, with_a_row)}
calls = {name: [] for name in programs}
for _ in range(5):
    for name, (program, _) in programs.items():
        calls[name].append(taken(program))
seconds, megabytes = {}, {}
for name, (_, planned) in programs.items():
    seconds[name], megabytes[name] = map(statistics.median, zip(*calls[name]))
    print(
        f"{name}: {1000 * seconds[name]:.0f} ms, {megabytes[name]:.0f} MB, "
        f"{planned:.0f} planned"
    )
same = [program(volume, kernel) for program, _ in programs.values()]
assert jnp.allclose(*same)
assert megabytes["unpadded"] > 4 * programs["unpadded"][1], "it keeps to its plan now"
assert megabytes["unpadded"] > 2 * megabytes["with_a_row"]
assert seconds["unpadded"] > 1.3 * seconds["with_a_row"]
PYTHON
