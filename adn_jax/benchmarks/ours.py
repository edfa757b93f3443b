"""Our own programs: the functions that train and predict with fixed input, their times
and memory, whether they wait for input, and what the machine can do at best.
"""

import statistics
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.stages import Compiled, Wrapped
from jaxtyping import Array, Float

from adn_jax.benchmarks.budget import Budget, Hardware, step_budget
from adn_jax.benchmarks.job import (
    SYNTHETIC,
    InputFigures,
    Job,
    PeakFigures,
    StepFigures,
    draw_case,
    draw_cases,
)
from adn_jax.benchmarks.machine import (
    jax_device,
    jax_meter,
    time_call,
    time_calls,
    time_pipelined,
)
from adn_jax.config import Precision, PrepareSettings
from adn_jax.data.batches import make_batch, open_split, train_batches
from adn_jax.data.cases import PreparedCase, write_case
from adn_jax.data.manifest import Manifest, read_manifest
from adn_jax.distributed.mesh import (
    CASE_SPEC,
    check_batch,
    device_mesh,
    place_cases,
    replicate,
    replicated,
)
from adn_jax.errors import UserError
from adn_jax.geometry.rigid import Pose
from adn_jax.models.cost import step_networks
from adn_jax.models.precision import map_type, multiplying
from adn_jax.pipeline.adn import AdnParams, apply_adn, init_adn
from adn_jax.runtime.capacity import CompiledMemory, compile_to_fit
from adn_jax.runtime.platform import return_freed_memory
from adn_jax.training.loop import IN_FLIGHT
from adn_jax.training.runs import initial_params, stages_of
from adn_jax.training.stages import make_stage, needs_search
from adn_jax.training.steps import initial_state, make_optimizer, make_train_step
from adn_jax.types import Batch, Key, Params, Volume

ENDLESS_STEPS = 10**6
"""The decay's length in steps: it has no end while a benchmark runs."""

MATRIX_SIZE = {"cpu": 2048, "gpu": 16384, "tpu": 16384}
"""Rows and columns of the matrices on one device."""

COPY_BYTES = {"cpu": 2**28, "gpu": 2**32, "tpu": 2**32}
"""Size of the array on one device: far more than any cache holds."""

LEAST_CASES = 8
"""Cases of a made-up data set, or as many as a batch has."""

BLOCKS = 3
"""Blocks of steps with real input and with fixed input, in turn."""


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
    trains = job.what != "inference"
    mesh = make_mesh(job.devices, share_rows=job.batch == 1 and not trains)
    parts = getattr(job.recipe, job.what).micro_batches if trains else 1
    check_batch(job.batch, mesh, "the batch", parts)
    arrays = draw_cases(job.recipe.system.prepare.shape, job.batch)
    batch = make_batch(arrays, partial(place_cases, mesh=mesh))
    make = _make_training if trains else make_inference
    return make(job, batch, mesh)


def make_mesh(devices: int, share_rows: bool = False) -> Mesh:
    """The first `devices` devices, which share cases, or rows as `predict` has them.

    Raises `UserError` if there are fewer.
    """
    if devices > jax.device_count():
        raise UserError(
            f"{devices} devices are wanted and jax sees {jax.device_count()} "
            f"({jax.devices()[0].device_kind}); lower --devices."
        )
    return device_mesh(devices, devices if share_rows else 1)


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
    """Raise `UserError` if a result is not finite: its time would mean nothing."""
    if not all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(result)):
        raise UserError(
            "the result is not finite, so that its time means nothing; lower the "
            "stage's optimizer.learning-rate."
        )


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


def measure_peaks(job: Job) -> PeakFigures:
    """Both peaks over the devices of a job, in the recipe's type, by median calls.

    One device of a CPU has all its cores.
    """
    devices = 1 if jax.default_backend() == "cpu" else job.devices
    mesh = make_mesh(devices)
    first = mesh.devices.flat[0]
    return PeakFigures(
        device=jax_device(first, devices),
        flops=matrix_flops(
            MATRIX_SIZE[first.platform], job.recipe.system.precision, mesh
        ),
        bytes_a_second=copy_rate(COPY_BYTES[first.platform], mesh),
    )


