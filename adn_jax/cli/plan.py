"""`adn plan CONFIG --target v5e:4x4`: whether a training fits accelerators."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import jax
from rich.console import Console
from rich.progress import TimeElapsedColumn

from adn_jax.cli.arguments import (
    LocalFolder,
    check_trained,
    parse_with_recipe,
    with_present_names,
)
from adn_jax.config import Recipe
from adn_jax.config.sizes import Size
from adn_jax.errors import UserError
from adn_jax.io.files import write_json, write_text
from adn_jax.planning.plan import StepPlan, plan_step
from adn_jax.planning.table import plan_sections, plans_json
from adn_jax.planning.targets import (
    Accelerators,
    check_compiler,
    mesh_shape,
    parse_target,
)
from adn_jax.report.tables import print_sections, to_markdown
from adn_jax.runtime.jobs import progress_bar
from adn_jax.training.begin import check_stages
from adn_jax.training.runs import stages_of


@dataclass(frozen=True)
class PlanCommand:
    """Compile the train steps of a recipe for accelerators that are not here.

    Their real compilers run on this machine and tell memory, cycles and what devices
    exchange. A step of full size takes a TPU's 12 to 32 minutes on two cores, a card's
    20 seconds. Any setting of the recipe can be changed, as in `adn train`. The exit
    code is 1 if a step fits a target in none of the forms that were tried.
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
    out: LocalFolder | None = None
    """Folder for plan.md and plan.json of the latest call, and for what was compiled:
    later calls, and calls for other targets side by side, compile only what is missing
    there. Default: the terminal alone."""


def main(arguments: Sequence[str]) -> None:
    """Plan; exit code 1 if a step fits none of its targets' devices."""
    jax.config.update("jax_platforms", "cpu")  # compilers of others may be installed
    given = with_present_names(arguments)

    def parse(options: str = "") -> tuple[PlanCommand, Recipe]:
        return parse_with_recipe(PlanCommand, "plan", [*given, *options.split()])

    def change(target: Accelerators, options: str = "") -> tuple[Recipe, int]:
        command, recipe = parse(options)
        cases, shards = command.cases_per_device, command.spatial_shards
        if cases is not None and ".batch" not in options:
            recipe = with_batch(recipe, cases * target.devices // shards)
        return recipe, shards

    command, recipe = parse()
    if command.cases_per_device is not None and command.cases_per_device < 1:
        raise UserError(
            f"--cases-per-device is {command.cases_per_device}; it wants a number from "
            "1 on."
        )
    targets = [parse_target(text) for text in command.target]
    stages = command.stages or stages_of(recipe)
    check_trained("--stages", stages, recipe)
    for target in targets:
        check_compiler(target)
        mesh = mesh_shape(target, command.spatial_shards)
        try:
            check_stages(change(target)[0], mesh, stages)
        except UserError as error:
            raise UserError(f"{target.name}: {error}") from error
    out = command.out
    compiled = None if out is None else out / "compiled"
    plans: list[StepPlan] = []
    with progress_bar(TimeElapsedColumn(), transient=True) as bar:
        task = bar.add_task("", total=len(targets) * len(stages))

        def begin(what: str) -> None:
            bar.update(task, description=f"compiling {what}")

        for target in targets:
            for stage in stages:
                plans.append(
                    plan_step(target, stage, change, compiled, command.tries, begin)
                )
                bar.advance(task)
                if out is not None:
                    write_json(out / "plan.json", plans_json(plans))
                    write_text(out / "plan.md", to_markdown(plan_sections(plans)))
    print_sections(plan_sections(plans), Console())
    if any(plan.best is None for plan in plans):
        raise SystemExit(1)


def with_batch(recipe: Recipe, batch: int) -> Recipe:
    """The recipe with so many cases in an update of every stage."""
    stages = ("align", "tissue", "joint")
    return replace(
        recipe,
        **{stage: replace(getattr(recipe, stage), batch=batch) for stage in stages},
    )
