"""The state of training, and one update of it as a pure function compiled once.

The state holds arrays only, so that it can be saved and donated whole.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Sharding
from jaxtyping import Array, Float, Integer

from adn_jax.types import Batch, Key, Params, register_arrays

Metrics = Mapping[str, Float[Array, ""]]
"""Named numbers of one update."""

LossAux = Mapping[str, Any]
"""Named numbers, and under `STATISTICS` a part of the parameters."""

Loss = Callable[
    [Params, Any, Batch, Key, Integer[Array, ""]], tuple[Float[Array, ""], LossAux]
]
"""(params, frozen, batch, key, step) -> (total, what else was found)."""

ABSENT = "absent"
"""Name of the value that says whether an update lacked a case."""

STATISTICS = "statistics"
"""Name of the value that holds the next running statistics of networks that have them,
as the part of the parameters that they are; no gradient moves them."""


@register_arrays
@dataclass(frozen=True)
class TrainState:
    """Updates done, parameters, and the optimizer's moments."""

    step: Integer[Array, ""]
    params: Params
    opt_state: optax.OptState
    ema: Params = None
    """Exponential moving average (EMA) of the parameters; None if none is kept."""

    @property
    def best_params(self) -> Params:
        """What is validated and used: the EMA, if there is one."""
        return self.params if self.ema is None else self.ema


def initial_state(
    params: Params, optimizer: optax.GradientTransformation, with_ema: bool = False
) -> TrainState:
    """State before the first update; the EMA starts at the parameters."""
    ema = jax.tree.map(jnp.copy, params) if with_ema else None
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), ema)


def _update_ema(
    ema: Params, params: Params, decay: float, step: Integer[Array, ""]
) -> Params:
    """The EMA after update number `step` (from 0); None if none is kept.

    Its decay grows from 0 as step / (step + 10), so that the start is soon forgotten.
    """
    if ema is None:
        return None
    kept = jnp.minimum(decay, step / (step + 10))
    return jax.tree.map(lambda old, new: kept * old + (1 - kept) * new, ema, params)


TrainStep = Callable[[TrainState, Any, Batch], tuple[TrainState, Metrics]]


def make_train_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    key: Key,
    sharding: Sharding | None = None,
    micro_batches: int = 1,
    ema_decay: float = 0.0,
) -> TrainStep:
    """Compile (state, frozen, batch) -> (next state, values before the update).

    Args:
      loss: what to lower; only its first argument is trained.
      optimizer: how parameters follow the gradient.
      key: the stage's randomness; the step is folded in, so nothing is stored.
      sharding: where state and values live; None leaves it to the inputs.
      micro_batches: parts of a batch that are computed one after the other.
      ema_decay: decay of the state's EMA, if it has one.

    Returns:
      The step. It reuses the memory of the state that it is given. Where the loss or
      its gradient is not finite, it counts, but the rest of the state stays as it was.
      Where a case is absent it does not count either.
    """

    def train_step(
        state: TrainState, frozen: Any, batch: Batch
    ) -> tuple[TrainState, Metrics]:
        step_key = jax.random.fold_in(key, state.step)
        (total, values), gradient = average_of_parts(
            jax.value_and_grad(loss, has_aux=True), micro_batches
        )(state.params, frozen, batch, step_key, state.step)
        values = dict(values)
        statistics = values.pop(STATISTICS, {})
        with jax.named_scope("optimizer"):
            updates, opt_state = optimizer.update(
                gradient, state.opt_state, state.params
            )
            params = optax.apply_updates(state.params, updates)
            if statistics:
                params = replace_leaves(params, statistics)
            ema = _update_ema(state.ema, params, ema_decay, state.step)
            norm = optax.tree.norm(gradient)
            absent = jnp.any(batch.case < 0)
            finite = jnp.isfinite(total) & jnp.isfinite(norm)
            params, opt_state, ema = jax.tree.map(
                partial(jnp.where, finite & ~absent),
                (params, opt_state, ema),
                (state.params, state.opt_state, state.ema),
            )
        values = {"loss": total, **values, "gradient_norm": norm}
        values[ABSENT] = absent.astype(jnp.float32)
        return TrainState(state.step + ~absent, params, opt_state, ema), values

    return jax.jit(train_step, donate_argnums=0, out_shardings=sharding)


def replace_leaves(tree: Params, new: Params) -> Params:
    """A tree of dicts with the leaves of another, which may lack some, in place."""
    if not isinstance(new, Mapping):
        return new
    changed = {name: replace_leaves(tree[name], part) for name, part in new.items()}
    return {**tree, **changed}


def was_skipped(numbers: Mapping[str, float]) -> bool:
    """Whether an update with these values left the parameters as they were."""
    return not (
        math.isfinite(numbers["loss"]) and math.isfinite(numbers["gradient_norm"])
    )


def average_of_parts(function: Callable[..., Any], parts: int) -> Callable[..., Any]:
    """The function `(params, frozen, batch, key, step) -> tree`, part by part.

    Its results, averaged over the parts of the batch, take the memory of one. Every
    part has randomness of its own. A part is each `parts`-th case, so that cases which
    several devices share stay where they are.
    """
    if parts == 1:
        return function

    def average(
        params: Params, frozen: Any, batch: Batch, key: Key, step: Integer[Array, ""]
    ) -> Any:
        leaves, tree = jax.tree.flatten(batch)

        def of_part(number: Integer[Array, ""], cases: list[Array]) -> Any:
            part_key = jax.random.fold_in(key, number)
            return function(params, frozen, tree.unflatten(cases), part_key, step)

        def add(total: Any, numbered: tuple[Integer[Array, ""], list[Array]]) -> Any:
            return jax.tree.map(jnp.add, total, of_part(*numbered)), None

        def split(cases: Array) -> Array:
            return cases.reshape(-1, parts, *cases.shape[1:]).swapaxes(0, 1)

        numbered = jnp.arange(parts), [split(cases) for cases in leaves]
        shapes = jax.eval_shape(of_part, *jax.tree.map(lambda each: each[0], numbered))
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        in_line = jax.default_backend() == "cpu"  # convolutions in loops are slow there
        total, _ = jax.lax.scan(add, zeros, numbered, unroll=in_line)
        return jax.tree.map(lambda leaf: leaf / parts, total)

    return average
