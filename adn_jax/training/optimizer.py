"""AdamW with poly decay, as the paper trains, and RMSProp, as DeepMedic does."""

import jax
import jax.numpy as jnp
import optax

from adn_jax.config import OptimizerSettings
from adn_jax.types import Params


def make_optimizer(
    settings: OptimizerSettings, steps: int
) -> optax.GradientTransformation:
    """The optimizer of a stage of so many steps, after optional clipping."""
    make = {"adamw": _make_adamw, "rmsprop": _make_rmsprop}[settings.kind]
    optimizer = make(settings, steps)
    if settings.clip_norm is None:
        return optimizer
    return optax.chain(optax.clip_by_global_norm(settings.clip_norm), optimizer)


def _make_adamw(
    settings: OptimizerSettings, steps: int
) -> optax.GradientTransformation:
    """AdamW whose rate falls as (1 - step / steps) ** power.

    torch's AdamW and optax's agree: epsilon 1e-8 outside the root, decoupled weight
    decay times the current rate, here on every parameter as in the authors' code.
    """
    rate = optax.polynomial_schedule(
        init_value=settings.learning_rate,
        end_value=0.0,
        power=settings.decay_power,
        transition_steps=steps,
    )
    b1, b2 = settings.betas
    return optax.adamw(rate, b1=b1, b2=b2, eps=1e-8, weight_decay=settings.weight_decay)


def _make_rmsprop(
    settings: OptimizerSettings, steps: int
) -> optax.GradientTransformation:
    """RMSProp with Nesterov momentum, the penalties of kernels in its gradient.

    Kamnitsas et al. 2017: decay 0.9, epsilon 1e-4; the rate is halved at shares of the
    steps.
    """
    halvings: dict[int, float] = {}
    for share in settings.halve_at:
        step = round(share * steps)
        halvings[step] = halvings.get(step, 1.0) * 0.5
    rate = optax.piecewise_constant_schedule(settings.learning_rate, halvings)
    return optax.chain(
        _penalise_kernels(settings.l1, settings.l2),
        optax.rmsprop(rate, 0.9, 1e-4, momentum=settings.momentum, nesterov=True),
    )


def _penalise_kernels(l1: float, l2: float) -> optax.GradientTransformation:
    """Add the gradient of l1 sum |w| + l2 sum w^2 over the kernels."""

    def add(gradient: Params, params: Params) -> Params:
        return jax.tree.map(
            lambda slope, weight: slope + l1 * jnp.sign(weight) + 2 * l2 * weight,
            gradient,
            params,
        )

    def kernels(params: Params) -> Params:
        return jax.tree.map_with_path(
            lambda path, _: path[-1] == jax.tree_util.DictKey("kernel"), params
        )

    return optax.masked(optax.stateless(add), kernels)
