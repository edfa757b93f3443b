#!/usr/bin/env bash
# One would guess: Dask limits the threads of BLAS in its worker processes, and what the
# process that made the cluster starts afterwards is as if there had been none.
# What happens: the limits are set in the environment of the process itself and stay there
# when the cluster is closed, so that every process it starts from then on has BLAS with
# one thread, while its own has as many as before. OpenBLAS sums a float32 product in
# another order with one thread than with two.
# Why it matters: the same function of the same numbers gives other last bits in a process
# started after the cluster than in one started before, and so do files that are made of
# them; a test of bits passes or fails by the order of the tests.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    distributed==2026.8.0 numpy==2.3.5 threadpoolctl==3.7.0
cd "$folder"
cat >threads.py <<'PYTHON'
import hashlib
import os
import subprocess
import sys

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits


def product(threads):
    values = np.random.default_rng(0).normal(size=(2, 4000, 300)).astype(np.float32)
    with threadpool_limits(threads, user_api="blas"):
        return hashlib.sha256(values[0].T @ values[1]).hexdigest()[:8]


def child():
    code = (
        "import numpy, threadpoolctl;"
        "print(threadpoolctl.threadpool_info()[0]['num_threads'])"
    )
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    import distributed
    from distributed import Client, LocalCluster

    print("distributed", distributed.__version__, "numpy", np.__version__)
    print("BLAS", *(f"{it['internal_api']} {it['version']}" for it in threadpool_info()))
    print("before: OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS"))
    before = child()
    print("threads of BLAS in a child:", before)
    with LocalCluster(n_workers=1, dashboard_address=None) as cluster, Client(cluster):
        pass
    print("after: OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS"))
    after = child()
    print("threads of BLAS in a child:", after)
    print("threads of BLAS here:", threadpool_info()[0]["num_threads"])
    print("float32 product with one thread:", product(1), "with two:", product(2))
    assert int(before) > 1
    assert (os.environ.get("OMP_NUM_THREADS"), after) == ("1", "1")
    assert product(1) != product(2)
PYTHON
env -u OMP_NUM_THREADS -u OPENBLAS_NUM_THREADS -u MKL_NUM_THREADS \
    venv/bin/python threads.py
