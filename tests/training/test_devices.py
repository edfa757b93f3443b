"""One, two, four and eight devices share a batch and learn the same."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from tests.training.conftest import ROOT


@pytest.fixture(scope="module")
def found(heads):
    """Number of devices -> losses, bytes moved a step, bytes of the parameters."""

    def run(devices):
        flags = (
            f"--xla_force_host_platform_device_count={devices} "
            "--xla_backend_optimization_level=0"
        )
        command = [sys.executable, "-m", "tests.training.devices"]
        answer = subprocess.check_output(
            [*command, str(heads), str(devices)],
            cwd=ROOT,
            env={**os.environ, "XLA_FLAGS": flags},
            text=True,
        )
        return json.loads(answer.splitlines()[-1])

    return {devices: run(devices) for devices in (1, 2, 4, 8)}


@pytest.mark.slow
def test_the_losses_are_those_of_one_device(found):
    assert len(found[1]["losses"]) == 20
    assert found[1]["losses"][-1] < found[1]["losses"][0]
    for devices in (2, 4, 8):
        np.testing.assert_allclose(
            found[devices]["losses"], found[1]["losses"], rtol=1e-5
        )


@pytest.mark.slow
def test_the_gradient_alone_travels(found):
    assert found[1]["moved"] == {}
    for devices in (2, 4, 8):
        assert set(found[devices]["moved"]) == {"all-reduce"}
        moved = found[devices]["moved"]["all-reduce"]
        parameters = found[devices]["parameters"]
        # kernels behind an up-sampling travel in their folded form, 64 taps for 27
        assert parameters <= moved < 1.3 * parameters
