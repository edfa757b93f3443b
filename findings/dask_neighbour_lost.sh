#!/usr/bin/env bash
# One would guess: with allowed-failures at 0 a worker process that dies costs the task that
# it ran, and tasks that wait run elsewhere.
# What happens: worker-saturation, 1.1 by default, hands a worker of one thread two tasks at a
# time; the second, which never began, is a KilledWorker as well. At 1.0 it is not.
# Why it matters: a case that brings its process down takes a healthy one along, and the
# report blames both.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    distributed==2026.8.0 dask==2026.8.0
cd "$folder"
cat > program.py <<'PYTHON'
import os
import signal
import time
from pathlib import Path

import dask
from dask.distributed import Client, KilledWorker, LocalCluster


def job(number, told):
    """The first one kills its process, once it is told to."""
    while number == 0 and not Path(told).exists():
        time.sleep(0.01)
    if number == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def known(dask_scheduler):
    """How many tasks the scheduler has placed."""
    return len(dask_scheduler.tasks)


def lost(saturation):
    """How many of four jobs the one worker is given at a time, and which fail."""
    settings = {"distributed.scheduler.allowed-failures": 0,
                "distributed.scheduler.worker-saturation": saturation}
    told = Path(f"told_{saturation}").absolute()
    with (
        dask.config.set(settings),
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None,
                     silence_logs=50) as cluster,
        Client(cluster) as client,
    ):
        futures = client.map(job, range(4), told=str(told), pure=False)
        while client.run_on_scheduler(known) < 4:
            time.sleep(0.01)
        (given,) = client.processing().values()
        told.touch()
        failed = [number for number, future in enumerate(futures)
                  if isinstance(future.exception(), KilledWorker)]
        return len(given), failed


if __name__ == "__main__":  # the worker process reads this file, too
    usual = dask.config.get("distributed.scheduler.worker-saturation")
    print("dask", dask.__version__, "default worker-saturation", usual)
    found = {saturation: lost(saturation) for saturation in (usual, 1.0)}
    for saturation, (given, failed) in found.items():
        print(f"worker-saturation {saturation}: {given} given at a time, lost: {failed}")
    assert found == {usual: (2, [0, 1]), 1.0: (1, [0])}
PYTHON
venv/bin/python program.py
