"""What is timed on our side: the functions that train and predict, with fixed input."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.stages import Wrapped

from adn_jax.benchmarks.heads import draw_cases
from adn_jax.benchmarks.job import Job
from adn_jax.data.batches import make_batch
from adn_jax.distributed.mesh import (
    check_batch,
    device_mesh,
    place_cases,
    replicate,
    replicated,
)
from adn_jax.errors import UserError
from adn_jax.geometry.rigid import Pose
from adn_jax.pipeline.adn import AdnParams, apply_adn, init_adn
from adn_jax.runtime.capacity import CompiledMemory, compile_to_fit
from adn_jax.training.runs import initial_params, stages_of
from adn_jax.training.stages import make_stage, needs_search
from adn_jax.training.steps import initial_state, make_optimizer, make_train_step
from adn_jax.types import Batch, Key, Params, Volume

ENDLESS_STEPS = 10**6
"""The decay's length in steps: it has no end while a benchmark runs."""


@dataclass
class Program:
    """A jitted function of (state, frozen, batch) with its arguments on the devices.

    Where it trains, its first result takes the place of the state that it was given.
    """

    function: Callable[..., Any]
    state: Any
    frozen: Any
    batch: Batch
    trains: bool
    mesh: Mesh

    def __call__(self) -> Any:
        """Hand one call to the device; the result may still be under way."""
        result = self.function(self.state, self.frozen, self.batch)
        if self.trains:
            self.state, result = result
        return result


def make_program(job: Job) -> Program:
    """The program of a job, not yet compiled."""
    mesh, trains = make_mesh(job.devices), job.what != "inference"
    parts = getattr(job.recipe, job.what).micro_batches if trains else 1
    check_batch(job.batch, mesh, "the batch", parts)
    arrays = draw_cases(job.recipe.system.prepare.shape, job.batch)
    batch = make_batch(arrays, partial(place_cases, mesh=mesh))
    make = _make_training if trains else make_inference
    return make(job, batch, mesh)


def make_mesh(devices: int) -> Mesh:
    """The first `devices` devices; `UserError` where there are fewer."""
    if devices > jax.device_count():
        raise UserError(
            f"{devices} devices are wanted and jax sees {jax.device_count()} "
            f"({jax.devices()[0].device_kind}); lower --devices."
        )
    return device_mesh(devices)


def _make_training(job: Job, batch: Batch, mesh: Mesh) -> Program:
    """The train step of a stage, as the training loop runs it."""
    recipe, stage = job.recipe, make_stage(job.what, job.recipe)
    keys = jax.random.split(jax.random.key(recipe.seed), 3)
    optimizer = make_optimizer(stage.settings.optimizer, ENDLESS_STEPS)

    def fresh(key: Key) -> Any:
        return initial_state(initial_params(key, recipe, stage.name), optimizer)

    everywhere = replicated(mesh)
    return Program(
        function=make_train_step(
            stage.loss, optimizer, keys[0], everywhere, stage.settings.micro_batches
        ),
        state=jax.jit(fresh, out_shardings=everywhere)(keys[1]),
        frozen=replicate(_frozen_of(job, keys[2]), mesh),
        batch=batch,
        trains=True,
        mesh=mesh,
    )


def _frozen_of(job: Job, key: Key) -> dict[str, Params]:
    """Random weights of the stages before this one, and the search's answers."""
    recipe = job.recipe
    if job.what == "align":
        search = {"search": Pose.identity(job.batch)}
        return search if needs_search(recipe) else {}
    names = [name for name in stages_of(recipe) if name != job.what]
    return {name: initial_params(key, recipe, name) for name in names}


def make_inference(job: Job, batch: Batch, mesh: Mesh) -> Program:
    """The chain T, D, F from prepared scans I to the prediction O alone."""

    def predict(params: AdnParams, _: None, batch: Batch) -> Volume:
        return apply_adn(params, batch.volume, job.recipe.system).prediction

    params = jax.jit(partial(init_adn, system=job.recipe.system))
    return Program(
        function=jax.jit(predict),
        state=replicate(params(jax.random.key(job.recipe.seed)), mesh),
        frozen=None,
        batch=batch,
        trains=False,
        mesh=mesh,
    )


def compile_program(program: Program) -> tuple[float, float, CompiledMemory]:
    """Compile a program in place.

    Returns:
      Seconds to trace and lower, seconds to compile (or to read the persistent
      cache), and the memory that the compiler plans for.

    Raises:
      MemoryShortageError: it is more than there is.
    """
    assert isinstance(program.function, Wrapped)  # not yet compiled
    start = time.perf_counter()
    with jax.set_mesh(program.mesh):
        lowered = program.function.lower(program.state, program.frozen, program.batch)
    middle = time.perf_counter()
    program.function = compile_to_fit(
        lowered,
        f"a call of batch {len(program.batch.case)}",
        advice=lambda *_: (
            "lower --batch, or set --precision bfloat16 or another of "
            "the settings that `adn train` would name"
        ),
        devices=program.mesh.size,
    )
    end = time.perf_counter()
    return middle - start, end - middle, CompiledMemory.of(program.function)


def check_result(result: Any) -> None:
    """Raise `UserError` where a result is not finite: its time would mean nothing."""
    if not all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(result)):
        raise UserError(
            "the result is not finite, so that its time means nothing; lower the "
            "stage's optimizer.learning-rate."
        )
