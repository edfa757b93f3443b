"""Made-up results of a benchmark, for the tests of what is told about them."""

from adn_jax.benchmarks.job import (
    Device,
    InputFigures,
    Job,
    ObservedMemory,
    PeakFigures,
    StepFigures,
)
from adn_jax.benchmarks.machine import Machine
from adn_jax.benchmarks.record import Plan, Record, Result
from adn_jax.runtime.capacity import CompiledMemory
from tests.training.tiny import tiny_recipe

RECIPE = tiny_recipe()
JAX = Device("cpu", "Fast CPU", 1, 4, ("jax 1.2",))
TORCH = Device("cpu", "Fast CPU", 1, 2, ("torch 3.4",))
PEAKS = PeakFigures(JAX, flops=2e11, bytes_a_second=3e10)
MACHINE = Machine("Fast CPU", 4, 16.0, None, "Linux", "3.11.7")


def ours(*step_s: float, compile_s: float = 9.0, **changes) -> StepFigures:
    values = {
        "device": JAX,
        "first_s": 0.5,
        "step_s": step_s,
        "memory": ObservedMemory(before=10**9, peak=2 * 10**9, peak_building=10**8),
        "lower_s": 1.0,
        "compile_s": compile_s,
        "compiled": CompiledMemory(4000, 3000, 2000, 10**6),
    }
    return StepFigures(**(values | changes))


def torch(*step_s: float, peak: int = 4 * 10**9, first_s: float = 7.0) -> StepFigures:
    memory = ObservedMemory(before=5 * 10**8, peak=peak, peak_building=5 * 10**8)
    return StepFigures(TORCH, first_s=first_s, step_s=step_s, memory=memory)


def result(figures=None, form="jit", number=1, failure="", **job) -> Result:
    values = {"task": "steps", "what": "joint", "batch": 2} | job
    return Result(Job(recipe=RECIPE, form=form, **values), number, figures, failure)


def record(*results: Result, **plan) -> Record:
    plan = Plan(**({"recipe": RECIPE, "what": ("joint", "inference")} | plan))
    date = "2026-01-02T03:04:05+00:00"
    return Record(
        plan, "adn benchmark c.py", MACHINE, date, (0.3, 2.1), PEAKS, list(results)
    )


def full_record() -> Record:
    """Two rounds beside two forms of the peer, one of which fails, and real input."""
    return record(
        result(ours(0.2, 0.4)),
        result(torch(0.5, 0.6), form="eager"),
        result(form="compiled", failure="no compiler; install one."),
        result(ours(0.3, 0.4, compile_s=1.0), number=2),
        result(torch(0.7, 0.8, peak=3 * 10**9, first_s=6.0), form="eager", number=2),
        result(InputFigures(JAX, 0.01, 0.3, 0.309), task="input"),
    )
