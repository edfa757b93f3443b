from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adn_jax.config.validation import check_recipe
from adn_jax.errors import UserError
from adn_jax.geometry.rigid import Pose
from adn_jax.pipeline.adn import apply_adn, make_targets
from adn_jax.pipeline.align import Alignment
from adn_jax.training.stages import loss_of_joint
from adn_jax.types import Batch

BOX = (4, 32, 24)
GRID = (8, 48, 40)
INSIDE = np.s_[:, 2:-2, 8:-8, 8:-8]
"""The box in the grid."""

WAYS = {
    "none": {},
    "in_plane": {"rotation_limit_deg": (0.0, 0.0, 60.0)},
    "rigid": {
        "rotation_limit_deg": (10.0, 10.0, 60.0),
        "translation_limit": (1.0, 1.0, 0.2),
    },
}


@pytest.fixture(scope="module")
def boxed_recipe(tiny_recipe):
    return tiny_recipe.with_fields(box=BOX)


def drawn(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).random(shape, np.float32))


def batch_of(shape=GRID):
    volume = drawn((2, *shape, 1))
    lesion = (drawn((2, *shape, 1), 1) > 0.9).astype(jnp.float32)
    tissue = (3 * drawn((2, *shape), 2)).astype(jnp.int32)
    return Batch(volume, lesion, tissue, jnp.arange(2))


@pytest.mark.parametrize("way", WAYS)
def test_the_box_is_cut_from_the_whole_and_put_back_into_it(way, tiny_recipe):
    system = tiny_recipe.system
    steps = replace(system.alignment, network=way != "none", centre=way != "none")
    steps = replace(steps, search_limit_deg=0.0)
    net = replace(system.alignment_net, **WAYS[way])
    system = replace(system, alignment=steps, alignment_net=net)
    angle, x, y = jnp.array([[0.3, -0.2], [0.1, -0.05], [0.02, 0.08]])
    whole = Alignment.of(Pose.in_plane(angle, x, y), system)
    assert whole.motion == way
    box = replace(whole, box=(GRID, BOX))
    batch = batch_of()

    def there(alignment, volume):
        return alignment.warp(volume), alignment.warp_labels(volume)

    def back(alignment, volume):
        return alignment.unwarp(volume)

    for one, other in zip(
        jax.jit(there)(box, batch.volume),
        jax.jit(there)(whole, batch.volume),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other[INSIDE])
    seen = drawn((2, *BOX, 1), 3)
    around = jnp.zeros((2, *GRID, 1)).at[INSIDE].set(seen)
    np.testing.assert_array_equal(box.in_whole(seen), around)
    np.testing.assert_allclose(
        jax.jit(back)(box, seen), jax.jit(back)(whole, around), atol=1e-6
    )


def test_the_fraction_outside_is_counted(boxed_recipe):
    pose = Pose.identity(3)
    box = replace(Alignment.of(pose, boxed_recipe.system), box=(GRID, BOX))
    volume = np.zeros((3, *GRID, 1), np.float32)
    volume[0][INSIDE[1:]] = 0.5  # fills the box
    volume[1, 1:5, 8:40, 8:32] = 0.5  # a quarter below it
    volume = jnp.asarray(volume)
    found = jax.jit(Alignment.fraction_outside)(box, volume)
    np.testing.assert_allclose(found, [0, 0.25, 0], atol=1e-6)
    assert not box.whole.fraction_outside(volume).any()


def test_the_networks_see_the_box_alone(boxed_recipe, tiny_params):
    system = boxed_recipe.system
    outputs = jax.jit(partial(apply_adn, system=system))(tiny_params, batch_of().volume)
    on_x = (
        outputs.aligned,
        outputs.asymmetry,
        outputs.pathological,
        outputs.salient,
        outputs.aligned_prediction,
    )
    assert {each.shape for each in on_x} == {(2, *BOX, 1)}
    assert outputs.prediction.shape == (2, *GRID, 1)
    assert not outputs.prediction[:, 0, 0].any()  # far outside the turned box
    targets = make_targets(outputs, batch_of(), boxed_recipe)
    assert targets.lesion.shape == (2, *GRID, 1)
    assert targets.aligned_lesion.shape == (2, *BOX, 1)
    assert targets.tissue.shape == (2, *BOX, 3)


def test_a_box_as_large_as_the_grid_changes_nothing(tiny_recipe, tiny_params):
    batch = batch_of()

    def loss(recipe, params):
        frozen = {"align": tiny_params.align}
        key = jax.random.key(0)
        return loss_of_joint(recipe, params, frozen, batch, key, jnp.int32(0))[0]

    params = {"disentangle": tiny_params.disentangle, "segment": tiny_params.segment}
    one, other = (
        jax.jit(jax.value_and_grad(partial(loss, recipe)))(params)
        for recipe in (tiny_recipe, tiny_recipe.with_fields(box=GRID))
    )
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), one, other)


@pytest.mark.parametrize("box", [(4, 32, 42), (3, 32, 24)])
def test_a_box_that_does_not_lie_in_the_grid_is_refused(box, tiny_recipe):
    with pytest.raises(UserError, match=r"box has \d+ voxels along [zyx]"):
        check_recipe(tiny_recipe.with_fields(box=box))
