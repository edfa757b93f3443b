import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from adn_jax.errors import UserError
from adn_jax.runtime.mesh import check_batch, device_mesh, place_cases, replicate


def test_cases_are_split_and_parameters_are_everywhere():
    mesh = device_mesh(2)
    cases = place_cases(np.arange(8.0).reshape(4, 2), mesh)
    assert [shard.data.shape for shard in cases.addressable_shards] == [(2, 2)] * 2
    params = replicate({"a": np.ones(3)}, mesh)
    assert [s.data.shape for s in params["a"].addressable_shards] == [(3,)] * 2


def test_mean_over_a_split_batch_is_the_global_one():
    cases = np.random.default_rng(0).random((4, 3)).astype(np.float32)
    split = place_cases(cases, device_mesh(2))
    assert jax.jit(lambda a: a.mean())(split) == pytest.approx(cases.mean(), rel=1e-6)


@pytest.mark.parametrize(
    ("batch", "advice"), [(3, "set it to 2 or 4"), (1, "set it to 2")]
)
def test_batch_that_does_not_divide(batch, advice):
    message = f"joint.batch is {batch}, which does not divide over 2 devices; {advice}"
    with pytest.raises(UserError, match=message):
        check_batch(batch, device_mesh(2), "joint.batch")


def test_batch_that_divides():
    check_batch(4, device_mesh(2), "joint.batch")
    check_batch(4, device_mesh(2), "joint.batch", micro_batches=2)


def test_micro_batches_that_do_not_divide():
    message = "is 6, .* over 2 micro-batches, each on 2 devices; set it to 4 or 8"
    with pytest.raises(UserError, match=message):
        check_batch(6, device_mesh(2), "joint.batch", micro_batches=2)


COUNT = """
import jax
from adn_jax.runtime import mesh
mesh.sharing_processors = lambda *batches: len(batches)
mesh.spread_over_cores(4, 8, 12)
print(jax.device_count("cpu"))
"""


@pytest.mark.parametrize(
    ("chosen", "count"),
    [
        ({}, 3),
        ({"JAX_NUM_CPU_DEVICES": "5"}, 5),
        ({"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}, 4),
    ],
)
def test_a_cpu_is_as_many_devices_as_cores_share_the_batches(chosen, count):
    environment = {**os.environ, "XLA_FLAGS": "", **chosen}
    command = [sys.executable, "-c", COUNT]
    assert int(subprocess.check_output(command, env=environment, text=True)) == count
