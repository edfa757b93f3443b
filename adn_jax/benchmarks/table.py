"""A benchmark as a reader wants it: sections for the terminal and for Markdown."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from adn_jax.benchmarks.job import Form, InputFigures, Spread, What
from adn_jax.benchmarks.record import Record
from adn_jax.benchmarks.summary import Comparison, Line, compare, summarise

WHAT = {
    "align": "Train step of T",
    "joint": "Train step of D and F",
    "inference": "Inference, I to O",
}

NONE = "–"


@dataclass(frozen=True)
class Section:
    """A title, a table (or none) and sentences below it."""

    title: str
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()


def sections(record: Record) -> list[Section]:
    """The machine, then times and memory of everything that was measured."""
    steps = [steps_section(record, what) for what in record.plan.what]
    return [
        machine_section(record),
        *(each for each in steps if each.rows or each.notes),
    ]


def machine_section(record: Record) -> Section:
    """What it ran on, with which versions, and what the machine can do at best."""
    machine, peaks = record.machine, record.peaks
    device = peaks.device
    used = f"{machine.processor}, {machine.cores} cores, {machine.memory_gb:.0f} GB"
    if device.platform != "cpu":
        used = f"{device.count} x {device.kind}, {used}"
    driver = [f"driver {machine.driver}"] if machine.driver else []
    sides = [result.figures.device for result in record.results if result.figures]
    versions = dict.fromkeys(v for side in (device, *sides) for v in side.versions)
    threads = dict.fromkeys(str(side.threads) for side in (device, *sides))
    return Section(
        used,
        notes=(
            ", ".join([*versions, f"Python {machine.python}", *driver]),
            f"Peaks: {record.plan.recipe.precision} matrix product "
            f"{digits(peaks.flops / 1e12)} TFLOP/s, copy "
            f"{digits(peaks.bytes_a_second / 1e9)} GB/s, read and written.",
            f"Threads {' and '.join(threads)}, load average {record.load:.1f} before.",
            f"{record.date}: {record.command}",
        ),
    )


def steps_section(record: Record, what: What) -> Section:
    """Times and memory of one kind of step, a column for each system."""
    recipe = record.plan.recipe
    lines = [line for line in summarise(record) if line.what == what]
    grid = " x ".join(map(str, recipe.prepare.shape))
    batch = f"batch {lines[0].batch}, " if lines else ""
    table = [(name, *(show(line) for line in lines)) for name, show in ROWS]
    return Section(
        f"{WHAT[what]}: {recipe.name}, {batch}{grid}, {recipe.precision}",
        columns=("", *(system_name(line.form) for line in lines)),
        rows=tuple(row for row in table if set(row[1:]) - {NONE}),
        notes=(
            *(comparison_text(each) for each in compare(lines)[:1]),
            *notes_of_jobs(record, what),
        ),
    )


ROWS: tuple[tuple[str, Callable[[Line], str]], ...] = (
    ("call, median", lambda line: seconds(line.step.median)),
    ("quartiles", lambda line: quartiles(line.step)),
    ("calls", lambda line: str(line.calls)),
    ("call, many in a row", lambda line: seconds(line.pipelined_s)),
    ("scans/s", lambda line: digits(line.volumes_a_second)),
    ("TFLOP/s", lambda line: digits(line.flops / 1e12)),
    ("of the matrix product", lambda line: f"{100 * line.peak_share:.1f} %"),
    ("compile, empty cache", lambda line: seconds(line.compile_cold_s)),
    ("compile, filled cache", lambda line: seconds(line.compile_warm_s)),
    ("first call", lambda line: seconds(line.first_s)),
    ("memory: peak of the calls", lambda line: size(line.memory.peak)),
    ("before them", lambda line: size(line.memory.before)),
    ("peak until then", lambda line: size(line.memory.peak_building)),
    ("planned: arguments", lambda line: planned(line, "arguments")),
    ("outputs", lambda line: planned(line, "outputs")),
    ("of them in donated arguments", lambda line: planned(line, "aliased")),
    ("temporaries", lambda line: planned(line, "temporaries")),
)
"""What a table of steps tells of each system."""


def comparison_text(comparison: Comparison) -> str:
    """Ours beside the fastest peer, as a sentence."""
    return (
        f"Ours takes {comparison.time:.2f} of the time of the fastest peer "
        f"({system_name(comparison.form)}) and {comparison.memory:.2f} of its memory."
    )


def notes_of_jobs(record: Record, what: What) -> list[str]:
    """What failed, and whether the step waits for its input."""
    notes = []
    for result in record.results:
        if result.job.what != what:
            continue
        if result.failure:
            part = " with real input" if result.job.task == "input" else ""
            notes.append(f"{system_name(result.job.form)}{part}: {result.failure}")
        elif isinstance(result.figures, InputFigures):
            notes.append(input_text(result.figures, result.job.batch))
    return notes


def input_text(figures: InputFigures, batch: int) -> str:
    """Whether the step waits for its input, as a sentence."""
    rate = digits(batch / figures.pipeline_s)
    return (
        f"Input: the pipeline alone gives {rate} scans/s; a "
        f"step takes {seconds(figures.fixed_s)} with one batch and "
        f"{seconds(figures.real_s)} with a new one from disk each time, "
        f"{figures.real_s / figures.fixed_s:.3f} of it."
    )


def system_name(form: Form) -> str:
    """Whose code it is."""
    return "ours" if form == "jit" else f"torch {form}"


def digits(value: float) -> str:
    """Three digits, never in powers of ten."""
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}".rstrip(".")


def seconds(value: float | None) -> str:
    """A time with its unit."""
    if value is None:
        return NONE
    return f"{digits(value)} s" if value >= 1 else f"{digits(1000 * value)} ms"


def quartiles(step: Spread) -> str:
    """The quartiles in the median's unit."""
    factor = 1 if step.median >= 1 else 1000
    return f"{digits(factor * step.low)} to {digits(factor * step.high)}"


def size(value: int) -> str:
    """Bytes with their unit."""
    return f"{value / 1e9:.2f} GB" if value >= 1e9 else f"{value / 1e6:.1f} MB"


def planned(line: Line, name: str) -> str:
    """One figure of the memory that the compiler plans for."""
    return size(getattr(line.compiled, name)) if line.compiled else NONE


def print_sections(found: Sequence[Section], console: Console) -> None:
    """Write sections to the terminal."""
    for section in found:
        console.print(f"\n{section.title}", style="bold", highlight=False)
        if section.rows:
            table = Table()
            for number, column in enumerate(section.columns):
                table.add_column(column, justify="right" if number else "left")
            for row in section.rows:
                table.add_row(*row)
            console.print(table)
        for note in section.notes:
            console.print(note, highlight=False, markup=False)


def to_markdown(found: Sequence[Section]) -> str:
    """Write sections as Markdown."""
    parts = []
    for section in found:
        parts.append(f"**{section.title}**")
        if section.rows:
            rule = ["---", *["---:"] * (len(section.columns) - 1)]
            rows = (section.columns, rule, *section.rows)
            parts.append("\n".join(f"| {' | '.join(row)} |" for row in rows))
        parts.extend(section.notes)
    return "\n\n".join(parts) + "\n"
