#!/usr/bin/env bash
# One would guess: a 3-D convolution is what XLA for a TPU computes best; the same written
# as a 2-D one, slices as cases and the taps along z as channels, can only be worse.
# What happens: of a single volume the compiler makes eight cases by cutting its rows, and
# copies maps to and from that form; the 2-D form, the same sums, has fewer estimated cycles.
# Why it matters: networks for large volumes have one case a chip.
# Compiled for a TPU v5p that is not there; cycles are the compiler's estimate.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    jax==0.10.2 jaxlib==0.10.2 libtpu==0.0.42.1
cd "$folder"
export JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 ALLOW_MULTIPLE_LIBTPU_LOAD=1
venv/bin/python - 2>noise.txt <<'PYTHON' || { tail -3 noise.txt; exit 1; }
import re

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

devices = topologies.get_topology_desc(
    platform="tpu", topology_name="v5p:2x2x1"
).devices[:1]
here = NamedSharding(Mesh(np.array(devices), ("x",)), PartitionSpec())
print("jax", jax.__version__, "libtpu 0.0.42.1")


def volume_form(maps, kernel):
    return lax.conv_general_dilated(
        maps, kernel, (1, 1, 1), "SAME", dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
    )


def slice_form(maps, kernel):
    b, z, y, x, c = maps.shape
    padded = jnp.pad(maps, [(0, 0), (1, 1), (0, 0), (0, 0), (0, 0)])
    taps = jnp.concatenate([padded[:, d : d + z] for d in range(3)], axis=-1)
    out = lax.conv_general_dilated(
        taps.reshape(b * z, y, x, 3 * c),
        jnp.moveaxis(kernel, 0, 2).reshape(3, 3, 3 * c, -1),
        (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return out.reshape(b, z, y, x, -1)


small = jax.random.normal(jax.random.key(0), (1, 4, 5, 6, 3))
weights = jax.random.normal(jax.random.key(1), (3, 3, 3, 3, 2))
forms = {"volume": volume_form, "slices": slice_form}
difference = jnp.abs(volume_form(small, weights) - slice_form(small, weights)).max()
print("largest difference on a CPU:", float(difference))
assert difference < 1e-4

cycles, cut = {}, {}
for name, form in forms.items():
    maps = jax.ShapeDtypeStruct((1, 40, 256, 64, 128), jnp.bfloat16, sharding=here)
    kernel = jax.ShapeDtypeStruct((3, 3, 3, 128, 128), jnp.bfloat16, sharding=here)
    two = jax.jit(lambda v, k, form=form: form(jax.nn.relu(form(v, k)), k))
    text = two.lower(maps, kernel).compile().as_text()
    each = map(int, re.findall(r'"estimated_cycles":"(\d+)"', text))
    cycles[name] = sum(number for number in each if number < 1 << 60)
    cut[name] = "[40,256,8,9,128]" in text
    print(f"{name}: {cycles[name] / 1e6:.1f} M estimated cycles, rows cut: {cut[name]}")
assert cut == {"volume": True, "slices": False}
assert cycles["slices"] < 0.9 * cycles["volume"]
PYTHON
