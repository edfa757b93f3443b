#!/usr/bin/env bash
# One would guess: Ctrl-C while Dask's client waits raises KeyboardInterrupt, and no more.
# What happens: if the event loop has not begun the call yet, cancelling it raises a
# NameError in a callback of the loop, which Tornado logs with a traceback.
# Why it matters: a program that a person stops on purpose looks as if it had a fault, now
# and then, on a busy machine; to quiet the logger "distributed" is not enough.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    distributed==2026.8.0 tornado==6.6.1
cd "$folder"
cat >stop.py <<'PYTHON'
import logging
import os
import signal
import sys
import threading
import time

import distributed
import tornado
from distributed import Client, LocalCluster

if __name__ == "__main__":
    print("distributed", distributed.__version__, "tornado", tornado.version)
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
    with LocalCluster(n_workers=1, processes=False, dashboard_address=None) as cluster:
        with Client(cluster) as client:
            begun = sys.argv[1] == "begun"
            if not begun:
                client.loop.add_callback(time.sleep, 2)
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
            try:
                client.run_on_scheduler(time.sleep, 3) if begun else client.nthreads()
            except KeyboardInterrupt:
                print("KeyboardInterrupt, as it should be")
PYTHON
for call in begun waiting; do
    venv/bin/python stop.py "$call" >"$call.txt" 2>&1 || true
    echo "call $call:"
    grep -v "^ " "$call.txt"
    grep -q "^KeyboardInterrupt" "$call.txt"
done
grep -q "NameError: cannot access free variable 'future'" waiting.txt
! grep -q NameError begun.txt
