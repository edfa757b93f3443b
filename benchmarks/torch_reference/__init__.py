"""This system again in PyTorch, equal to ours, to compare the speed with.

`adn benchmark CONFIG --peer torch` measures it by `measure`, in a process that holds no
jax: each side's memory is its own (`parameters`, which turns our parameters into its
own, is for the tests).
"""

import importlib
import os
from types import ModuleType

from adn_jax.benchmarks.job import Device, Job, StepFigures
from adn_jax.benchmarks.machine import (
    MemoryMeter,
    process_meter,
    time_call,
    time_calls,
)
from adn_jax.errors import UserError
from adn_jax.runtime.platform import processor_name

DEVICES = {"cpu": "cpu", "gpu": "cuda"}
"""PyTorch's name of the device for each platform of jax."""


def measure(job: Job) -> StepFigures:
    """Time one train step or one inference in PyTorch, with fixed made-up cases.

    Each call lasts until its result is there. The forms are "eager" (float32; TF32 on
    CUDA), "bf16" (autocast, channels last) and "compiled" (`torch.compile`, in the
    recipe's precision).

    Raises:
      UserError: PyTorch is absent, cannot compile here, or the recipe has what the
        reference lacks.
    """
    if job.cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = job.cache
    torch = import_torch()
    device = torch_device_name(torch, job)
    from benchmarks.torch_reference.programs import make_program

    call = make_program(job.what, job.recipe, job.batch, device, job.form)
    meter = torch_meter(torch, device)
    meter.begin()
    first_s = time_call(call)
    step_s = time_calls(call, job.repeats)
    return StepFigures(
        device=torch_device(torch, device),
        first_s=first_s,
        step_s=step_s,
        memory=meter.end(),
    )


def import_torch() -> ModuleType:
    """PyTorch; `UserError` where it is not installed."""
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        raise UserError(
            "PyTorch is not installed, which --peer torch compares with; "
            "pip install 'adn-jax[torch]'."
        ) from error


def torch_device_name(torch: ModuleType, job: Job) -> str:
    """PyTorch's device of the platform that jax runs on."""
    if job.devices > 1 and job.platform != "cpu":  # where they are cores
        raise UserError(
            f"the peer uses one device and --devices is {job.devices}; compare on one."
        )
    if job.platform not in DEVICES:
        raise UserError(
            f"jax runs on {job.platform}, where PyTorch has no peer; compare on a "
            "CPU or a GPU."
        )
    if job.platform == "gpu" and not torch.cuda.is_available():
        raise UserError(
            f"jax runs on a GPU and torch {torch.__version__} does not see one; "
            "install its CUDA build."
        )
    return DEVICES[job.platform]


def torch_device(torch: ModuleType, device: str) -> Device:
    """Where PyTorch runs."""
    cudnn = torch.backends.cudnn.version()
    on_cpu = device == "cpu"
    return Device(
        platform="cpu" if on_cpu else "gpu",
        kind=processor_name() if on_cpu else torch.cuda.get_device_name(),
        count=1,
        threads=torch.get_num_threads(),
        versions=(
            f"torch {torch.__version__}",
            *((f"cuDNN {cudnn}",) if cudnn else ()),
        ),
    )


def torch_meter(torch: ModuleType, device: str) -> MemoryMeter:
    """The CUDA device's memory, or the process's."""
    if device == "cpu":
        return process_meter()
    cuda = torch.cuda
    return MemoryMeter(
        read=lambda: (cuda.memory_allocated(), cuda.max_memory_allocated()),
        reset=cuda.reset_peak_memory_stats,
    )
