"""A plan as tables: what fits, where cycles go, what is changed so that it fits."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from adn_jax.config.serialization import settings_to_json
from adn_jax.errors import UserError
from adn_jax.models.cost import StepKind, step_bytes, step_networks
from adn_jax.planning.plan import StepPlan, Trial, cases_of, cost_of_case, fits
from adn_jax.planning.program import CompiledStep
from adn_jax.planning.targets import Accelerators
from adn_jax.report.tables import NONE, Section, seconds
from adn_jax.runtime.jobs import GIB

ESTIMATES = (
    "What compilers plan and estimate; nothing here ran on a chip. Floors are the "
    "multiplications of the layers, and one way of their maps through memory, at the "
    "rates of the data sheet."
)


def plan_sections(plans: Sequence[StepPlan]) -> list[Section]:
    """For each target its steps side by side, and where their cycles go."""
    found = []
    for target in dict.fromkeys(plan.target for plan in plans):
        here = [plan for plan in plans if plan.target == target]
        trials = [trial for plan in here for trial in plan.trials]
        notes = [note for plan in here for note in _notes(plan)]
        found.append(_trials_section(target, trials, notes))
        compiled = [(trial, trial.answer.step) for trial in trials]
        counted = [(trial, step) for trial, step in compiled if step and step.cycles]
        if counted:
            found.append(_parts_section(target, counted))
    found[-1] = replace(found[-1], notes=(*found[-1].notes, ESTIMATES))
    return found


def _trials_section(
    target: Accelerators, trials: Sequence[Trial], notes: Sequence[str]
) -> Section:
    """A column for each step that was compiled."""
    chip = target.chip
    what = f"{target.devices} x {chip.name}" if target.devices > 1 else chip.name
    columns = [_figures(target, trial) for trial in trials]
    rows = [
        (name, *(column.get(name, NONE) for column in columns)) for name in TRIAL_ROWS
    ]
    return Section(
        f"{target.name}: {what}, {gib(target.room)} each",
        columns=("on each device", *(title_of(trial) for trial in trials)),
        rows=tuple(row for row in rows if set(row[1:]) - {NONE}),
        notes=tuple(notes),
    )


def title_of(trial: Trial) -> str:
    """A step in few words."""
    return f"{trial.job.stage} {trial.options}".strip()


TRIAL_ROWS = (
    *("cases of all devices", "fits", "memory", "of it temporaries"),
    *("cycles", "time by cycles", "of it copies", "floor of compute"),
    *("floor of memory", "exchanged", "compiled in"),
)


def _figures(target: Accelerators, trial: Trial) -> dict[str, str]:
    """What the table tells of a step."""
    job, answer = trial.job, trial.answer
    found = {"cases of all devices": str(cases_of(job))}
    if answer.refusal is not None:
        found["fits"] = "no"
        if answer.refusal.wanted:
            found["memory"] = gib(answer.refusal.wanted)
    step = answer.step
    if step is None:
        return found
    compute, memory = least_seconds(target, trial)
    found |= {
        "fits": "yes" if fits(target, trial) else "no",
        "memory": gib(step.memory.total),
        "of it temporaries": gib(step.memory.temporaries),
        "floor of compute": seconds(compute),
        "floor of memory": seconds(memory),
        "compiled in": seconds(step.compile_s),
    }
    if step.exchanges:
        found["exchanged"] = f"{sum(it.bytes for it in step.exchanges) / 1e6:.1f} MB"
    if step.cycles:
        found |= {
            "cycles": f"{step.cycles / 1e6:.1f} M",
            "time by cycles": seconds(estimated_seconds(target, step)),
            "of it copies": f"{100 * step.copy_share:.1f} %",
        }
    return found


def gib(size: int) -> str:
    """Bytes in GiB, as accelerators' memories are told."""
    return f"{size / GIB:.2f} GiB"


