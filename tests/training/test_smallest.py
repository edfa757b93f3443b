"""One case, one slice, one channel, one device: the least of everything."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adn_jax.config import (
    AlignmentNetSettings,
    AlignmentSettings,
    DeepMedicSettings,
    JointLossSettings,
    PrepareSettings,
    StageSettings,
    SymmetryNetSettings,
    UNetSettings,
)
from adn_jax.data.batches import make_batch
from adn_jax.distributed.mesh import device_mesh
from adn_jax.geometry.rigid import Pose
from adn_jax.training.stages import make_stage
from adn_jax.training.updates import make_update
from tests.training.tiny import tiny_recipe

ONE = StageSettings(steps=1, batch=1, validate_every=1)
SEARCH = AlignmentSettings(network=False, centre=True, search_limit_deg=4.0)
UNET = UNetSettings(widths=(1, 1), groups=1, in_plane_levels=1, dropout=0.0)
DEEPMEDIC = DeepMedicSettings(
    widths=(1,),
    steps=(1,),
    residual=(),
    joined_widths=(1,),
    joined_kernels=(1,),
    joined_residual=(),
    dropout=(0.0, 0.0),
    samples=1,
    side=1,
    tile=1,
)
SEAN = SymmetryNetSettings(widths=(1,), neighbours=0, windows=(1, 1), samples=1)

RECIPE = tiny_recipe(
    prepare=PrepareSettings(shape=(1, 8, 8), spacing_mm=(5.0, 20.0, 20.0)),
    alignment=SEARCH,
    disentangle_net=UNET,
    segment_net=UNET,
    alignment_net=AlignmentNetSettings(widths=(1,)),
    joint_loss=JointLossSettings(
        warm_start_steps=0, boundary=0.1, focal_tversky=1.0, tissue=0.0
    ),
    tissue_source="none",
    align=ONE,
    joint=ONE,
)
PLAIN = RECIPE.with_fields(
    joint_loss=replace(RECIPE.joint_loss, regularisation=0.0), segment_input="aligned"
)
SYSTEMS = {
    "adn": RECIPE,
    "deepmedic": PLAIN.with_fields(segment_net=DEEPMEDIC),
    "sean": PLAIN.with_fields(segment_net=SEAN),
}


def one_case(shape):
    volume = np.zeros((1, *shape), np.float32)
    volume[:, :, 1:-1, 2:-1] = 0.4
    lesion = np.zeros((1, *shape), np.uint8)
    lesion[:, :, 3, 3] = 255
    arrays = {"volume": volume, "lesion": lesion, "tissue": lesion // 255}
    return make_batch({**arrays, "case": np.zeros(1, np.int32)}, jnp.asarray)


@pytest.mark.parametrize("name", SYSTEMS)
def test_an_update_and_a_validation_of_one_slice(name):
    recipe, batch = SYSTEMS[name], one_case((1, 8, 8))
    stage, mesh = make_stage("joint", recipe), device_mesh(1)
    update = make_update(stage, recipe, mesh)
    before = update.fresh()
    params = jax.tree.map(jnp.copy, before.params)
    after, values = update.step(before, {}, batch)
    assert int(after.step) == 1
    assert all(np.isfinite(float(value)) for value in values.values())
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), params, after.params)
    assert any(jax.tree.leaves(moved))
    dice = jax.jit(stage.evaluate)(after.params, {}, batch)["dice"]
    assert 0 <= float(dice[0]) <= 1


def test_an_update_of_t_on_the_smallest_grid():
    shape = (2, 2, 2)
    recipe = RECIPE.with_fields(
        prepare=replace(RECIPE.system.prepare, shape=shape),
        alignment=AlignmentSettings(),
    )
    stage = make_stage("align", recipe)
    update = make_update(stage, recipe, device_mesh(1))
    frozen = {"search": Pose.identity(1)}
    batch = one_case((2, 4, 4))
    batch = jax.tree.map(
        lambda leaf: leaf[:, :, 1:3, 1:3] if leaf.ndim > 1 else leaf, batch
    )
    after, values = update.step(update.fresh(), frozen, batch)
    assert int(after.step) == 1
    assert np.isfinite(float(values["loss"]))
