"""How strongly each term of a loss pulls at the parameters, and which way."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Sharding
from jaxtyping import Array, Float, Integer

from adn_jax.training.steps import Metrics, average_of_parts
from adn_jax.types import Batch, Key, Params

Scalar = Float[Array, ""]

WeightedTerms = Callable[[Params, Any, Batch, Key, Integer[Array, ""]], Metrics]
"""(params, frozen, batch, key, step) -> named parts of the loss."""

Measure = Callable[[Params, Any, Batch, Key, Integer[Array, ""]], Metrics]
"""The same arguments -> named numbers of each term's gradient."""


def make_term_gradients(
    terms: WeightedTerms, sharding: Sharding | None = None, micro_batches: int = 1
) -> Measure:
    """Compile the measurement of each term's gradient (see `summarise`).

    Args:
      terms: the weighted terms whose sum is the loss; it is computed once, and gone
        back through once for the sum and once for each term.
      sharding: where the values live; None leaves it to the inputs.
      micro_batches: as of the train step. With more than one, each way back computes
        its part of the terms again, so that it needs no more memory than the step.

    Returns:
      The measurement of one update, made before it: `params` and `step` are those of
      its state, `key` is the stage's, into which the step is folded as in the update.
      Nothing that it is given is changed or donated.
    """

    def forward(
        params: Params, frozen: Any, batch: Batch, key: Key, step: Integer[Array, ""]
    ) -> Any:
        part = jax.checkpoint(terms) if micro_batches > 1 else terms
        whole = average_of_parts(part, micro_batches)
        step_key = jax.random.fold_in(key, step)
        return jax.vjp(lambda each: whole(each, frozen, batch, step_key, step), params)

    def back(backward: Callable[[Any], Any], cotangent: Any) -> Params:
        (gradient,) = backward(cotangent)
        return gradient

    # Two programs instead of one: the way back is compiled once for all terms.
    run_forward, run_back = jax.jit(forward), jax.jit(back)
    compare = jax.jit(_norm_and_product, out_shardings=sharding)
    finish = jax.jit(summarise, out_shardings=sharding)

    def measure(
        params: Params, frozen: Any, batch: Batch, key: Key, step: Integer[Array, ""]
    ) -> Metrics:
        values, backward = run_forward(params, frozen, batch, key, step)
        total = run_back(backward, one_hot(values))
        compared = {
            name: compare(run_back(backward, one_hot(values, name)), total)
            for name in values
        }
        return finish(compared, compare(total, total)[0])

    return measure


def one_hot(values: Metrics, name: str | None = None) -> dict[str, Scalar]:
    """A one for the term `name` (None: for all) and zeros for the others."""
    return {
        each: jnp.full_like(value, name is None or each == name)
        for each, value in values.items()
    }


def _norm_and_product(gradient: Params, total: Params) -> tuple[Scalar, Scalar]:
    """Norm over all parameters, and the scalar product with the total gradient."""
    return optax.tree.norm(gradient), jnp.asarray(optax.tree.vdot(gradient, total))


def summarise(compared: Mapping[str, tuple[Scalar, Scalar]], total: Scalar) -> Metrics:
    """Three numbers of each term, from its norm and product and the total's norm.

    `gradient_norm/TERM` is the Euclidean norm over all trained parameters;
    `gradient_share/TERM` is that over the sum of all terms' norms, 0 to 1;
    `gradient_cosine/TERM` is the cosine of the angle to the gradient of the whole loss,
    -1 to 1: below 0 the term grows where the loss falls. What is divided by zero is 0.
    """
    numbers = {}
    together = jnp.asarray(sum(norm for norm, _ in compared.values()))
    for name, (norm, product) in compared.items():
        numbers[f"gradient_norm/{name}"] = norm
        numbers[f"gradient_share/{name}"] = _safe_ratio(norm, together)
        numbers[f"gradient_cosine/{name}"] = _safe_ratio(product, norm * total)
    return numbers


def _safe_ratio(above: Scalar, below: Scalar) -> Scalar:
    """The quotient; 0 where the divisor is."""
    return jnp.where(below > 0, above / jnp.where(below > 0, below, 1), 0)
