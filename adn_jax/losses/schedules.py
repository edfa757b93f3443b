"""Weights that change over the steps."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from adn_jax.config.schedules import Schedule, parse_schedule

Step = Integer[Array, ""] | int
Factor = Float[Array, ""] | float


def factor_at(schedule: Schedule, step: Step) -> Float[Array, ""]:
    """Factor of a weight in an update (`step` updates are done before it).

    It is the first factor up to the first step, the second from the second step on,
    and linear between.
    """
    done = jnp.asarray(step).astype(jnp.float32) - schedule.from_step
    share = jnp.clip(done / (schedule.to_step - schedule.from_step), 0, 1)
    change = schedule.to_factor - schedule.from_factor
    return schedule.from_factor + change * share


def factor_of(name: str, schedules: tuple[str, ...], step: Step) -> Factor:
    """Product of all schedules of a term; the plain number 1 where it has none."""
    factor: Factor = 1.0
    for schedule in map(parse_schedule, schedules):
        if schedule.term == name:
            factor = factor * factor_at(schedule, step)
    return factor
