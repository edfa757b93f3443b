"""What an update changes: arrays only, so that it can be saved and donated whole."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Integer

from adn_jax.types import Params, register_arrays


@register_arrays
@dataclass(frozen=True)
class TrainState:
    """Updates done, parameters, and the optimizer's moments."""

    step: Integer[Array, ""]
    params: Params
    opt_state: optax.OptState
    average: Params = None
    """Moving average of the parameters; None where none is kept."""

    @property
    def best_params(self) -> Params:
        """What is validated and used: the average, where there is one."""
        return self.params if self.average is None else self.average


def initial_state(
    params: Params, optimizer: optax.GradientTransformation, averages: bool = False
) -> TrainState:
    """State before the first update; an average starts at the parameters."""
    average = jax.tree.map(jnp.copy, params) if averages else None
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), average)


def follow(
    average: Params, params: Params, decay: float, step: Integer[Array, ""]
) -> Params:
    """The average after an update (from 0); None where none is kept.

    The first updates count more, share (step) / (step + 10) at most, so that the start
    is soon forgotten.
    """
    if average is None:
        return None
    kept = jnp.minimum(decay, step / (step + 10))
    return jax.tree.map(lambda old, new: kept * old + (1 - kept) * new, average, params)
