"""`adn plan CONFIG --target v5e:4x4`: whether a training fits accelerators."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jax
from rich.console import Console
from rich.progress import TimeElapsedColumn

from adn_jax.cli.arguments import parse_with_recipe, with_present_names
from adn_jax.config import Recipe
from adn_jax.config.sizes import Size
from adn_jax.errors import UserError
from adn_jax.io.files import write_json, write_text
from adn_jax.planning.plan import Compiled, StepPlan, plan_step
from adn_jax.planning.table import plan_sections, plans_json
from adn_jax.planning.targets import check_compiler, parse_target
from adn_jax.planning.worker import CompileJob
from adn_jax.report.tables import print_sections, to_markdown
from adn_jax.runtime.jobs import progress_bar
from adn_jax.training.runs import stages_of


@dataclass(frozen=True)
class PlanCommand:
    """Compile the train steps of a recipe for accelerators that are not here.

    Their real compilers run on this machine and tell memory, cycles and what devices
    exchange; a step of full size takes them ten minutes on two cores. Any setting of
    the recipe can be changed, as in `adn train`.
    """

    target: tuple[str, ...]
    """TPU slices (v5e:4x4, v5p:2x2x1, v4:2x2x2, v6e:2x4) or cards (h100, h200:8)."""
    stages: tuple[str, ...] = ()
    """Which of align, tissue, joint; default: all that the recipe trains."""
    size: Size = "full"
    """The recipe as it is, or on a small grid with few maps."""
    cases_per_device: int | None = None
    """Cases of an update on each device; default: the recipe's batch is divided."""
    spatial_shards: int = 1
    """Devices that share the rows (y) of each case."""
    tries: int = 3
    """Where a step does not fit: forms of it that are compiled in search of one that
    does."""
    out: Path | None = None
    """Folder for plan.md and plan.json; the same command again compiles only what is
    missing there. Default: the terminal alone."""


def main(arguments: Sequence[str]) -> None:
    """Plan; exit code 1 if a step fits none of its targets' devices."""
    jax.config.update("jax_platforms", "cpu")  # compilers of others may be installed
    given = with_present_names(arguments)

    def parse(options: str = "") -> tuple[PlanCommand, Recipe]:
        command, recipe = parse_with_recipe(
            PlanCommand, "plan", [*given, *options.split()]
        )
        if command.cases_per_device is not None and ".batch" not in options:
            recipe = with_cases(recipe, command, command.cases_per_device)
        return command, recipe

    def change(options: str) -> tuple[Recipe, int]:
        command, recipe = parse(options)
        return recipe, command.spatial_shards

    command, recipe = parse()
    targets = [parse_target(text) for text in command.target]
    for target in targets:
        check_compiler(target)
    stages = command.stages or stages_of(recipe)
    if unknown := [stage for stage in stages if stage not in stages_of(recipe)]:
        raise UserError(
            f"--stages has {unknown[0]!r}; {recipe.name} trains "
            f"{', '.join(stages_of(recipe))}."
        )
    out = command.out
    compiled = Compiled(None if out is None else out / "compiled.json")
    plans: list[StepPlan] = []
    with progress_bar(TimeElapsedColumn(), transient=True) as bar:
        task = bar.add_task("", total=len(targets) * len(stages))

        def begin(what: str) -> None:
            bar.update(task, description=f"compiling {what}")

        for target in targets:
            for stage in stages:
                job = CompileJob(target.name, recipe, stage, command.spatial_shards)
                plans.append(
                    plan_step(target, job, change, compiled, command.tries, begin)
                )
                bar.advance(task)
                if out is not None:
                    write_json(out / "plan.json", plans_json(plans))
                    write_text(out / "plan.md", to_markdown(plan_sections(plans)))
    print_sections(plan_sections(plans), Console())
    if any(plan.best is None for plan in plans):
        raise SystemExit(1)


def with_cases(recipe: Recipe, command: PlanCommand, cases: int) -> Recipe:
    """The recipe with so many cases on each device of the targets.

    Raises `UserError` if the targets have different numbers of devices.
    """
    sizes = {parse_target(text).devices for text in command.target}
    if len(sizes) > 1 or cases < 1:
        raise UserError(
            "--cases-per-device wants a number from 1 on, and targets with equally "
            "many devices; plan for each of them by itself."
        )
    batch = cases * sizes.pop() // command.spatial_shards
    return replace(
        recipe,
        **{
            stage: replace(getattr(recipe, stage), batch=batch)
            for stage in ("align", "tissue", "joint")
        },
    )
