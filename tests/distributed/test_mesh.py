import os
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adn_jax.config import UNetSettings
from adn_jax.distributed.mesh import (
    by_process,
    check_batch,
    check_rows,
    device_mesh,
    divisors,
    halo_exchange,
    place_cases,
    replicate,
    ring_reduce,
)
from adn_jax.errors import UserError
from adn_jax.models import apply_unet, init_unet


def test_cases_are_split_and_parameters_are_everywhere():
    mesh = device_mesh(2)
    cases = place_cases(np.arange(8.0).reshape(4, 2), mesh)
    assert [shard.data.shape for shard in cases.addressable_shards] == [(2, 2)] * 2
    params = replicate({"a": np.ones(3)}, mesh)
    assert [s.data.shape for s in params["a"].addressable_shards] == [(3,)] * 2


def test_devices_lie_process_by_process_whatever_the_wires(monkeypatch):
    # jax's own order for four hosts of a TPU v5e of 4 x 4 chips
    hosts = [0, 0, 1, 1, 1, 1, 0, 2, 3, 3, 3, 3, 2, 2, 2, 0]
    chips = [SimpleNamespace(process_index=h, id=n) for n, h in enumerate(hosts)]
    assert [chip.process_index for chip in by_process(chips)] == sorted(hosts)
    there = jax.devices()
    monkeypatch.setattr(jax, "devices", lambda: there[::-1])
    assert device_mesh().devices.ravel().tolist() == there


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


def test_space_that_does_not_divide_the_devices():
    message = "--spatial-shards is 3, .* the 2 devices of a process; set it to 1 or 2"
    with pytest.raises(UserError, match=message):
        device_mesh(2, spatial_shards=3)
    with pytest.raises(UserError, match="--spatial-shards is 0"):
        device_mesh(2, spatial_shards=0)


def test_rows_that_space_does_not_divide():
    mesh = device_mesh(2, spatial_shards=2)
    check_rows(4, mesh)
    with pytest.raises(UserError, match=r"have 5 rows .*, which 2 devices .* to 1, or"):
        check_rows(5, mesh)


def test_divisors_in_words():
    assert [divisors(number) for number in (1, 2, 4, 6)] == [
        "1",
        "1 or 2",
        "1 or 2 or 4",
        "1 or 2 or 3 or 6",
    ]


def blur_rows(volume, weights, add=None, halo=0):
    """Each row twice, blurred along the rows: sees one row to each side."""
    added = 1 - halo
    padded = jnp.pad(volume, ((0, 0), (0, 0), (added, added), (0, 0), (0, 0)))
    near = [padded[:, :, i : i + padded.shape[2] - 2] for i in range(3)]
    blurred = near[1] + weights[0] * near[0] + weights[1] * near[2]
    blurred = jnp.sin(blurred) if add is None else jnp.sin(blurred) + add
    return jnp.repeat(blurred, 2, axis=2)


def turned(block, weights, source, target, count):
    """What rows from `source` on give to `count` of the volume upside down, which has
    rows of 0 at its end."""
    here, size = block.shape[2], 4
    rows = size - 1 - (target + jnp.arange(count)) - source
    inside = ((rows >= 0) & (rows < here))[None, None, :, None, None]
    taken = jnp.where(inside, block[:, :, jnp.clip(rows, 0, here - 1)], 0)
    return taken * weights[:, None, None, None, None]


ALIKE = {
    "by rows": (blur_rows, halo_exchange(blur_rows, halo=1)),
    "by rows, and own ones": (
        lambda volume, weights: blur_rows(volume, weights, volume),
        lambda volume, weights: halo_exchange(blur_rows, halo=1)(
            volume, weights, volume
        ),
    ),
    "round the ring": (
        lambda volume, weights: turned(volume, weights, 0, 0, 6),
        ring_reduce(turned, wanted=6),
    ),
}
"""Functions of a volume and weights, and the same where devices share rows."""


@pytest.mark.parametrize("space", [1, 2])
@pytest.mark.parametrize("name", ALIKE)
def test_a_function_of_shared_rows_is_the_function(name, space):
    alone, shared = ALIKE[name]
    keys = jax.random.split(jax.random.key(0), 3)
    volume = jax.random.normal(keys[0], (2, 3, 4, 5, 1))
    weights = jax.random.normal(keys[1], (2,))
    target = jax.random.normal(keys[2], alone(volume, weights).shape)

    def loss(function, volume, weights):
        out = function(volume, weights)
        return (out * target).sum(), out

    def with_gradient(function):
        part = jax.value_and_grad(partial(loss, function), (0, 1), has_aux=True)
        return jax.jit(part)(volume, weights)

    wanted = with_gradient(alone)
    with jax.set_mesh(device_mesh(2, space)):
        found = with_gradient(shared)
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), found, wanted
    )


@pytest.mark.parametrize("space", [1, 2])
def test_a_mesh_leaves_parameters_and_lone_cases_as_they_are(space):
    settings = UNetSettings(widths=(2, 4))
    params = init_unet(jax.random.key(0), settings)
    volume = jax.random.normal(jax.random.key(1), (1, 2, 2, 2, 1))
    logits = apply_unet(params, volume, settings)
    with jax.set_mesh(device_mesh(2, space)):
        again = init_unet(jax.random.key(0), settings)
        np.testing.assert_allclose(apply_unet(params, volume, settings), logits, 1e-5)
    jax.tree.map(np.testing.assert_array_equal, again, params)


COUNT = """
import jax
from adn_jax.distributed import mesh
mesh.spread_over_cores(3)
print(jax.device_count("cpu"))
mesh.spread_over_cores(2)  # too late: jax is in use
"""


@pytest.mark.parametrize(
    ("chosen", "count"),
    [
        ({}, 3),
        ({"JAX_NUM_CPU_DEVICES": "5"}, 5),
        ({"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}, 4),
    ],
)
def test_a_cpu_is_so_many_devices_unless_the_user_chose(chosen, count):
    environment = {**os.environ, "XLA_FLAGS": "", **chosen}
    command = [sys.executable, "-c", COUNT]
    assert int(subprocess.check_output(command, env=environment, text=True)) == count
