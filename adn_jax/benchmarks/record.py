"""What a benchmark is to measure and what it has found, as JSON for other programs."""

from dataclasses import dataclass, field
from typing import Any

from adn_jax.benchmarks.budget import Budget
from adn_jax.benchmarks.job import (
    InputFigures,
    Job,
    PeakFigures,
    PeerForm,
    StepFigures,
    What,
)
from adn_jax.benchmarks.machine import Machine
from adn_jax.config import Precision, Recipe
from adn_jax.config.serialization import settings_to_json

PEER_FORMS: dict[Precision, tuple[PeerForm, ...]] = {
    "float32": ("eager", "compiled"),
    "tensorfloat32": ("eager", "compiled"),
    "bfloat16": ("bf16", "compiled"),
}
"""Forms of the peer that a recipe is compared with, by its precision."""


@dataclass(frozen=True)
class Plan:
    """What a benchmark measures."""

    recipe: Recipe
    what: tuple[What, ...]
    batch: int | None = None
    """Scans a call; None: the stage's batch for steps, one for inference."""
    repeats: int = 5
    rounds: int = 2
    devices: int | None = None
    peer: str = ""
    """`module:function` that measures the peer (`Job.peer`); empty: no peer."""
    forms: tuple[PeerForm, ...] = ()
    """Forms of the peer."""
    data: str | None = None
    """Prepared data set for steps with real input, or `synthetic`; None: no such."""
    budget: bool = False
    """Whether steps are profiled, too."""
    layers: bool = False
    """Whether the report lists the operations of every layer."""


Figures = PeakFigures | StepFigures | InputFigures | Budget

FIGURES = {
    "peaks": PeakFigures,
    "steps": StepFigures,
    "input": InputFigures,
    "budget": Budget,
}
"""What each task measures."""


@dataclass(frozen=True)
class Result:
    """One job and its figures, or the sentence that says why there are none."""

    job: Job
    round: int
    figures: Figures | None = None
    failure: str = ""


@dataclass
class Record:
    """Everything that a benchmark found so far."""

    plan: Plan
    command: str
    machine: Machine
    date: str
    load: tuple[float, float]
    """Load average before the first job and after the last."""
    peaks: PeakFigures
    results: list[Result] = field(default_factory=list)


def record_json(record: Record) -> dict[str, Any]:
    """A record as JSON values; the recipe stands once."""
    return {
        "command": record.command,
        "date": record.date,
        "machine": settings_to_json(record.machine),
        "plan": settings_to_json(record.plan),
        "load_average": dict(zip(("start", "end"), record.load, strict=True)),
        "peaks": settings_to_json(record.peaks),
        "results": [_result_json(result) for result in record.results],
    }


def _result_json(result: Result) -> dict[str, Any]:
    """A result as JSON values, without recipe and temporary folders."""
    job = settings_to_json(result.job)
    return {
        **{name: job[name] for name in ("task", "what", "form", "batch", "devices")},
        "round": result.round,
        "failure": result.failure or None,
        "figures": settings_to_json(result.figures),
    }
