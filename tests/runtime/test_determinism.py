import os
import subprocess
import sys

import pytest

SHOW = """
import os
from adn_jax.runtime.platform import enable_determinism
enable_determinism()
import jax
print(jax.device_count(), os.environ["XLA_FLAGS"])
"""

OURS = "--xla_gpu_deterministic_ops=true"
DEVICES = "--xla_force_host_platform_device_count=3"
OTHER = "--xla_gpu_deterministic_ops=false"


@pytest.mark.parametrize(
    ("before", "then"),
    [("", f"1 {OURS}"), (DEVICES, f"3 {DEVICES} {OURS}"), (OTHER, f"1 {OTHER}")],
)
def test_the_flag_joins_those_of_the_user_and_xla_knows_it(before, then):
    environment = {**os.environ, "XLA_FLAGS": before}
    command = [sys.executable, "-c", SHOW]
    said = subprocess.check_output(command, env=environment, text=True)
    assert said.strip() == then
