"""A long training by the real `train.py` does not grow.

ADN_SOAK=5000 for a thorough look.
"""

import os
from pathlib import Path

import numpy as np
import pytest

STEPS = int(os.environ.get("ADN_SOAK", "200"))
"""Updates of the joint stage, with twenty evaluations and saves."""

GROWTH = 1.05


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only on Linux")
def test_memory_stays_flat(start_training, tmp_path):
    """After a tenth of the steps, which has two saves and evaluations."""
    run, noted, often = tmp_path / "run", tmp_path / "memory", STEPS // 20
    process = start_training(
        *(run, "--joint.steps", STEPS, "--joint.validate-every", often),
        program=("-m", "tests.training.weighed", noted),
    )
    output, _ = process.communicate()
    assert process.returncode == 0, output
    steps, memory = np.loadtxt(noted, dtype=int, unpack=True)
    assert steps[-1] == STEPS
    early = memory[(steps >= 0.1 * STEPS) & (steps < 0.2 * STEPS)]
    late = memory[steps >= 0.8 * STEPS]
    print(f"{np.median(early) / 1e6:.1f} MB, then {np.median(late) / 1e6:.1f} MB")
    assert late.max() < GROWTH * early.max()
