"""Numbers of each term's gradient, of the real losses on networks of three numbers."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adn_jax.config import JointLossSettings
from adn_jax.distributed.mesh import device_mesh, place_cases, replicate, replicated
from adn_jax.losses.recipes import joint_loss, weighted_joint_terms
from adn_jax.pipeline.adn import Targets
from adn_jax.training.steps import make_term_gradients
from adn_jax.types import Batch
from tests.losses.arrays import make_outputs, random_map

KEY, STEP = jax.random.key(3), jnp.int32(60)
SHAPE = (4, 3, 4, 6, 1)
SETTINGS = JointLossSettings(
    focal_tversky=0.5,
    warm_start_steps=20,
    schedules=("tissue:40:80", "regularisation:0:120:1:0"),
)
NAMES = {
    *("cross_entropy", "generalised_dice", "focal_tversky"),
    *("tissue", "size", "symmetric", "intrinsic", "warm_start"),
}


def params():
    return {"D": {"slope": jnp.float32(0.7)}, "F": jnp.array([-1, 0.4], jnp.float32)}


def make_batch(place=jnp.asarray):
    volume = np.array(random_map(0, SHAPE))
    lesion = (np.array(random_map(1, SHAPE)) > 0.6).astype(np.float32)
    tissue = np.random.default_rng(2).integers(0, 4, SHAPE[:-1]).astype(np.uint8)
    case = np.arange(4, dtype=np.int32)
    return Batch(*map(place, (volume, lesion, tissue, case)))


def of_stage(function):
    """A function of outputs, targets, settings and step, as the stage has it."""

    def apply(params, frozen, batch, key, step):
        noise = 0.01 * jax.random.normal(key)
        logits = params["D"]["slope"] * batch.volume + noise
        pathological = jax.nn.sigmoid(logits - frozen)
        bias, slope = params["F"]
        prediction = jax.nn.sigmoid(bias + slope * (batch.volume - pathological))
        outputs = make_outputs(batch.volume, pathological, prediction, prediction)
        tissue = jnp.stack([batch.tissue == each for each in (1, 2, 3)], -1)
        targets = Targets(batch.lesion, batch.lesion, tissue.astype(jnp.float32))
        return function(outputs, targets, SETTINGS, step)

    return apply


TERMS, LOSS = of_stage(weighted_joint_terms), of_stage(joint_loss)
MEASURE = make_term_gradients(TERMS)


def two_terms(params, frozen, batch, _key, step):
    """Means over cases, so that micro-batches have the gradient of the batch."""
    distances = params["F"][0] - batch.volume.mean((1, 2, 3, 4)) - frozen
    slope = params["D"]["slope"] * params["F"][1] * batch.volume.mean() * step
    return {"distance": jnp.mean(distances**2), "slope": slope}


def two_together(*inputs):
    return sum(two_terms(*inputs).values()), {}


@partial(jax.jit, static_argnums=(0, 1))
def gradients_of(terms, loss, params, frozen, batch, key, step):
    """Gradient of each term alone, and of the loss, by jax.grad."""
    inputs = frozen, batch, jax.random.fold_in(key, step), step
    names = jax.eval_shape(terms, params, *inputs)
    each = {n: jax.grad(lambda p, n=n: terms(p, *inputs)[n])(params) for n in names}
    return each, jax.grad(lambda p: loss(p, *inputs)[0])(params)


def flat_gradients(terms, loss, step):
    """The same as flat arrays."""

    def flat(gradient):
        return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient)])

    inputs = params(), jnp.float32(0.1), make_batch(), KEY, step
    each, total = gradients_of(terms, loss, *inputs)
    return {name: flat(gradient) for name, gradient in each.items()}, flat(total)


def measured(measure, step=STEP):
    return measure(params(), jnp.float32(0.1), make_batch(), KEY, step)


def same_as(found, gradients, total):
    norms = {name: np.linalg.norm(each) for name, each in gradients.items()}
    for name, norm in norms.items():
        cosine = gradients[name] @ total / (norm * np.linalg.norm(total) or 1)
        share = norm / sum(norms.values())
        for kind, expected in (("norm", norm), ("share", share), ("cosine", cosine)):
            value = float(found[f"gradient_{kind}/{name}"])
            assert value == pytest.approx(expected, rel=1e-4, abs=1e-6), (kind, name)
    assert len(found) == 3 * len(norms)


@pytest.mark.parametrize("step", [5, 60])
def test_each_term_has_its_own_gradient_and_all_sum_to_the_losss(step):
    step = jnp.int32(step)
    gradients, total = flat_gradients(TERMS, LOSS, step)
    assert set(gradients) == NAMES
    np.testing.assert_allclose(sum(gradients.values()), total, rtol=1e-4, atol=1e-6)
    found = measured(MEASURE, step)
    same_as(found, gradients, total)
    warm = float(found["gradient_share/warm_start"])
    cold = sum(float(found[f"gradient_share/{n}"]) for n in ("size", "symmetric"))
    assert (warm > 0) == (step < 20)
    assert (cold > 0) == (step >= 20)
    shares = [float(found[name]) for name in found if "share" in name]
    assert sum(shares) == pytest.approx(1, rel=1e-5)


def test_a_measurement_can_be_part_of_a_larger_program():
    measure = jax.jit(make_term_gradients(two_terms))
    same_as(measured(measure), *flat_gradients(two_terms, two_together, STEP))


def test_two_devices_measure_what_one_does():
    mesh = device_mesh(2)
    measure = make_term_gradients(TERMS, replicated(mesh))
    batch = make_batch(lambda array: place_cases(array, mesh))
    start = replicate((params(), np.float32(0.1)), mesh)
    with jax.set_mesh(mesh):
        found = measure(*start, batch, KEY, STEP)
    assert all(value.sharding.is_fully_replicated for value in found.values())
    for name, value in measured(MEASURE).items():
        assert float(found[name]) == pytest.approx(float(value), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_micro_batches_measure_the_gradient_of_the_batch(monkeypatch, backend):
    """In line, as on a CPU, and as a loop."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    measure = make_term_gradients(two_terms, micro_batches=2)
    same_as(measured(measure), *flat_gradients(two_terms, two_together, STEP))


def test_a_second_measurement_compiles_nothing_and_leaves_its_inputs(caplog):
    inputs = params(), jnp.float32(0.1), make_batch(), KEY
    MEASURE(*inputs, STEP)
    with jax.log_compiles():
        caplog.clear()
        again = MEASURE(*inputs, jnp.int32(61))
    assert not [text for text in caplog.messages if "Compiling" in text]
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(inputs))
    assert np.isfinite([float(value) for value in again.values()]).all()


def test_terms_without_gradient_give_zeros_not_nan():
    def terms(params, *_):
        return {"still": 0 * params["F"].sum(), "moving": params["F"].sum()}

    found = measured(make_term_gradients(terms))
    assert found["gradient_norm/still"] == found["gradient_cosine/still"] == 0
    assert float(found["gradient_cosine/moving"]) == pytest.approx(1)

    def nothing(params, *_):
        return {"still": 0 * params["F"].sum()}

    assert set(map(float, measured(make_term_gradients(nothing)).values())) == {0.0}
