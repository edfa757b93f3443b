"""The stream of drawn heads: a function of seed and step, whatever the devices."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import jax
import numpy as np
import pytest

from adn_jax.config import PrepareSettings, Recipe, StreamSettings, SystemSettings
from adn_jax.data.batches import train_batches
from adn_jax.data.cases import read_case
from adn_jax.data.manifest import read_manifest
from adn_jax.data.stream import DrawnHeads, HeadStream, write_drawn_heads
from adn_jax.errors import UserError
from adn_jax.metrics.alignment import true_plane
from tests import quick

PREPARE = PrepareSettings(shape=(8, 32, 28), spacing_mm=(16.0, 7.0, 7.0))
STREAM = HeadStream(StreamSettings(validation_heads=3), PREPARE)


def take(batches, number):
    return [next(batches) for _ in range(number)]


def assert_equal(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_it_goes_on_where_it_stopped():
    whole = take(train_batches(STREAM, batch=2, seed=5), 3)
    assert_equal(whole[2], next(train_batches(STREAM, 2, seed=5, start_step=2)))
    np.testing.assert_array_equal(whole[2].case, [4, 5])
    other = next(train_batches(STREAM, batch=2, seed=6))
    assert (np.asarray(other.volume) != np.asarray(whole[0].volume)).any()


def test_held_out_heads_are_the_same_each_time_and_all_have_an_infarct():
    _, held_out = DrawnHeads(STREAM.settings, PREPARE, score_healthy=False).splits()
    once, again = (list(held_out.once(batch=2)) for _ in range(2))
    assert_equal([batch for batch, _ in once], [batch for batch, _ in again])
    assert [count for _, count in once] == [2, 1]
    assert len(held_out) == 3
    assert all((batch.lesion.sum((1, 2, 3, 4)) > 0).all() for batch, _ in once)
    trained = next(train_batches(STREAM, 2, seed=held_out.settings.validation_seed))
    assert (np.asarray(trained.volume) != np.asarray(once[0][0].volume)).any()


def test_held_out_heads_are_as_often_healthy_as_others_where_those_count():
    rarely = replace(STREAM.settings, infarcts=(0.7, 0.3), validation_heads=16)
    _, held_out = DrawnHeads(rarely, PREPARE, score_healthy=True).splits()
    batch, _ = next(held_out.once(batch=16))
    sick = np.asarray((batch.lesion > 0).any((1, 2, 3, 4)))
    assert 1 <= sick.sum() <= 9  # 4.8 are to be expected


def test_a_grid_of_one_slice_is_refused_before_anything_is_written(tmp_path):
    prepare = replace(PREPARE, shape=(1, 32, 28))
    recipe = Recipe("slice", system=SystemSettings(prepare=prepare))
    with pytest.raises(
        UserError, match=r"prepare\.shape is \(1, 32, 28\); .* 2 or more"
    ):
        write_drawn_heads(tmp_path / "out", 3, 1, recipe, 1, 1)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="heads are drawn on grids"):
        DrawnHeads(StreamSettings(), prepare, score_healthy=False).splits()


def test_heads_are_named():
    assert STREAM.names_in(2, 7, 3) == ("head 6 of seed 7", "head 7 of seed 7")
    STREAM.check_present(np.arange(3))


PROGRAM = """
import hashlib, json, jax, numpy as np
from functools import partial
from adn_jax.data.batches import train_batches
from adn_jax.distributed.mesh import device_mesh, place_cases
from tests.data.test_stream import STREAM
found, volumes = {}, {}
for devices in (1, 2, 8):
    place = partial(place_cases, mesh=device_mesh(devices))
    batch = next(train_batches(STREAM, 8, 0, 1, place))
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(batch)]
    assert len(batch.volume.sharding.device_set) == devices
    found[devices] = hashlib.sha256(b"".join(map(bytes, leaves))).hexdigest()
    volumes[devices] = np.asarray(batch.volume)
apart = float(np.abs(volumes[1] - volumes[2]).max())
print(json.dumps({**found, "apart": apart}))
"""


@pytest.mark.slow
def test_several_devices_draw_the_same_bits_and_one_the_same_heads():
    flags = f"--xla_force_host_platform_device_count=8 {quick.FLAGS}"
    environment = {**os.environ, "XLA_FLAGS": flags}
    command = [sys.executable, "-c", PROGRAM]
    answer = subprocess.check_output(command, env=environment, text=True)
    found = json.loads(answer.splitlines()[-1])
    assert found["2"] == found["8"]
    assert found["apart"] < 1e-5


def test_drawn_heads_are_written_as_a_prepared_data_set(tmp_path):
    system = SystemSettings(prepare=PREPARE)
    recipe = Recipe(name="tiny", system=system, stream=STREAM.settings)
    out = tmp_path / "heads"
    splits = write_drawn_heads(out, 3, seed=1, recipe=recipe, validation=1, test=1)
    manifest = read_manifest(out)
    assert {name: list(names) for name, names in manifest.splits.items()} == splits
    case = read_case(out / "phantom_0001")
    assert case.volume.shape == PREPARE.shape
    np.testing.assert_array_equal(case.brain, case.volume > 0)
    matrix = np.array(case.truth["head_to_world"])
    plane = true_plane(matrix, case.affine, PREPARE.shape)
    np.testing.assert_allclose(plane.normal, matrix[:3, 0], atol=1e-5)
    infarcts = [(read_case(out / name).lesion >= 0.5).any() for name in manifest.cases]
    healthy = [
        name for name, has in zip(manifest.cases, infarcts, strict=True) if not has
    ]
    assert list(manifest.lacking.get("infarct", ())) == healthy
    before = {path: path.read_bytes() for path in out.rglob("*.nii*")}
    shutil.rmtree(out / "phantom_0002")
    write_drawn_heads(out, 3, seed=1, recipe=recipe, validation=1, test=1)
    assert before == {path: path.read_bytes() for path in out.rglob("*.nii*")}
    with pytest.raises(UserError, match="other settings"):
        write_drawn_heads(out, 3, seed=2, recipe=recipe, validation=1, test=1)