def matrix_flops(size: int, precision: Precision, mesh: Mesh) -> float:
    """Operations a second of square products of `size`, one on each device.

    They are as exact as the networks' at this precision.
    """
    devices = mesh.shape["data"]

    def draw(key: Array) -> Float[Array, "d n n"]:
        return jax.random.normal(key, (devices, size, size), map_type(precision))

    sharding = NamedSharding(mesh, CASE_SPEC)
    left, right = (
        jax.jit(draw, out_shardings=sharding)(jax.random.key(seed)) for seed in (0, 1)
    )
    with multiplying(precision):
        product = jax.jit(jnp.matmul).lower(left, right).compile()
    seconds = median_seconds(lambda: jax.block_until_ready(product(left, right)))
    return devices * 2 * size**3 / seconds


def copy_rate(size: int, mesh: Mesh) -> float:
    """Bytes read and written a second where an array of `size` bytes is changed.

    It is changed in its place (donated), on each device its own.
    """
    shape = (mesh.shape["data"], size // 4)
    sharding = NamedSharding(mesh, CASE_SPEC)
    array = [jax.jit(partial(jnp.zeros, shape), out_shardings=sharding)()]
    change = jax.jit(lambda values: values + 1, donate_argnums=0)

    def call() -> None:
        array[0] = jax.block_until_ready(change(array[0]))

    return 2 * 4 * shape[0] * shape[1] / median_seconds(call)


def median_seconds(call: Callable[[], object]) -> float:
    """Median time of a call that has been made once before."""
    call()
    return statistics.median(time_calls(call, repeats=5))


def measure_input(job: Job) -> InputFigures:
    """The pipeline alone, then steps with one batch, and with a new one each time."""
    program = make_program(job)
    compile_program(program)
    place = partial(place_cases, mesh=program.mesh)
    with open_data(job) as manifest:
        split = open_split(manifest, "train", at_least=job.batch)
        batches = train_batches(split, job.batch, job.recipe.seed, place=place)
        for _ in range(1 + len(split) // job.batch):  # every case is read once
            next(batches)
        pipeline_s = _time_pipeline(batches, job.repeats)
        fixed = repeat(program.batch)
        time_steps(program, fixed, 1)
        times = [
            (
                time_steps(program, fixed, job.repeats),
                time_steps(program, batches, job.repeats),
            )
            for _ in range(BLOCKS)
        ]
    fixed_s, real_s = map(statistics.median, zip(*times, strict=True))
    device = jax_device(program.mesh.devices.flat[0], job.devices)
    return InputFigures(device, pipeline_s, fixed_s, real_s)


def _time_pipeline(batches: Iterator[Batch], count: int) -> float:
    """Seconds a batch, each until it is on the device."""
    start = time.perf_counter()
    for _ in range(count):
        jax.block_until_ready(next(batches))
    return (time.perf_counter() - start) / count


def time_steps(program: Program, batches: Iterator[Batch], count: int) -> float:
    """Seconds a step, handed over ahead of time as the training loop does."""
    waiting: deque = deque()
    start = time.perf_counter()
    for _ in range(count):
        program.batch = next(batches)
        waiting.append(program())
        if len(waiting) > IN_FLIGHT:
            jax.block_until_ready(waiting.popleft())
    jax.block_until_ready(list(waiting))
    return (time.perf_counter() - start) / count


@contextmanager
def open_data(job: Job) -> Generator[Manifest]:
    """The data set of a job, or a made-up one that is gone afterwards."""
    settings = job.recipe.system.prepare
    if job.data == SYNTHETIC:
        with TemporaryDirectory() as folder:
            yield write_heads(Path(folder), settings, max(LEAST_CASES, job.batch))
        return
    manifest = read_manifest(job.data)
    if manifest.settings.shape != settings.shape:
        raise UserError(
            f"{job.data} was prepared on a grid of {manifest.settings.shape} and the "
            f"recipe's is {settings.shape}; set --prepare.shape or prepare it again."
        )
    yield manifest


def write_heads(folder: Path, settings: PrepareSettings, count: int) -> Manifest:
    """A prepared data set of `count` made-up cases, all of them for training."""
    names = tuple(f"head{index:03}" for index in range(count))
    affine = np.diag([*settings.spacing_mm[::-1], 1.0])
    geometry = {"shape": settings.shape[::-1], "affine": affine.tolist()}
    for index, name in enumerate(names):
        arrays = draw_case(settings.shape, index)
        case = PreparedCase(
            name=name,
            volume=arrays["volume"],
            brain=(arrays["volume"] > 0).astype(np.uint8),
            affine=affine,
            geometry=geometry,
            lesion=arrays["lesion"].astype(np.float32) / 255,
            tissue=arrays["tissue"],
        )
        write_case(folder / name, case)
    manifest = Manifest(settings, names, {"train": names}, folder)
    manifest.write()
    return manifest
