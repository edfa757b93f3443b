"""What an update changes: arrays only, so that it can be saved and donated whole."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Integer

from adn_jax.types import Params


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Updates done, parameters, and the optimizer's moments."""

    step: Integer[Array, ""]
    params: Params
    opt_state: optax.OptState


def initial_state(
    params: Params, optimizer: optax.GradientTransformation
) -> TrainState:
    """State before the first update."""
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))
