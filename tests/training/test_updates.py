from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest

from adn_jax.config import DeepMedicSettings, Recipe, StageSettings
from adn_jax.data.batches import open_split, train_batches
from adn_jax.distributed.mesh import device_mesh, place_cases, replicate, replicated
from adn_jax.geometry.rigid import Pose
from adn_jax.runtime import capacity
from adn_jax.runtime.capacity import Demand, MemoryShortageError
from adn_jax.runtime.platform import compiler_options
from adn_jax.training.runs import Run, initial_params, read_finished
from adn_jax.training.stages import make_stage
from adn_jax.training.train import train
from adn_jax.training.updates import (
    Devices,
    advise_lighter,
    compile_update,
    make_update,
)
from tests.training.tiny import NET, small_recipe, tiny_recipe, write_heads

GB = 10**9
FULL = Recipe("full", joint=StageSettings(batch=8)).with_fields(remat="nothing")


def advice(there, recipe=FULL, platform="gpu", count=1):
    devices = Devices(platform, data=count, spatial=1, local=count)
    demand = Demand(fixed=GB, temporaries=80 * GB)
    return advise_lighter("joint", recipe, devices, demand, there * GB)


def test_single_settings_that_fit_are_named_mildest_first():
    assert advice(there=70) == (
        "set --joint.micro-batches 2 (about 41.0 GB) or --remat norms (about "
        "57.0 GB) or --precision bfloat16 (about 41.0 GB) or --joint.batch 6 (about "
        "61.0 GB)"
    )
    assert "--joint.micro-batches 8 (about 11.0 GB)" in advice(there=13)
    assert "bfloat16" not in advice(there=13)


def test_settings_are_joined_where_no_single_one_is_enough():
    said = advice(there=8)
    assert "--joint.micro-batches 8 --remat norms (about 8.0 GB)" not in said
    assert "--joint.micro-batches 8 --remat blocks (about 5.5 GB)" in said


def test_a_gpu_computes_norms_again_of_itself():
    by_itself = FULL.with_fields(remat="auto")
    said = advice(there=70, recipe=by_itself)
    assert "--remat norms" not in said
    assert "--remat blocks (about 52.4 GB)" in said
    assert "--remat norms" in advice(there=70, recipe=by_itself, platform="tpu")


def test_on_a_cpu_smaller_batches_parts_and_blocks_help():
    said = advice(there=30, platform="cpu", count=2)
    assert "or --joint.batch 2 (about 21.0 GB)" in said
    said = advice(there=55, platform="cpu", count=2)
    assert "--joint.micro-batches 2 (about 41.0 GB)" in said
    assert "--remat blocks (about 45.0 GB)" in said
    assert "norms" not in said
    said = advice(there=13, platform="cpu", count=2)
    assert said == "set --joint.batch 1 (about 11.0 GB)"


def test_a_smaller_batch_divides_over_the_micro_batches():
    parts = FULL.with_fields(joint=StageSettings(batch=4, micro_batches=2))
    said = advice(there=30, recipe=parts, platform="cpu")
    assert "--joint.batch 3" not in said
    assert "--joint.batch 1" not in said


def test_devices_with_a_case_each_can_share_its_rows():
    recipe = FULL.with_fields(joint=StageSettings(batch=4), precision="bfloat16")
    said = advice(there=50, recipe=recipe, platform="tpu", count=4)
    assert "--spatial-shards 2 --joint.batch 2 (about 41.0 GB)" in said
    assert "micro" not in said


def test_where_nothing_is_enough_it_says_what_else():
    assert "--prepare.shape" in advice(there=1)
    windows = FULL.with_fields(segment_net=DeepMedicSettings(), precision="bfloat16")
    assert "--remat" not in advice(there=50, recipe=windows)


@pytest.fixture
def data(tmp_path):
    return write_heads(tmp_path / "data")


def test_a_stage_that_does_not_fit_stops_everything_before_it_begins(
    data, tmp_path, monkeypatch
):
    """The first stage fits, the second does not."""
    monkeypatch.setattr(capacity, "memory_there", lambda _: 2_000_000)
    recipe = tiny_recipe()
    wanted = (
        r"an update of stage 'joint' \(batch 2, float32, 16 x 16 x 16 voxels\) needs "
        r".* GB of memory, and this machine has 0\.0 GB for it; (set --|no other)"
    )
    with pytest.raises(MemoryShortageError, match=wanted):
        train(recipe, data.folder, tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_the_compiled_update_gives_the_same_bits(data):
    recipe, mesh, cases = tiny_recipe(), device_mesh(2), len(data.cases)
    stage, split = make_stage("align", recipe), open_split(data, "train")
    frozen = replicate({"search": Pose.identity(cases)}, mesh)

    def inputs_of(update):
        place = partial(place_cases, mesh=mesh)
        batch = next(train_batches(split, 2, seed=0, place=place))
        state = jax.jit(update.fresh, out_shardings=replicated(mesh))()
        return state, frozen, batch

    compiled, jitted = (
        compile_update(stage, recipe, mesh, cases),
        make_update(stage, recipe, mesh),
    )
    with jax.set_mesh(mesh):
        checked = compiled.step(*inputs_of(compiled))
        inputs = inputs_of(jitted)
        usual = jitted.step.lower(*inputs).compile(compiler_options())(*inputs)
    jax.tree.map(np.testing.assert_array_equal, checked, usual)
    assert int(checked[0].step) == 1


def test_weights_of_later_stages_are_no_part_of_an_earlier_one(tmp_path):
    """A tissue net taken from elsewhere is there before T is trained."""
    short = StageSettings(steps=1, batch=2, validate_every=1)
    recipe = small_recipe(
        tissue_source="network",
        align=short,
        joint=short,
        tissue_net=replace(NET, widths=(2,), outputs=5, prior=None),
    )
    source = Run.create(tmp_path / "source", recipe)
    params = initial_params(jax.random.key(0), recipe, "tissue")
    source.write_stage("tissue", params)
    data = write_heads(tmp_path / "data", train=2, validation=1).folder
    run = tmp_path / "run"
    assert train(recipe, data, run, pretrained={"tissue": source.folder}) == 0
    assert read_finished(run)["align"]["steps"] == 1
