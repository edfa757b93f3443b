"""AdamW with poly decay, as the paper trains."""

import optax

from adn_jax.config import OptimizerSettings


def make_optimizer(
    settings: OptimizerSettings, steps: int
) -> optax.GradientTransformation:
    """AdamW whose rate falls as (1 - step / steps) ** power, after optional clipping.

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
    adamw = optax.adamw(
        rate, b1=b1, b2=b2, eps=1e-8, weight_decay=settings.weight_decay
    )
    if settings.clip_norm is None:
        return adamw
    return optax.chain(optax.clip_by_global_norm(settings.clip_norm), adamw)
