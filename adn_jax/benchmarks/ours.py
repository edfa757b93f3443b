"""Times and memory of our own programs."""

import jax
import jax.numpy as jnp
from jax.stages import Compiled

from adn_jax.benchmarks.budget import Budget, Hardware, step_budget
from adn_jax.benchmarks.job import Job, StepFigures
from adn_jax.benchmarks.machine import jax_device
from adn_jax.benchmarks.memory import jax_meter
from adn_jax.benchmarks.programs import check_result, compile_program, make_program
from adn_jax.benchmarks.timing import time_call, time_calls, time_pipelined
from adn_jax.models.cost import step_networks
from adn_jax.models.precision import map_type
from adn_jax.runtime.platform import return_freed_memory


def configure_jax(job: Job) -> None:
    """Set what jax only takes before it starts: CPU devices and compilation cache."""
    jax.config.update("jax_num_cpu_devices", job.devices)
    if job.cache:
        jax.config.update("jax_compilation_cache_dir", job.cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def measure_ours(job: Job) -> StepFigures:
    """Build and compile a program and time its calls."""
    program = make_program(job)
    first = program.mesh.devices.flat[0]
    meter = jax_meter(first)
    lower_s, compile_s, compiled = compile_program(program)

    def call() -> None:
        jax.block_until_ready(program())

    if job.what == "inference":  # as `predict` does
        return_freed_memory()
    meter.begin()
    first_s = time_call(call)
    step_s = time_calls(call, job.repeats)
    memory = meter.end()
    pipelined_s = None
    if first.platform != "cpu":
        pipelined_s = time_pipelined(program, jax.block_until_ready, len(step_s))
    check_result(program())
    return StepFigures(
        device=jax_device(first, job.devices),
        first_s=first_s,
        step_s=step_s,
        memory=memory,
        lower_s=lower_s,
        compile_s=compile_s,
        pipelined_s=pipelined_s,
        compiled=compiled,
    )


def measure_budget(job: Job) -> Budget:
    """Profile a program and split the time of its calls up."""
    program = make_program(job)
    compile_program(program)
    jax.block_until_ready(program())
    flops, bytes_a_second = job.peaks
    hardware = Hardware(
        networks=step_networks(job.recipe, job.what),
        batch=job.batch,
        bytes_a_number=jnp.dtype(map_type(job.recipe.system.precision)).itemsize,
        flops=flops,
        bytes_a_second=bytes_a_second,
    )
    assert isinstance(program.function, Compiled)  # by `compile_program`
    return step_budget(program, program.function, hardware)
