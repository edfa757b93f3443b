from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from adn_jax.config import UNetSettings
from adn_jax.distributed.mesh import device_mesh, place_cases, replicate, replicated
from adn_jax.errors import UserError
from adn_jax.models import apply_unet, init_unet
from adn_jax.runtime.platform import compiler_options
from adn_jax.training.loop import saved_items, state_from_items
from adn_jax.training.steps import (
    ABSENT,
    average_of_parts,
    initial_state,
    make_train_step,
)
from adn_jax.types import Batch

KEY = jax.random.key(0)
OPTIMIZER = optax.sgd(0.1)


def loss(params, frozen, batch, key, step):
    """Squared distance of the parameter to the mean volume plus frozen offset."""
    distance = params["w"] - batch.volume.mean() - frozen
    noise = jax.random.normal(key)
    return distance**2, {"distance": distance, "noise": noise, "step": step}


def make_batch(place=jnp.asarray, shape=(2, 2, 2)):
    volume = np.random.default_rng(0).random((4, *shape, 1), np.float32)
    nothing = np.zeros_like(volume)
    tissue = np.zeros(volume.shape[:-1], np.uint8)
    return Batch(
        place(volume),
        place(nothing),
        place(tissue),
        place(np.arange(4, dtype=np.int32)),
    )


def fresh():
    return initial_state({"w": jnp.float32(2)}, OPTIMIZER)


def test_one_update_is_the_gradient_step():
    batch, frozen = make_batch(), jnp.float32(0.5)
    state, values = make_train_step(loss, OPTIMIZER, KEY)(fresh(), frozen, batch)
    distance = 2 - float(batch.volume.mean()) - 0.5
    assert values["loss"] == pytest.approx(distance**2)
    assert values["gradient_norm"] == pytest.approx(2 * distance)
    assert values["distance"] == pytest.approx(distance)
    assert state.params["w"] == pytest.approx(2 - 0.1 * 2 * distance)
    assert state.step == 1


def test_randomness_follows_the_step_not_the_calls():
    step = make_train_step(loss, OPTIMIZER, KEY)
    state, first = step(fresh(), jnp.float32(0), make_batch())
    _, second = step(state, jnp.float32(0), make_batch())
    _, again = step(fresh(), jnp.float32(0), make_batch())
    assert first["noise"] == again["noise"]
    assert first["noise"] != second["noise"]
    assert (first["step"], second["step"]) == (0, 1)


def test_a_batch_that_lacks_a_case_teaches_nothing():
    batch = replace(make_batch(), case=jnp.array([0, -1, 2, 3], jnp.int32))
    step = make_train_step(loss, OPTIMIZER, KEY)
    state, values = step(fresh(), jnp.float32(0), batch)
    assert (state.step, state.params["w"], values[ABSENT]) == (0, 2, 1)
    state, values = step(state, jnp.float32(0), make_batch())
    assert (state.step, values[ABSENT]) == (1, 0)


def test_compiled_once_and_state_is_donated():
    mesh = device_mesh(2)
    step = make_train_step(loss, OPTIMIZER, KEY, replicated(mesh))
    start = replicate(fresh(), mesh)
    state = start
    for _ in range(3):
        state, _ = step(
            state, jnp.float32(0), make_batch(lambda a: place_cases(a, mesh))
        )
    assert step._cache_size() == 1
    assert start.params["w"].is_deleted()


def test_two_devices_give_what_one_gives():
    results = []
    for count in (1, 2):
        mesh = device_mesh(count)
        step = make_train_step(loss, OPTIMIZER, KEY, replicated(mesh))
        batch = make_batch(lambda array, mesh=mesh: place_cases(array, mesh))
        state, values = step(replicate(fresh(), mesh), jnp.float32(0), batch)
        results.append((float(state.params["w"]), float(values["loss"])))
    assert results[0] == pytest.approx(results[1], rel=1e-6)


