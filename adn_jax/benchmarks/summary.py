"""The results of all rounds of a system as one line, and ours beside its peers."""

from dataclasses import dataclass
from typing import Any

from adn_jax.benchmarks.job import (
    Form,
    ObservedMemory,
    Spread,
    StepFigures,
    What,
    spread,
)
from adn_jax.benchmarks.record import Record, Result
from adn_jax.config.serialization import settings_to_json
from adn_jax.models.cost import step_bytes, step_flops
from adn_jax.runtime.capacity import CompiledMemory


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


def summarise(record: Record) -> list[Line]:
    """A line for each system that was measured, in the order of the jobs."""
    groups: dict[tuple[What, Form], list[Result]] = {}
    for result in record.results:
        if isinstance(result.figures, StepFigures):
            key = result.job.what, result.job.form
            groups.setdefault(key, []).append(result)
    return [_summarise_system(record, results) for results in groups.values()]


def _summarise_system(record: Record, results: list[Result]) -> Line:
    """Pool the rounds of one system."""
    job, found = results[0].job, [result.figures for result in results]
    figures = [each for each in found if isinstance(each, StepFigures)]
    times = tuple(seconds for each in figures for seconds in each.step_s)
    step = spread(times)
    work = job.recipe, job.what, job.batch
    flops, traffic = step_flops(*work) / step.median, step_bytes(*work) / step.median
    compiling = [_compile_seconds(each) for each in figures]
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


def _compile_seconds(figures: StepFigures) -> float | None:
    """From function to executable; None where that is part of the first call."""
    if figures.lower_s is None or figures.compile_s is None:
        return None
    return figures.lower_s + figures.compile_s


def highest(found: list[ObservedMemory]) -> ObservedMemory:
    """The most of every figure."""
    return ObservedMemory(
        before=max(each.before for each in found),
        peak=max(each.peak for each in found),
        peak_building=max(each.peak_building for each in found),
    )


def compare(lines: list[Line]) -> list[Comparison]:
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
    lines = summarise(record)
    return {
        "summary": [settings_to_json(line) for line in lines],
        "comparisons": [settings_to_json(each) for each in compare(lines)],
    }
