from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adn_jax.benchmarks.job import Job
from adn_jax.benchmarks.ours import check_result, compile_program, make_program
from adn_jax.errors import UserError
from adn_jax.pipeline.adn import apply_adn
from tests.training.tiny import small_recipe, tiny_recipe

pytestmark = pytest.mark.usefixtures("unchecked_annotations")


def job(what, **changes):
    values = {"recipe": small_recipe(), "batch": 2} | changes
    return Job("steps", what=what, **values)


@pytest.mark.parametrize("what", ["align", "joint"])
def test_a_call_is_one_update_in_the_memory_of_the_state(what):
    program = make_program(job(what))
    before = jax.tree.map(np.asarray, program.state.params)
    lower_s, compile_s, memory = compile_program(program)
    values = program()
    assert lower_s > 0
    assert compile_s > 0
    states = sum(leaf.nbytes for leaf in jax.tree.leaves(program.state))
    assert memory.aliased == pytest.approx(states, abs=64)
    assert memory.arguments > states + program.batch.volume.nbytes
    assert np.isfinite(values["loss"])
    assert program.state.step == 1
    moved = jax.tree.map(
        lambda a, b: bool((a != b).any()), before, program.state.params
    )
    assert all(jax.tree.leaves(moved))
    for _ in range(15):  # beyond the recipe's last step
        values = program()
    check_result(values)


def test_the_joint_step_has_frozen_nets_of_its_recipe():
    recipe = small_recipe(tissue_source="network")
    assert set(make_program(job("joint")).frozen) == {"align"}
    program = make_program(job("joint", recipe=recipe))
    assert set(program.frozen) == {"align", "tissue"}
    assert program.frozen["tissue"]["head"]["kernel"].shape[-1] == 5


def test_inference_is_the_prediction_of_the_chain_on_every_device():
    program = make_program(job("inference", devices=2))
    compile_program(program)
    prediction, again = program(), program()
    recipe = small_recipe()
    expected = jax.jit(apply_adn, static_argnums=2)(
        program.state, program.batch.volume, recipe.system
    ).prediction
    np.testing.assert_allclose(prediction, expected, atol=1e-6)
    np.testing.assert_array_equal(prediction, again)
    assert len(prediction.sharding.device_set) == 2


def test_what_cannot_be_split_is_refused():
    with pytest.raises(UserError, match=r"the batch is 3, .* over 2 devices"):
        make_program(job("joint", batch=3, devices=2))
    with pytest.raises(UserError, match=r"99 devices are wanted and jax sees 2 \(cpu"):
        make_program(job("joint", devices=99))


def test_a_grid_that_does_not_fit_is_refused():
    recipe = tiny_recipe()
    recipe = recipe.with_fields(
        prepare=replace(recipe.system.prepare, shape=(3, 16, 16))
    )
    with pytest.raises(UserError, match="3 x 16 x 16"):
        compile_program(make_program(job("inference", recipe=recipe)))


def test_a_result_that_is_not_finite_is_refused():
    check_result({"a": jnp.ones(2), "b": jnp.zeros(())})
    with pytest.raises(UserError, match="the result is not finite"):
        check_result({"a": jnp.ones(2), "b": jnp.float32(jnp.nan)})
