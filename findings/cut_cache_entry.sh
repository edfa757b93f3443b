#!/usr/bin/env bash
# One would guess: an entry of jax's compilation cache that was cut short, by a kill or a full
# disk, is written anew by the next program that compiles the same.
# What happens: every program warns that it cannot read the entry and compiles; an entry that
# exists is never written again, so all later starts do the same. It is not written under
# another name first, so one process can also meet what another is still writing.
# Why it matters: one killed start makes all later ones slow until the folder is emptied, and
# where warnings are errors they end.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    jax==0.10.2 jaxlib==0.10.2 numpy==2.3.5
cd "$folder"
venv/bin/python - <<'PYTHON'
import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import jax
import jax.numpy as jnp

def product(x):
    return jnp.sin(x) @ x

print(jax.__version__, jax.jit(product)(jnp.ones((8, 8)))[0, 0])
"""
cache = Path("cache")
environment = {
    **os.environ,
    "JAX_PLATFORMS": "cpu",
    "JAX_COMPILATION_CACHE_DIR": str(cache),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
}


def start():
    """Run the program; whether it warned, and the size of the entry after it."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment, capture_output=True, text=True, check=True,
    )
    (entry,) = cache.glob("jit_product-*-cache")
    warned = "Error reading persistent compilation cache entry" in done.stderr
    print("jax", done.stdout.strip(), "warned:", warned, "bytes:", entry.stat().st_size)
    return warned, entry


warned, entry = start()
assert not warned
os.truncate(entry, entry.stat().st_size // 2)
half = entry.stat().st_size
for _ in range(3):
    warned, entry = start()
    assert warned
    assert entry.stat().st_size == half
PYTHON
