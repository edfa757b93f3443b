"""One update: the optimizer, the state of training, and the step as a pure function.

The state holds arrays only, so that it can be saved and donated whole. Beside the step
stands the measurement of each loss term's gradient.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer
from jax.sharding import Sharding
from jaxtyping import Array

from adn_jax.config import OptimizerSettings
from adn_jax.errors import UserError
from adn_jax.models.convolution_cpu import after, when_made
from adn_jax.runtime.platform import compiler_options
from adn_jax.types import Batch, Key, Params, Scalar, Step, register_arrays

Metrics = Mapping[str, Scalar]
"""Named numbers of one update."""

LossAux = Mapping[str, Any]
"""Named numbers, and under `STATISTICS` a part of the parameters."""

LossFunction = Callable[[Params, Any, Batch, Key, Step], tuple[Scalar, LossAux]]
"""(params, frozen, batch, key, step) -> (total, what else was found)."""

WeightedTerms = Callable[[Params, Any, Batch, Key, Step], Metrics]
"""(params, frozen, batch, key, step) -> named parts of the loss, or named numbers of
the gradient of each."""

ABSENT = "absent"
"""Name of the value that says whether an update lacked a case."""

STATISTICS = "statistics"
"""Name of the value that holds the next running statistics of networks that have them,
as the part of the parameters that they are; no gradient moves them."""


def make_optimizer(
    settings: OptimizerSettings, steps: int
) -> optax.GradientTransformation:
    """The optimizer of a stage of so many steps, after optional clipping.

    "adamw", as the paper trains: the rate falls as (1 - step / steps) ** power.
    "rmsprop", as DeepMedic does (Kamnitsas et al. 2017): Nesterov momentum, decay 0.9,
    epsilon 1e-4, L1 and L2 on the kernels; the rate is halved at shares of the steps.
    """
    if settings.kind == "adamw":
        # torch's AdamW and optax's agree: epsilon outside the root, decoupled decay
        # times the current rate, here on every parameter as in the authors' code.
        rate = optax.polynomial_schedule(
            init_value=settings.learning_rate,
            end_value=0.0,
            power=settings.decay_power,
            transition_steps=steps,
        )
        b1, b2 = settings.betas
        optimizer = optax.adamw(
            rate, b1=b1, b2=b2, eps=1e-8, weight_decay=settings.weight_decay
        )
    else:
        halvings: dict[int, float] = {}
        for share in settings.halve_at:
            step = round(share * steps)
            halvings[step] = halvings.get(step, 1.0) * 0.5
        rate = optax.piecewise_constant_schedule(settings.learning_rate, halvings)
        optimizer = optax.chain(
            _penalise_kernels(settings.l1, settings.l2),
            optax.rmsprop(rate, 0.9, 1e-4, momentum=settings.momentum, nesterov=True),
        )
    if settings.clip_norm is None:
        return optimizer
    return optax.chain(optax.clip_by_global_norm(settings.clip_norm), optimizer)


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


@register_arrays
@dataclass(frozen=True)
class TrainState:
    """Updates done, parameters, and the optimizer's moments."""

    step: Step
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


TrainStep = Callable[[TrainState, Any, Batch], tuple[TrainState, Metrics]]


