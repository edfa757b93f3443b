"""What a benchmark is to measure and what it has found: each system as one line, and
ours beside its peers.
"""

from dataclasses import dataclass, field
from typing import Any

from adn_jax.benchmarks.budget import Budget
from adn_jax.benchmarks.job import (
    Form,
    InputFigures,
    Job,
    ObservedMemory,
    PeakFigures,
    PeerForm,
    Spread,
    StepFigures,
    What,
    spread,
)
from adn_jax.benchmarks.machine import Machine
from adn_jax.config import Precision, Recipe
from adn_jax.config.serialization import settings_to_json
from adn_jax.models.cost import step_bytes, step_flops
from adn_jax.runtime.capacity import CompiledMemory

PEER_FORMS: dict[Precision, tuple[PeerForm, ...]] = {
    "float32": ("eager", "compiled"),
    "tensorfloat32": ("eager", "compiled"),
    "bfloat16": ("bf16", "compiled"),
}
"""Forms of the peer that a recipe is compared with, by its precision."""

Figures = PeakFigures | StepFigures | InputFigures | Budget

FIGURES = {
    "peaks": PeakFigures,
    "steps": StepFigures,
    "input": InputFigures,
    "budget": Budget,
}
"""What each task measures."""


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


@dataclass(frozen=True)
class Result:
    """One job and its figures, or the sentence that says why there are none."""

    job: Job
    round: int
    figures: Figures | None = None
    failure: str = ""

    def to_json(self) -> dict[str, Any]:
        """A result as JSON values, without recipe and temporary folders."""
        job = settings_to_json(self.job)
        return {
            **{
                name: job[name] for name in ("task", "what", "form", "batch", "devices")
            },
            "round": self.round,
            "failure": self.failure or None,
            "figures": settings_to_json(self.figures),
        }


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
        "results": [result.to_json() for result in record.results],
    }


@dataclass(frozen=True)
class Line:
    """One system doing one thing; times in seconds a call, memory in bytes."""

    what: What
    form: Form
    batch: int
    calls: int
    step: Spread
    pipelined_s: float | None
    volumes_a_second: float
    """Scans a second at the median."""
    flops: float
    """Operations a second at the median, by the count of the plain layers."""
    peak_share: float
    """`flops` over that of the measured matrix product."""
    copy_share: float
    """The least memory traffic over that of the measured copy in the same time."""
    first_s: float
    first_warm_s: float | None
    """First call of the last round, where compiled code is read from a cache."""
    compile_cold_s: float | None
    """Tracing, lowering and compiling with an empty cache (jax)."""
    compile_warm_s: float | None
    """The same with a filled cache; None after one round."""
    memory: ObservedMemory
    compiled: CompiledMemory | None


@dataclass(frozen=True)
class Comparison:
    """Ours over a peer."""

    what: What
    form: Form
    """The peer's."""
    time: float
    memory: float
    """Peak of the calls."""


def summarise_systems(record: Record) -> list[Line]:
    """A line for each system that was measured: ours, then the forms of the peer."""
    groups: dict[tuple[What, Form], list[Result]] = {}
    for result in record.results:
        if isinstance(result.figures, StepFigures):
            key = result.job.what, result.job.form
            groups.setdefault(key, []).append(result)
    steps = record.plan.what
    ours_first = sorted(groups, key=lambda key: (steps.index(key[0]), key[1] != "jit"))
    return [_summarise_system(record, groups[key]) for key in ours_first]


def _summarise_system(record: Record, results: list[Result]) -> Line:
    """Pool the rounds of one system."""
    job, found = results[0].job, [result.figures for result in results]
    figures = [each for each in found if isinstance(each, StepFigures)]
    times = tuple(seconds for each in figures for seconds in each.step_s)
    step = spread(times)
    work = job.recipe, job.what, job.batch
    flops, traffic = step_flops(*work) / step.median, step_bytes(*work) / step.median
    compiling = [  # None if that is part of the first call
        None
        if each.lower_s is None or each.compile_s is None
        else each.lower_s + each.compile_s
        for each in figures
    ]
    pipelined = [each.pipelined_s for each in figures if each.pipelined_s is not None]
    return Line(
        what=job.what,
        form=job.form,
        batch=job.batch,
        calls=len(times),
        step=step,
        pipelined_s=spread(tuple(pipelined)).median if pipelined else None,
        volumes_a_second=job.batch / step.median,
        flops=flops,
        peak_share=flops / record.peaks.flops,
        copy_share=traffic / record.peaks.bytes_a_second,
        first_s=figures[0].first_s,
        first_warm_s=figures[-1].first_s if len(figures) > 1 else None,
        compile_cold_s=compiling[0],
        compile_warm_s=compiling[-1] if len(compiling) > 1 else None,
        memory=highest([each.memory for each in figures]),
        compiled=figures[0].compiled,
    )


def highest(found: list[ObservedMemory]) -> ObservedMemory:
    """The most of every figure."""
    return ObservedMemory(
        before=max(each.before for each in found),
        peak=max(each.peak for each in found),
        peak_building=max(each.peak_building for each in found),
    )


def compare_with_peers(lines: list[Line]) -> list[Comparison]:
    """Ours over each peer that did the same, the fastest peer first."""
    ours = {line.what: line for line in lines if line.form == "jit"}
    peers = [line for line in lines if line.form != "jit" and line.what in ours]
    return [
        Comparison(
            what=peer.what,
            form=peer.form,
            time=ours[peer.what].step.median / peer.step.median,
            memory=ours[peer.what].memory.peak / peer.memory.peak,
        )
        for peer in sorted(peers, key=lambda line: line.step.median)
    ]


def summary_json(record: Record) -> dict[str, Any]:
    """Lines and comparisons as JSON values."""
    lines = summarise_systems(record)
    return {
        "summary": [settings_to_json(line) for line in lines],
        "comparisons": [settings_to_json(each) for each in compare_with_peers(lines)],
    }
