import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from adn_jax.config import OptimizerSettings
from adn_jax.training.steps import make_optimizer

SETTINGS = OptimizerSettings(learning_rate=1e-2, weight_decay=0.1)
STEPS = 6
START = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
GRADIENTS = np.random.default_rng(1).standard_normal((STEPS, 3, 4)).astype(np.float32)


def updated(settings, gradients=GRADIENTS):
    optimizer = make_optimizer(settings, STEPS)
    params = {"w": jnp.asarray(START)}
    state = optimizer.init(params)
    path = [params["w"]]
    for gradient in gradients:
        updates, state = jax.jit(optimizer.update)({"w": gradient}, state, params)
        params = optax.apply_updates(params, updates)
        path.append(params["w"])
    return path


def test_equals_torch_with_its_poly_decay():
    torch = pytest.importorskip("torch")
    weight = torch.nn.Parameter(torch.from_numpy(START.copy()))
    adamw = torch.optim.AdamW([weight], lr=1e-2, betas=(0.9, 0.999), weight_decay=0.1)
    decay = torch.optim.lr_scheduler.LambdaLR(adamw, lambda s: (1 - s / STEPS) ** 0.9)
    path = updated(SETTINGS)
    for step, gradient in enumerate(GRADIENTS):
        weight.grad = torch.from_numpy(gradient)
        adamw.step()
        decay.step()
        np.testing.assert_allclose(
            path[step + 1], weight.detach().numpy(), rtol=2e-6, atol=1e-6
        )


def test_equals_the_formula():
    rate, (b1, b2), decay = 1e-2, (0.9, 0.999), 0.1
    weight, first, second = START.astype(float), 0.0, 0.0
    path = updated(SETTINGS)
    for step, gradient in enumerate(GRADIENTS.astype(float)):
        now = rate * (1 - step / STEPS) ** 0.9
        first = b1 * first + (1 - b1) * gradient
        second = b2 * second + (1 - b2) * gradient**2
        mean = first / (1 - b1 ** (step + 1))
        spread = np.sqrt(second / (1 - b2 ** (step + 1)))
        weight = weight - now * (mean / (spread + 1e-8) + decay * weight)
        np.testing.assert_allclose(path[step + 1], weight, rtol=2e-5)


def test_clipping_bounds_the_gradient():
    clipped = OptimizerSettings(learning_rate=1e-2, weight_decay=0.1, clip_norm=0.5)
    norms = np.sqrt((GRADIENTS**2).sum((1, 2), keepdims=True))
    by_hand = GRADIENTS * np.minimum(1, 0.5 / norms)
    assert (norms > 0.5).all()
    np.testing.assert_allclose(updated(clipped), updated(SETTINGS, by_hand), rtol=1e-5)


def test_rmsprop_equals_the_formula():
    settings = OptimizerSettings(
        kind="rmsprop",
        learning_rate=1e-2,
        momentum=0.6,
        l1=1e-2,
        l2=1e-3,
        halve_at=(0.5,),
    )
    optimizer = make_optimizer(settings, STEPS)
    params = {"kernel": jnp.asarray(START), "bias": jnp.asarray(START)}
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    by_hand = {"kernel": START.astype(float), "bias": START.astype(float)}
    squares = dict.fromkeys(params, 0.0)
    speeds = dict.fromkeys(params, 0.0)
    for step, gradient in enumerate(GRADIENTS):
        updates, state = update(dict.fromkeys(params, gradient), state, params)
        params = optax.apply_updates(params, updates)
        rate = 1e-2 * (0.5 if step >= STEPS // 2 else 1)
        for name, weight in by_hand.items():
            slope = gradient.astype(float)
            if name == "kernel":
                slope = slope + 1e-2 * np.sign(weight) + 2e-3 * weight
            squares[name] = 0.9 * squares[name] + 0.1 * slope**2
            move = rate * slope / np.sqrt(squares[name] + 1e-4)
            speeds[name] = 0.6 * speeds[name] + move
            by_hand[name] = weight - move - 0.6 * speeds[name]
            np.testing.assert_allclose(params[name], by_hand[name], atol=1e-5)
