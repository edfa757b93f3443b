"""Whether the device waits for its input: steps with cases from disk, and without."""

import statistics
import time
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import repeat
from pathlib import Path
from tempfile import TemporaryDirectory

import jax
import numpy as np

from adn_jax.benchmarks.heads import draw_case
from adn_jax.benchmarks.job import SYNTHETIC, InputFigures, Job
from adn_jax.benchmarks.machine import jax_device
from adn_jax.benchmarks.programs import Program, compile_program, make_program
from adn_jax.config import PrepareSettings
from adn_jax.data.batches import open_split, train_batches
from adn_jax.data.cases import PreparedCase, write_case
from adn_jax.data.manifest import Manifest, read_manifest
from adn_jax.distributed.mesh import place_cases
from adn_jax.errors import UserError
from adn_jax.training.loop import IN_FLIGHT
from adn_jax.types import Batch

LEAST_CASES = 8
"""Cases of a made-up data set, or as many as a batch has."""

BLOCKS = 3
"""Blocks of steps with real input and with fixed input, in turn."""


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
    manifest = read_manifest(Path(job.data))
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
