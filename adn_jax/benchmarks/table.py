"""A benchmark as a reader wants it: one section a step, a column for each system."""

import math
from collections.abc import Callable, Sequence

from adn_jax.benchmarks.budget import Budget, BudgetRow
from adn_jax.benchmarks.job import (
    TITLES,
    InputFigures,
    PeakFigures,
    StepFigures,
    What,
    quartiles,
    side_of,
)
from adn_jax.benchmarks.record import (
    Line,
    Record,
    compare_with_peers,
    summarise_systems,
)
from adn_jax.config import Recipe
from adn_jax.models.cost import LayerCost, step_flops, step_networks
from adn_jax.report.tables import NONE, Section, bytes_text, digits, rate, seconds

LEAST_TIME_SHARE = 0.005
"""Rows of a budget with less of the step's time are left to the sum."""

RAN = (PeakFigures, StepFigures)
"""Figures that tell with what they were measured."""


def planned(line: Line, name: str) -> str:
    """One figure of the memory that the compiler plans for."""
    return bytes_text(getattr(line.compiled, name)) if line.compiled else NONE


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
    ("peak memory", lambda line: bytes_text(line.memory.peak)),
    ("memory before", lambda line: bytes_text(line.memory.before)),
    ("peak memory before", lambda line: bytes_text(line.memory.peak_building)),
    ("planned arguments", lambda line: planned(line, "arguments")),
    ("planned outputs", lambda line: planned(line, "outputs")),
    ("planned donated", lambda line: planned(line, "aliased")),
    ("planned temporaries", lambda line: planned(line, "temporaries")),
)
"""What a table of steps tells of each system; `before` is before the first call."""


def budget_section(budget: Budget, what: What) -> Section:
    """Where the time of a step goes, beside the two floors; times in ms."""
    sums = [
        math.fsum(getattr(row, name) for row in budget.rows)
        for name in ("seconds", "share", "compute_floor", "memory_floor")
    ]
    shown = [row for row in budget.rows if row.share >= LEAST_TIME_SHARE]
    rows = []
    for row in (*shown, BudgetRow("all", "", "", *sums)):
        times = (f"{1000 * row.seconds:.2f}", f"{row.share:.1%}")
        floors = (f"{1000 * s:.2f}" for s in (row.compute_floor, row.memory_floor))
        rows.append((row.part, row.kind, row.direction, *times, *floors))
    return Section(
        f"{TITLES[what]}, profiled: {seconds(budget.step_s)} a call",
        ("part", "work", "direction", "ms", "share", "compute", "memory"),
        tuple(rows),
        notes=("Compute, memory: the least ms that the measured peaks allow.",),
        texts=3,
    )


def layer_sections(recipe: Recipe, what: Sequence[What]) -> list[Section]:
    """Operations of each step by network, then of each network by layer: as the plain
    layer and as computed."""
    networks: dict[tuple[LayerCost, ...], list[str]] = {}
    sections = []
    for each in what:
        rows = []
        for network in step_networks(recipe, each):
            parts = networks.setdefault(network.layers, [])
            if network.part not in parts:
                parts.append(network.part)
            rows += [
                (network.part, direction, digits(count / 1e9))
                for direction, count in network.flops.items()
            ]
        total = digits(step_flops(recipe, each, 1) / 1e9)
        title = f"{TITLES[each]}: operations of a volume"
        columns = ("network", "direction", "GFLOP")
        rows.append(("all", "", total))
        sections.append(Section(title, columns, tuple(rows), texts=2))
    for layers, parts in networks.items():
        rows = [
            (
                layer.path.removesuffix("/convolution"),
                " x ".join(map(str, layer.shape_zyx)),
                str(layer.taps),
                f"{layer.inputs} to {layer.features}",
                digits(layer.flops / 1e9),
                digits(layer.computed_flops / 1e9),
            )
            for layer in layers
        ]
        plain = digits(sum(layer.flops for layer in layers) / 1e9)
        computed = digits(sum(layer.computed_flops for layer in layers) / 1e9)
        sections.append(
            Section(
                f"Layers of {' and '.join(parts)}, forward, a volume",
                ("layer", "output", "taps", "channels", "GFLOP", "computed"),
                (*rows, ("all", "", "", "", plain, computed)),
                notes=("Computed: with the exact rewrites of accelerators.",),
            )
        )
    return sections


def report_sections(record: Record) -> list[Section]:
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
    lines = [line for line in summarise_systems(record) if line.what == what]
    grid = " x ".join(map(str, recipe.system.prepare.shape))
    batch = f"batch {lines[0].batch}, " if lines else ""
    table = [(name, *(show(line) for line in lines)) for name, show in ROWS]
    beside = [
        f"Ours takes {fastest.time:.2f} of the time of the fastest peer "
        f"({side_of(fastest.form)}) and {fastest.memory:.2f} of its memory."
        for fastest in compare_with_peers(lines)[:1]
    ]
    return Section(
        f"{TITLES[what]}: {recipe.name}, {batch}{grid}, {recipe.system.precision}",
        columns=("", *(side_of(line.form) for line in lines)),
        rows=tuple(row for row in table if set(row[1:]) - {NONE}),
        notes=(*beside, *_notes_of_jobs(record, what)),
    )


def _notes_of_jobs(record: Record, what: What) -> list[str]:
    """What failed, and whether the step waits for its input."""
    notes = []
    for result in record.results:
        job, found = result.job, result.figures
        if job.what != what:
            continue
        if result.failure:
            part = "" if job.task == "steps" else f", {job.task}"
            notes.append(f"{side_of(job.form)}{part}: {result.failure}")
        elif isinstance(found, InputFigures):
            alone = digits(job.batch / found.pipeline_s)
            notes.append(
                f"Input: the pipeline alone gives {alone} scans/s; a step takes "
                f"{seconds(found.fixed_s)} with one batch and "
                f"{seconds(found.real_s)} with a new one from disk each time, "
                f"{found.real_s / found.fixed_s:.3f} of it."
            )
    return notes