def estimated_seconds(target: Accelerators, step: CompiledStep) -> float | None:
    """The compiler's cycles as a time; None if they or the clock are not known."""
    clock = target.chip.clock_hz
    return step.cycles / clock if clock and step.cycles else None


def least_seconds(
    target: Accelerators, trial: Trial
) -> tuple[float | None, float | None]:
    """Least seconds for a step's multiplications and for its maps' way to memory.

    None for networks that are not counted (those that see patches).
    """
    job = trial.job
    stage = cast(StepKind, job.stage)
    try:
        networks = step_networks(job.recipe, stage)
        numbers = step_bytes(job.recipe, stage, cases_of(job))
    except UserError:
        return None, None
    flops = cases_of(job) * sum(sum(it.computed_flops.values()) for it in networks)
    # float32 takes at least twice as long as bfloat16
    slower = 1 if job.recipe.system.precision == "bfloat16" else 2
    rate = target.chip.flops * target.devices / slower
    return flops / rate, numbers / (target.chip.bytes_a_second * target.devices)


def _notes(plan: StepPlan) -> list[str]:
    """Sentences on a step of one target."""
    target, asked = plan.target, plan.asked
    name = asked.job.stage
    notes = []
    if not fits(target, asked):
        notes.append(f"{name}: {_what_fits(plan)}")
    if asked.answer.step and target.chip.platform == "gpu":
        step = asked.answer.step
        notes.append(
            f"{name}: {step.channels_first} of {step.convolutions} convolutions have "
            f"their channels first; copies and transposes of maps write "
            f"{step.map_copy_bytes / 1e9:.2f} GB a step."
        )
    for trial in plan.trials:
        if trial.answer.error:
            notes.append(f"{name} {trial.options}: {trial.answer.error}")
    return notes


def _what_fits(plan: StepPlan) -> str:
    """What to change where a step does not fit, as a sentence."""
    best = plan.best
    if best is None:
        return (
            "nothing that was tried fits; choose a smaller grid (--prepare.shape), "
            "narrower networks, or a target with more memory."
        )
    step = best.answer.step
    assert step is not None  # what fits was compiled
    cost = f", {cost_of_case(best) / 1e6:.0f} M cycles a case" if step.cycles else ""
    return f"fits with {best.options} ({gib(step.memory.total)}{cost})."


def _parts_section(
    target: Accelerators, trials: Sequence[tuple[Trial, CompiledStep]]
) -> Section:
    """Where the cycles go, and how much of each part's are copies."""
    names = dict.fromkeys(part.name for _, step in trials for part in step.parts)

    def cell(step: CompiledStep, name: str) -> str:
        part = next((part for part in step.parts if part.name == name), None)
        if part is None or not part.cycles:
            return NONE
        share, copies = part.cycles / step.cycles, part.copy_cycles / part.cycles
        return f"{100 * share:.1f} % ({100 * copies:.0f})"

    return Section(
        f"{target.name}: share of the cycles (percent of them that are copies)",
        columns=("part", *(title_of(trial) for trial, _ in trials)),
        rows=tuple((name, *(cell(step, name) for _, step in trials)) for name in names),
    )


def plans_json(plans: Sequence[StepPlan]) -> list[dict[str, Any]]:
    """Every trial with its figures, for other programs."""
    found = []
    for plan in plans:
        for trial in plan.trials:
            step, target = trial.answer.step, plan.target
            compute, memory = least_seconds(target, trial)
            found.append(
                {
                    "target": target.name,
                    "devices": target.devices,
                    "stage": trial.job.stage,
                    "options": trial.options,
                    "batch": cases_of(trial.job),
                    "fits": fits(target, trial),
                    "room_bytes": target.room,
                    "cycles": step.cycles if step else None,
                    "copy_share": step.copy_share if step and step.cycles else None,
                    "estimated_s": estimated_seconds(target, step) if step else None,
                    "compute_floor_s": compute,
                    "memory_floor_s": memory,
                    **settings_to_json(trial.answer),
                }
            )
    return found
