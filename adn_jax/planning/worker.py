"""One step compiled in a process of its own: a job on stdin, its figures on stdout.

`python -m adn_jax.planning.worker`, in the environment of its target, writes the
answer as its last line, as JSON: figures, or a refusal for want of memory, or
{"error": sentence}.
"""

import json
import sys
import time
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from adn_jax.config import Recipe
from adn_jax.config.serialization import settings_from_json, settings_to_json
from adn_jax.distributed.mesh import AXES
from adn_jax.errors import UserError, is_out_of_memory
from adn_jax.planning.program import CompiledStep, read_program
from adn_jax.planning.targets import (
    Accelerators,
    mesh_shape,
    parse_target,
    target_devices,
)
from adn_jax.runtime.capacity import CompiledMemory, compiler_wants
from adn_jax.runtime.platform import COMPILER_OPTIONS
from adn_jax.training.begin import check_stages
from adn_jax.training.stages import make_stage
from adn_jax.training.updates import lower_update, make_update


@dataclass(frozen=True)
class CompileJob:
    """A step to compile."""

    target: str
    recipe: Recipe
    stage: str
    """align, tissue or joint."""
    spatial_shards: int = 1
    cases: int = 1000
    """Cases of the data set."""


@dataclass(frozen=True)
class Refusal:
    """A compiler's answer where a step does not fit."""

    wanted: int
    """Bytes on each device; 0: not told."""
    there: int


@dataclass(frozen=True)
class Answer:
    """What came of a job; one of the three."""

    step: CompiledStep | None = None
    refusal: Refusal | None = None
    error: str = ""


def compile_step(job: CompileJob) -> CompiledStep | Refusal:
    """Compile the step of a stage as `adn train` would on the target.

    Raises `UserError` if the target, its devices or the batch do not go together.
    """
    recipe, target = job.recipe, parse_target(job.target)
    mesh = target_mesh(target, job.spatial_shards)
    check_stages(recipe, mesh, [job.stage])
    stage = make_stage(job.stage, recipe)
    update = make_update(stage, recipe, mesh)
    lowered = lower_update(update, stage, recipe, mesh, job.cases)
    start = time.perf_counter()
    try:
        compiled = lowered.compile(COMPILER_OPTIONS.get(target.chip.platform))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        found = compiler_wants(str(error))
        return Refusal(*(found or (0, target.chip.memory)))
    seconds = time.perf_counter() - start
    text = compiled.as_text()
    assert text is not None  # every XLA backend has it
    return read_program(text, CompiledMemory.of(compiled), seconds)


def target_mesh(target: Accelerators, spatial_shards: int) -> Mesh:
    """The mesh of a training on all of a target's devices."""
    sizes = mesh_shape(target, spatial_shards).axis_sizes
    grid = np.array(target_devices(target)).reshape(sizes)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto, AxisType.Auto))


def main() -> None:
    """Compile what stdin asks for."""
    # a description of devices cannot read programs back from the cache
    jax.config.update("jax_enable_compilation_cache", False)
    job = settings_from_json(CompileJob, json.load(sys.stdin), "job")
    try:
        found = compile_step(job)
    except UserError as error:
        answer = Answer(error=str(error))
    else:
        is_step = isinstance(found, CompiledStep)
        answer = Answer(step=found) if is_step else Answer(refusal=found)
    print(json.dumps(settings_to_json(answer)), flush=True)


if __name__ == "__main__":
    main()
