"""A long training by the real `train.py` does not grow.

ADN_SOAK=5000 for a thorough look.
"""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from tests.training.test_survival import last_step

STEPS = int(os.environ.get("ADN_SOAK", "200"))
"""Updates of the joint stage, with twenty evaluations and saves."""

GROWTH = 1.05


def memory_of(process):
    """Bytes of a process that belong to it alone, not to files that it reads."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    found = [line for line in lines if line.startswith("RssAnon")]
    return int(found[0].split()[1]) * 1024 if found else 0


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only on Linux")
def test_memory_stays_flat(start_training, tmp_path):
    """After a tenth of the steps, which has two saves and evaluations."""
    run, often = tmp_path / "run", STEPS // 20
    process = start_training(
        run, "--joint.steps", STEPS, "--joint.validate-every", often
    )
    steps, memory = [], []
    while process.poll() is None:
        steps.append(last_step(run, "joint"))
        memory.append(memory_of(process))
        time.sleep(0.1)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    steps, memory = np.array(steps), np.array(memory)
    early = memory[(steps >= 0.1 * STEPS) & (steps < 0.2 * STEPS)]
    late = memory[(steps >= 0.8 * STEPS) & (memory > 0)]
    print(f"{np.median(early) / 1e6:.1f} MB, then {np.median(late) / 1e6:.1f} MB")
    assert late.max() < GROWTH * early.max()
