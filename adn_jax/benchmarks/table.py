"""A benchmark as a reader wants it: one section a step, a column for each system."""

from collections.abc import Callable

from adn_jax.benchmarks.budget import Budget
from adn_jax.benchmarks.details import budget_section, layer_sections
from adn_jax.benchmarks.job import (
    TITLES,
    Form,
    InputFigures,
    PeakFigures,
    StepFigures,
    What,
    quartiles,
)
from adn_jax.benchmarks.record import Record
from adn_jax.benchmarks.summary import Comparison, Line, compare, summarise
from adn_jax.report.tables import NONE, Section, digits, rate, seconds, size

RAN = (PeakFigures, StepFigures)
"""Figures that tell with what they were measured."""


def sections(record: Record) -> list[Section]:
    """The machine, times and memory of everything that was measured, details."""
    plan = record.plan
    steps = [_steps_section(record, what) for what in plan.what]
    budgets = [
        budget_section(result.figures, result.job.what)
        for result in record.results
        if isinstance(result.figures, Budget)
    ]
    layers = layer_sections(plan.recipe, plan.what) if plan.layers else []
    measured = [section for section in steps if section.rows or section.notes]
    return [_machine_section(record), *measured, *budgets, *layers]


def _machine_section(record: Record) -> Section:
    """What it ran on, with which versions, and what the machine can do at best."""
    machine, peaks = record.machine, record.peaks
    device = peaks.device
    used = f"{machine.processor}, {machine.cores} cores, {machine.memory_gb:.0f} GB"
    if device.platform != "cpu":
        used = f"{device.count} x {device.kind}, {used}"
    driver = [f"driver {machine.driver}"] if machine.driver else []
    steps = [result.figures for result in record.results]
    sides = [each.device for each in (peaks, *steps) if isinstance(each, RAN)]
    versions = dict.fromkeys(version for side in sides for version in side.versions)
    threads = dict.fromkeys(str(side.threads) for side in sides)
    return Section(
        used,
        notes=(
            ", ".join([*versions, f"Python {machine.python}", *driver]),
            f"Peaks: {record.plan.recipe.system.precision} matrix product "
            f"{rate(peaks.flops)}FLOP/s, copy {rate(peaks.bytes_a_second)}B/s, read "
            "and written.",
            f"Threads {' and '.join(threads)}, load average {record.load[0]:.1f} "
            f"before and {record.load[1]:.1f} after.",
            f"{record.date}: {record.command}",
        ),
    )


def _steps_section(record: Record, what: What) -> Section:
    """Times and memory of one kind of step, a column for each system."""
    recipe = record.plan.recipe
    lines = [line for line in summarise(record) if line.what == what]
    grid = " x ".join(map(str, recipe.system.prepare.shape))
    batch = f"batch {lines[0].batch}, " if lines else ""
    table = [(name, *(show(line) for line in lines)) for name, show in ROWS]
    return Section(
        f"{TITLES[what]}: {recipe.name}, {batch}{grid}, {recipe.system.precision}",
        columns=("", *(_system_name(line.form) for line in lines)),
        rows=tuple(row for row in table if set(row[1:]) - {NONE}),
        notes=(
            *(_comparison_text(each) for each in compare(lines)[:1]),
            *_notes_of_jobs(record, what),
        ),
    )


ROWS: tuple[tuple[str, Callable[[Line], str]], ...] = (
    ("call, median", lambda line: seconds(line.step.median)),
    ("quartiles", lambda line: quartiles(line.step)),
    ("calls", lambda line: str(line.calls)),
    ("call, many in a row", lambda line: seconds(line.pipelined_s)),
    ("scans/s", lambda line: digits(line.volumes_a_second)),
    ("FLOP/s", lambda line: rate(line.flops)),
    ("of the matrix product", lambda line: f"{100 * line.peak_share:.1f} %"),
    ("of the copy", lambda line: f"{100 * line.copy_share:.1f} %"),
    ("compile, empty cache", lambda line: seconds(line.compile_cold_s)),
    ("compile, filled cache", lambda line: seconds(line.compile_warm_s)),
    ("first call, empty cache", lambda line: seconds(line.first_s)),
    ("first call, filled cache", lambda line: seconds(line.first_warm_s)),
    ("peak memory", lambda line: size(line.memory.peak)),
    ("memory before", lambda line: size(line.memory.before)),
    ("peak memory before", lambda line: size(line.memory.peak_building)),
    ("planned arguments", lambda line: planned(line, "arguments")),
    ("planned outputs", lambda line: planned(line, "outputs")),
    ("planned donated", lambda line: planned(line, "aliased")),
    ("planned temporaries", lambda line: planned(line, "temporaries")),
)
"""What a table of steps tells of each system; `before` is before the first call."""


def _comparison_text(comparison: Comparison) -> str:
    """Ours beside the fastest peer, as a sentence."""
    return (
        f"Ours takes {comparison.time:.2f} of the time of the fastest peer "
        f"({_system_name(comparison.form)}) and {comparison.memory:.2f} of its memory."
    )


def _notes_of_jobs(record: Record, what: What) -> list[str]:
    """What failed, and whether the step waits for its input."""
    notes = []
    for result in record.results:
        if result.job.what != what:
            continue
        if result.failure:
            part = "" if result.job.task == "steps" else f", {result.job.task}"
            notes.append(f"{_system_name(result.job.form)}{part}: {result.failure}")
        elif isinstance(result.figures, InputFigures):
            notes.append(_input_text(result.figures, result.job.batch))
    return notes


def _input_text(figures: InputFigures, batch: int) -> str:
    """Whether the step waits for its input, as a sentence."""
    alone = digits(batch / figures.pipeline_s)
    return (
        f"Input: the pipeline alone gives {alone} scans/s; a step takes "
        f"{seconds(figures.fixed_s)} with one batch and "
        f"{seconds(figures.real_s)} with a new one from disk each time, "
        f"{figures.real_s / figures.fixed_s:.3f} of it."
    )


def _system_name(form: Form) -> str:
    """Whose code it is."""
    return "ours" if form == "jit" else f"torch {form}"


def planned(line: Line, name: str) -> str:
    """One figure of the memory that the compiler plans for."""
    return size(getattr(line.compiled, name)) if line.compiled else NONE
