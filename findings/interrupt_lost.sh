#!/usr/bin/env bash
# One would guess: Ctrl-C, or a signal's handler that raises, ends a loop of Python wherever it
# is, whatever was imported.
# What happens: importing jax adds a hook to Python's garbage collection, which calls into XLA
# at the begin and end of each. What a handler raises within that hook is an "exception
# ignored": it is printed, the loop goes on. In a loop that makes many small objects about
# half of all interrupts are lost; without jax none is.
# Why it matters: a job that is told to stop goes on until it is killed, and what it would
# have saved is lost.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    jax==0.10.2 jaxlib==0.10.2 numpy==2.3.5
cd "$folder"
cat > program.py <<'PYTHON'
import random
import signal
import sys
import time

if "jax" in sys.argv:
    import jax

    print("jax", jax.__version__, "Python", sys.version.split()[0])

TRIALS = 200
sys.unraisablehook = lambda _: None  # each would be printed


def interrupt(*_):
    raise KeyboardInterrupt


def is_lost():
    """Whether an interrupt at a random moment leaves a loop of 50 ms running."""
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(0.001, 0.02))
        end, kept = time.monotonic() + 0.05, []
        while time.monotonic() < end:
            kept.append([{"a": [index]} for index in range(300)])
            del kept[:-200]
    except KeyboardInterrupt:
        return False
    return True


random.seed(0)
signal.signal(signal.SIGALRM, interrupt)
lost = sum(is_lost() for _ in range(TRIALS))
print(f"with {'jax' if 'jax' in sys.argv else 'Python alone'}: {lost} of {TRIALS} lost")
sys.exit(lost == 0 if "jax" in sys.argv else lost > 0)
PYTHON
JAX_PLATFORMS=cpu venv/bin/python program.py
JAX_PLATFORMS=cpu venv/bin/python program.py jax