def make_train_step(
    loss: LossFunction,
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
        The step. It reuses the memory of the state that it is given. If the loss or its
        gradient is not finite, it counts, but the rest of the state stays as it was. If
        a case is absent it does not count either.
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
            # Not optax.apply_if_finite: the loss counts, too, and its counters would
            # join the moments in every checkpoint.
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


def _update_ema(ema: Params, params: Params, decay: float, step: Step) -> Params:
    """The EMA after update number `step` (from 0); None if none is kept.

    Its decay grows from 0 as step / (step + 10), so that the start is soon forgotten.
    """
    if ema is None:
        return None
    kept = jnp.minimum(decay, step / (step + 10))
    return jax.tree.map(lambda old, new: kept * old + (1 - kept) * new, ema, params)


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

    # Not optax.MultiSteps: all parts are in one program and one update, so that a
    # checkpoint never holds half of one, and loss and terms are averaged alike.
    def average(params: Params, frozen: Any, batch: Batch, key: Key, step: Step) -> Any:
        leaves, tree = jax.tree.flatten(batch)
        cases = len(leaves[0])
        if cases % parts:
            raise UserError(
                f"a batch of {cases} cases does not divide into {parts} micro-batches; "
                "choose a number that divides it."
            )

        in_line = jax.default_backend() == "cpu"  # convolutions in loops are slow there

        def of_part(number: Step, cases: list[Array]) -> Any:
            part_key = jax.random.fold_in(key, number)
            return function(params, frozen, tree.unflatten(cases), part_key, step)

        def add(total: Any, numbered: tuple[Step, list[Array]]) -> Any:
            number, cases = numbered
            if in_line:  # else the parts may be computed side by side
                cases = [after(each, when_made(total)) for each in cases]
            return jax.tree.map(jnp.add, total, of_part(number, cases)), None

        def split(cases: Array) -> Array:
            return cases.reshape(-1, parts, *cases.shape[1:]).swapaxes(0, 1)

        numbered = jnp.arange(parts), [split(cases) for cases in leaves]
        shapes = jax.eval_shape(of_part, *jax.tree.map(lambda each: each[0], numbered))
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        total, _ = jax.lax.scan(add, zeros, numbered, unroll=in_line)
        return jax.tree.map(lambda leaf: leaf / parts, total)

    return average


def make_term_gradients(
    terms: WeightedTerms, sharding: Sharding | None = None, micro_batches: int = 1
) -> WeightedTerms:
    """Compile the measurement of each term's gradient (see `_compare_gradients`).

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

    def forward(params: Params, frozen: Any, batch: Batch, key: Key, step: Step) -> Any:
        part = jax.checkpoint(terms) if micro_batches > 1 else terms
        whole = average_of_parts(part, micro_batches)
        step_key = jax.random.fold_in(key, step)
        return jax.vjp(lambda each: whole(each, frozen, batch, step_key, step), params)

    def back(backward: Callable[[Any], Any], cotangent: Any) -> Params:
        (gradient,) = backward(cotangent)
        return gradient

    def norm_and_product(gradient: Params, total: Params) -> tuple[Scalar, Scalar]:
        return optax.tree.norm(gradient), jnp.asarray(optax.tree.vdot(gradient, total))

    def one_hot(values: Metrics, chosen: str | None = None) -> dict[str, Scalar]:
        # a one for the chosen term (None: for all) and zeros for the others
        return {
            name: jnp.full_like(value, chosen is None or name == chosen)
            for name, value in values.items()
        }

    def compiled(part: Callable[..., Any]) -> Callable[..., Any]:
        # jax takes options for whole programs only
        alone = jax.jit(part, compiler_options=compiler_options())
        within = jax.jit(part)

        def call(*inputs: Any) -> Any:
            leaves = jax.tree.leaves(inputs)
            traced = any(isinstance(leaf, Tracer) for leaf in leaves)
            return (within if traced else alone)(*inputs)

        return call

    # Two programs instead of one: the way back is compiled once for all terms.
    run_forward, run_back = compiled(forward), compiled(back)
    compare = jax.jit(norm_and_product, out_shardings=sharding)
    finish = jax.jit(_compare_gradients, out_shardings=sharding)

    def measure(
        params: Params, frozen: Any, batch: Batch, key: Key, step: Step
    ) -> Metrics:
        values, backward = run_forward(params, frozen, batch, key, step)
        total = run_back(backward, one_hot(values))
        compared = {
            name: compare(run_back(backward, one_hot(values, name)), total)
            for name in values
        }
        return finish(compared, compare(total, total)[0])

    return measure


def _compare_gradients(
    compared: Mapping[str, tuple[Scalar, Scalar]], total: Scalar
) -> Metrics:
    """Three numbers of each term, from its norm and product and the total's norm.

    `gradient_norm/TERM` is the Euclidean norm over all trained parameters;
    `gradient_share/TERM` is that over the sum of all terms' norms, 0 to 1;
    `gradient_cosine/TERM` is the cosine of the angle to the gradient of the whole loss,
    -1 to 1: below 0 the term grows where the loss falls. What is divided by zero is 0.
    """

    def safe_ratio(above: Scalar, below: Scalar) -> Scalar:
        return jnp.where(below > 0, above / jnp.where(below > 0, below, 1), 0)

    numbers = {}
    together = jnp.asarray(sum(norm for norm, _ in compared.values()))
    for name, (norm, product) in compared.items():
        numbers[f"gradient_norm/{name}"] = norm
        numbers[f"gradient_share/{name}"] = safe_ratio(norm, together)
        numbers[f"gradient_cosine/{name}"] = safe_ratio(product, norm * total)
    return numbers
