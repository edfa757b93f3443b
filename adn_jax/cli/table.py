"""`adn table DATA OUT --recipes ...`: systems on the same data."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from adn_jax.cli.arguments import LocalFolder, Where, parse
from adn_jax.comparison.compare import paper_order, read_scores
from adn_jax.comparison.peers import find_peer_runs, name_predictions
from adn_jax.comparison.qualitative import check_cases
from adn_jax.comparison.table import write_table
from adn_jax.comparison.work import (
    Method,
    RunJob,
    check_same_data,
    complete,
    plan_runs,
    prepared_data,
    read_shard,
    runs_of_shard,
)
from adn_jax.config.fields import read_pairs, set_fields
from adn_jax.config.recipe_file import load_recipe
from adn_jax.config.sizes import Size, at_size
from adn_jax.errors import UserError
from adn_jax.evaluation.evaluate import evaluate_peer
from adn_jax.evaluation.source import labelled_cases
from adn_jax.report.tables import print_sections

Pairs = tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]]
"""Texts such as joint.steps=100, one or several at each use of the option."""


@dataclass(frozen=True)
class Table:
    """Train and score recipes with several seeds, and compare them on the same cases.

    The same command again does only what is missing. Recipes with the same alignment
    share one T a seed. Writes OUT/table.md, .csv, .tex, .html, .json and OUT/figures.
    """

    data: Annotated[Where, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """Prepared data set, or a raw one (it is prepared into OUT/prepared first)."""
    out: Annotated[LocalFolder, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """Folder of the comparison; the runs are in OUT/runs/RECIPE-seedN."""
    recipes: tuple[Path, ...]
    """Config files; those of the paper's Table 1 are shown in its order."""
    predictions: tuple[str, ...] = ()
    """Rows that other tools predicted, NAME=DIR each: masks or probabilities of the
    split's cases, as `adn evaluate --predictions` takes them. Folders of one NAME stand
    beside the seeds in their order."""
    seeds: tuple[int, ...] = (0,)
    """A run of each recipe is trained for each seed."""
    reference: str | None = None
    """Name of the recipe, or of the predictions, that the others are compared with;
    default: adn if it is among them, else the first recipe."""
    size: Size = "full"
    """The recipes as they are, or on a small grid with few maps and steps."""
    shard: str = "0/1"
    """Of several machines that share OUT: which this one is, from 0, and how many. The
    runs of a seed, which share T, stay together where there are no more machines than
    seeds. Prepare raw data before. At the end the command without --shard writes the
    whole table."""
    split: str = "test"
    """Split of the data set on which the runs are scored."""
    grid: Literal["auto", "native", "prepared"] = "auto"
    """Grid of the scores; auto: the scans' own where every case has its label there."""
    cases: tuple[str, ...] = ()
    """Cases of figures/fig3.png; default: spread by the reference's Dice."""
    set: Pairs = ()
    """Settings of every recipe, as joint.steps=100."""
    spatial_shards: int = 1
    """Devices that share the rows (y) of each case in training; see `adn train`."""
    workers: int | None = None
    """Processes that prepare a raw data set; as many as cores by default."""
    hu_range: tuple[float, float] | None = None
    """HU to which the scans of a raw data set were clipped before, -17 80 for
    instance."""


def main(arguments: Sequence[str]) -> None:
    """Run the verb; exit code 2 where a run of this machine is missing at the end."""
    command = parse(Table, "table", arguments)
    shard = read_shard(command.shard)
    predictions = name_predictions(command.predictions)
    systems, reference = find_systems(command, [name for name, _ in predictions])
    check_same_data(systems)
    runs = plan_runs(systems, command.seeds, command.out / "runs")
    mine = runs_of_shard(runs, shard)
    data, settings = command.data, systems[0].recipe.system.prepare
    manifest = prepared_data(
        data, command.out, settings, command.workers, command.hu_range
    )
    check_cases(command.cases, labelled_cases(manifest, command.split))
    peers = find_peer_runs(predictions, command.seeds, manifest, command.split)
    for run in peers:
        # every shard has these rows, and what one has scored the next one reads
        evaluate_peer(run.peer, manifest, command.split, wait=True)
    job = RunJob(
        manifest.folder,
        command.split,
        command.size,
        command.out / "logs",
        by_pairs=True,
        spatial_shards=command.spatial_shards,
    )
    scored, missing, failed = complete(runs, job, mine)
    if scored:
        grid = "" if command.grid == "auto" else command.grid
        rows = [*scored, *peers]
        section = write_table(
            rows,
            read_scores(rows, command.split, grid),
            manifest,
            command.out,
            reference,
            command.split,
            command.cases,
            missing,
        )
        print_sections([section], Console())
        print(f"table: {command.out / 'table.html'}")
    if failed:
        raise SystemExit(2)


def find_systems(
    command: Table, predicted: Sequence[str] = ()
) -> tuple[list[Method], str]:
    """The recipes at the chosen size with the chosen settings, in the paper's order,
    and the name of the reference.

    `predicted` are names of other tools; none may be that of a recipe.
    """
    chosen = read_pairs("--set", chain(*command.set))
    systems = []
    for config in command.recipes:
        base = at_size(load_recipe(config), command.size)
        recipe = set_fields(base, chosen)
        systems.append(Method(recipe.name, config, base, recipe, command.size))
    if not systems:
        raise UserError("--recipes names no config file; name one or more.")
    names = [system.name for system in systems]
    for name in predicted:
        if name in names:
            raise UserError(
                f"--predictions and --recipes both have {name!r}; call the predictions "
                "otherwise, NAME=DIR."
            )
    known = [*names, *predicted]
    reference = command.reference or ("adn" if "adn" in known else known[0])
    if reference not in known:
        raise UserError(
            f"--reference is {reference!r}, but the recipes are {', '.join(known)}; "
            "name one of them."
        )
    return sorted(systems, key=lambda system: paper_order(system.name)), reference
