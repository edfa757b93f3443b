"""Times and memory of the PyTorch twin; jax is not imported beside it."""

import importlib
import os
from types import ModuleType

from adn_jax.benchmarks.job import Job, StepFigures
from adn_jax.benchmarks.machine import torch_device
from adn_jax.benchmarks.memory import torch_meter
from adn_jax.benchmarks.timing import time_call, time_calls
from adn_jax.errors import UserError

DEVICES = {"cpu": "cpu", "gpu": "cuda"}
"""PyTorch's name of the device for each platform of jax."""


def measure_peer(job: Job) -> StepFigures:
    """Build the twin and time its calls; each lasts until its result is there."""
    if job.cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = job.cache
    torch = import_torch()
    device = torch_device_name(torch, job)
    from adn_jax.benchmarks.twin import make_twin

    call = make_twin(job.what, job.recipe, job.batch, device, job.form)
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
