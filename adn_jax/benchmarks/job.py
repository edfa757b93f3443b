"""What one worker process measures, on which made-up cases, and what comes out; all of
it travels as JSON.
"""

import statistics
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from adn_jax.config import Recipe
from adn_jax.data.cases import CaseArrays
from adn_jax.report.tables import digits
from adn_jax.runtime.capacity import CompiledMemory

Task = Literal["peaks", "steps", "input", "budget"]
"""Peaks of the machine, steps of a system, steps with real input, or a profile."""

What = Literal["align", "joint", "inference"]
"""Train step of T, train step of D and F, or the chain from a scan I to O."""

PeerForm = Literal["eager", "bf16", "compiled"]
"""How the peer computes; of the PyTorch reference: operation by operation in float32
(with TF32 where the recipe's precision has it), in bfloat16 by autocast with channels
last, or through torch.compile."""

Form = Literal["jit", PeerForm]
"""Our own compiled code, or a form of the peer."""

Platform = Literal["cpu", "gpu", "tpu"]
"""Where both sides run."""

SYNTHETIC = "synthetic"
"""Stands for a prepared data set that is made for the measurement."""

TITLES: dict[What, str] = {
    "align": "Train step of T",
    "joint": "Train step of D and F",
    "inference": "Inference, I to O",
}

LESION_RADIUS = 0.25
"""Of the head's half-extents; about the share of a large infarct."""


def side_of(form: Form) -> str:
    """Whose code it is."""
    return "ours" if form == "jit" else f"peer {form}"


@dataclass(frozen=True)
class Job:
    """Everything that a worker needs to know."""

    task: Task
    recipe: Recipe
    what: What = "joint"
    form: Form = "jit"
    batch: int = 1
    """Scans a call, over all devices."""
    repeats: int = 5
    """Fewest calls to time."""
    devices: int = 1
    """Devices that share the batch."""
    peer: str = ""
    """`module:function` that measures the peer: it takes a job and gives its
    `StepFigures`, in a process of its own. Empty: no peer."""
    platform: Platform = "cpu"
    """Where the peer has to run."""
    cache: str = ""
    """Folder of the compilation cache; empty: none (jax), the usual one (PyTorch)."""
    data: str = SYNTHETIC
    """Prepared data set of the task `input`."""
    peaks: tuple[float, float] = (0.0, 0.0)
    """The machine's operations, and bytes read and written, a second (`budget`)."""


@dataclass(frozen=True)
class Device:
    """Where a worker ran, and with what."""

    platform: Platform
    kind: str
    """Its name as the driver or the processor tells it."""
    count: int
    threads: int
    """Threads that the framework computes with on the CPU."""
    versions: tuple[str, ...]


@dataclass(frozen=True)
class PeakFigures:
    """What the machine can do at best, measured through jax."""

    device: Device
    flops: float
    """Multiplications and additions a second of a large matrix product."""
    bytes_a_second: float
    """Bytes read and written a second by a pass over a large array."""


@dataclass(frozen=True)
class ObservedMemory:
    """Bytes in use: of the process on a CPU, of the first device elsewhere."""

    before: int
    """Before the first call, when everything is built and compiled."""
    peak: int
    """Highest from then on. A GPU's figure in jax includes the compilation."""
    peak_building: int
    """Highest until then: building and compiling."""


@dataclass(frozen=True)
class StepFigures:
    """Times and memory of one system in one process; times in seconds."""

    device: Device
    first_s: float
    """First call, without the compilation for jax, with it for PyTorch."""
    step_s: tuple[float, ...]
    """Calls, each until its result is there."""
    memory: ObservedMemory
    lower_s: float | None = None
    """Tracing and lowering (jax)."""
    compile_s: float | None = None
    """Compiling, or reading from the cache (jax)."""
    pipelined_s: float | None = None
    """One call of many in a row without waiting in between (jax, accelerators)."""
    compiled: CompiledMemory | None = None


@dataclass(frozen=True)
class InputFigures:
    """Whether the device waits for its input; times in seconds a step."""

    device: Device
    pipeline_s: float
    """A batch of the input pipeline alone, taken as fast as it gives."""
    fixed_s: float
    """A step with one batch that stays on the device."""
    real_s: float
    """A step with a new batch from disk each time."""


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    low: float
    median: float
    high: float


def spread(values: tuple[float, ...]) -> Spread:
    """Median and quartiles of one value or more."""
    if len(values) == 1:
        return Spread(*values * 3)
    return Spread(*statistics.quantiles(values, n=4, method="inclusive"))


def quartiles(step: Spread) -> str:
    """The quartiles in the median's unit."""
    factor = 1 if step.median >= 1 else 1000
    return f"{digits(factor * step.low)} to {digits(factor * step.high)}"


def draw_cases(shape_zyx: tuple[int, int, int], count: int) -> CaseArrays:
    """Cases 0 to `count` - 1 side by side, as `data.batches.Split.stack` gives them."""
    cases = [draw_case(shape_zyx, index) for index in range(count)]
    return {name: np.stack([case[name] for case in cases]) for name in cases[0]}


def draw_case(shape_zyx: tuple[int, int, int], index: int) -> CaseArrays:
    """An ellipsoid of three tissues with noise and a dark ball; fixed by its index."""
    rng = np.random.default_rng(index)
    side = rng.choice((-1, 1))
    radius = _distance(shape_zyx, (0.0, 0.0, 0.0))
    brain = radius < 0.8
    lesion = brain & (_distance(shape_zyx, (0.0, 0.1, 0.4 * side)) < LESION_RADIUS)
    tissue = 3 - np.digitize(radius, (0.3, 0.6))
    noise = rng.random(shape_zyx, np.float32)
    volume = brain * (0.3 + 0.1 * tissue - 0.1 * lesion + 0.2 * noise)
    return {
        "volume": volume.astype(np.float32),
        "lesion": np.uint8(255) * lesion,
        "tissue": (tissue * brain).astype(np.uint8),
        "case": np.array(index, np.int32),
    }


def _distance(
    shape_zyx: tuple[int, int, int], centre: tuple[float, float, float]
) -> Float[np.ndarray, "z y x"]:
    """Distance to `centre` in half-extents of the volume."""
    axes = [(2 * np.arange(size) + 1) / size - 1 for size in shape_zyx]
    offsets = np.meshgrid(*axes, indexing="ij", sparse=True)
    return np.sqrt(sum((o - c) ** 2 for o, c in zip(offsets, centre, strict=True)))