def loss_of_cases(params, frozen, batch, key, _):
    """Mean over cases of the squared distance to each one's mean volume."""
    distances = params["w"] - batch.volume.mean((1, 2, 3, 4)) - frozen
    values = {"cases": jnp.float32(len(batch.case)), "noise": jax.random.normal(key)}
    return (distances**2).mean(), values


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_micro_batches_give_what_the_batch_gives(monkeypatch, backend, devices):
    """In line, as on a CPU, and as a loop."""
    mesh = device_mesh(devices)
    batch = make_batch(lambda array: place_cases(array, mesh))
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    results = []
    for parts in (1, 2):
        step = make_train_step(loss_of_cases, OPTIMIZER, KEY, replicated(mesh), parts)
        state, values = step(replicate(fresh(), mesh), jnp.float32(0.5), batch)
        assert values["cases"] == 4 / parts
        results.append((float(state.params["w"]), float(values["loss"])))
    assert results[0] == pytest.approx(results[1], rel=1e-6)


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_only_elsewhere_than_on_a_cpu_micro_batches_are_a_loop(monkeypatch, backend):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    batch = make_batch()
    average = average_of_parts(lambda *inputs: inputs[2].volume.mean(), 2)
    averaged = jax.jit(lambda volume: average(*inputs_with(batch, volume)))
    text = averaged.lower(batch.volume).as_text()
    assert ("stablehlo.while" in text) == (backend == "gpu")


def inputs_with(batch, volume):
    """Arguments of a loss without parameters."""
    return None, None, replace(batch, volume=volume), KEY, jnp.int32(0)


def test_a_batch_that_does_not_divide_is_refused():
    step = make_train_step(loss_of_cases, OPTIMIZER, KEY, micro_batches=3)
    with pytest.raises(UserError, match="of 4 cases does not divide into 3 micro-batc"):
        step(fresh(), jnp.float32(0.5), make_batch())


def test_on_a_cpu_parts_take_the_memory_of_one():
    settings = UNetSettings(widths=(8, 16))
    params = init_unet(KEY, settings)
    batch = make_batch(shape=(8, 16, 16))

    def gradient(params, _frozen, batch, key, _step):
        def loss(params):
            return apply_unet(params, batch.volume, settings, key=key).sum()

        return jax.grad(loss)(params)

    def planned(parts):
        average = jax.jit(average_of_parts(gradient, parts))
        lowered = average.lower(params, None, batch, KEY, jnp.int32(0))
        program = lowered.compile(compiler_options())
        return program.memory_analysis().temp_size_in_bytes

    assert planned(2) < 0.65 * planned(1)


def test_every_case_is_in_one_part_and_each_part_draws_for_itself():
    def cases_and_noise(_params, _frozen, batch, key, _step):
        chosen = jnp.zeros(4).at[batch.case].add(1)
        return chosen, jax.random.normal(key)

    average = average_of_parts(cases_and_noise, 2)
    chosen, noise = average(None, None, make_batch(), KEY, jnp.int32(0))
    np.testing.assert_array_equal(chosen, 0.5)
    draws = [jax.random.normal(jax.random.fold_in(KEY, part)) for part in range(2)]
    assert noise == pytest.approx(np.mean(draws))


def test_the_average_follows_the_parameters_and_forgets_the_start():
    decay = 0.6
    step = make_train_step(loss, OPTIMIZER, KEY, ema_decay=decay)
    state = initial_state({"w": jnp.float32(2)}, OPTIMIZER, with_ema=True)
    by_hand = 2.0
    for number in range(30):
        state, _ = step(state, jnp.float32(0), make_batch())
        kept = min(decay, number / (number + 10))
        by_hand = kept * by_hand + (1 - kept) * float(state.params["w"])
        assert state.ema["w"] == pytest.approx(by_hand, rel=1e-5)
        assert state.best_params is state.ema
    assert fresh().best_params == fresh().params


def test_a_skipped_update_leaves_the_average():
    step = make_train_step(loss, OPTIMIZER, KEY, ema_decay=0.5)
    state = initial_state({"w": jnp.float32(2)}, OPTIMIZER, with_ema=True)
    state, _ = step(state, jnp.float32(0), make_batch())
    before = float(state.ema["w"])
    state, _ = step(state, jnp.float32(np.nan), make_batch())
    assert float(state.ema["w"]) == before


@pytest.mark.parametrize("with_ema", [True, False])
def test_a_saved_state_is_the_same_again(with_ema):
    state = initial_state({"w": jnp.float32(2)}, optax.adam(0.1), with_ema)
    step = make_train_step(loss, optax.adam(0.1), KEY, ema_decay=0.5)
    state, _ = step(state, jnp.float32(0), make_batch())
    items = saved_items(state)
    assert items["params"] is state.best_params
    again = state_from_items(**items)
    assert jax.tree.structure(again) == jax.tree.structure(state)
    for one, other in zip(jax.tree.leaves(again), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(one, other)
