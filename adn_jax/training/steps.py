"""One update of any stage, as a pure function that is compiled once."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax
from jax.sharding import Sharding
from jaxtyping import Array, Float, Integer

from adn_jax.training.state import TrainState
from adn_jax.types import Batch, Key, Params

Values = Mapping[str, Float[Array, ""]]
"""Named numbers of one update."""

Loss = Callable[
    [Params, Any, Batch, Key, Integer[Array, ""]], tuple[Float[Array, ""], Values]
]
"""(params, frozen, batch, key, step) -> (total, named values)."""

TrainStep = Callable[[TrainState, Any, Batch], tuple[TrainState, Values]]


def make_train_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    key: Key,
    sharding: Sharding | None = None,
) -> TrainStep:
    """Compile (state, frozen, batch) -> (next state, values before the update).

    Args:
      loss: what to lower; only its first argument is trained.
      optimizer: how parameters follow the gradient.
      key: the stage's randomness; the step is folded in, so nothing is stored.
      sharding: where state and values live; None leaves it to the inputs.

    Returns:
      The step. It reuses the memory of the state that it is given.
    """

    def train_step(
        state: TrainState, frozen: Any, batch: Batch
    ) -> tuple[TrainState, Values]:
        step_key = jax.random.fold_in(key, state.step)
        (total, values), gradient = jax.value_and_grad(loss, has_aux=True)(
            state.params, frozen, batch, step_key, state.step
        )
        with jax.named_scope("optimizer"):
            updates, opt_state = optimizer.update(
                gradient, state.opt_state, state.params
            )
            params = optax.apply_updates(state.params, updates)
            norm = optax.tree.norm(gradient)
        values = {"loss": total, **values, "gradient_norm": norm}
        return TrainState(state.step + 1, params, opt_state), values

    return jax.jit(train_step, donate_argnums=0, out_shardings=sharding)
