"""`adn sweep CONFIG --over FIELD=VALUES`: what settings do."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from rich.console import Console

from adn_jax.cli.arguments import LocalFolder, Where, parse_with_recipe
from adn_jax.cli.table import Pairs
from adn_jax.comparison.compare import read_scores
from adn_jax.comparison.sweep import plan_settings, write_sweep
from adn_jax.comparison.work import (
    RunJob,
    check_same_data,
    complete,
    plan_runs,
    prepared_data,
)
from adn_jax.config.fields import read_pairs
from adn_jax.config.recipe_file import load_recipe
from adn_jax.config.sizes import Size, at_size
from adn_jax.errors import UserError
from adn_jax.evaluation.source import labelled_cases
from adn_jax.report.tables import print_sections


@dataclass(frozen=True)
class Sweep:
    """Train and score a recipe for every combination of values of its settings.

    The same command again does only what is missing. Settings that alignment does not
    depend on share one T a seed. Any other setting of the recipe can be changed:
    `--section.field value`. Writes OUT/sweep.md, .csv and .png.
    """

    data: Where
    """Prepared data set, or a raw one (it is prepared into OUT/prepared first)."""
    out: LocalFolder
    """Folder of the sweep; the runs are in OUT/runs."""
    over: Pairs
    """A field and its values, as joint_loss.regularisation=0,1,10,100; given once more
    for another field, every combination is run. The first field is the axis of the
    figure."""
    seeds: tuple[int, ...] = (0,)
    """A run of each combination is trained for each seed."""
    size: Size = "full"
    """The recipe as it is, or on a small grid with few maps and steps."""
    split: str = "test"
    """Split of the data set on which the runs are scored."""
    spatial_shards: int = 1
    """Devices that share the rows (y) of each case in training; see `adn train`."""
    workers: int | None = None
    """Processes that prepare a raw data set; as many as cores by default."""
    hu_range: tuple[float, float] | None = None
    """HU to which the scans of a raw data set were clipped before, -17 80 for
    instance."""


def main(arguments: Sequence[str]) -> None:
    """Run the verb; exit code 2 where a run is missing at the end."""
    command, recipe = parse_with_recipe(Sweep, "sweep", arguments)
    config = Path(arguments[0])
    base = at_size(load_recipe(config), command.size)
    if recipe.seed != base.seed:
        raise UserError("--seed is given, but a sweep has several; set --seeds.")
    over = read_pairs("--over", chain(*command.over))
    settings = plan_settings(config, base, recipe, over, command.size)
    systems = [setting.system for setting in settings]
    check_same_data(systems)
    runs = plan_runs(systems, command.seeds, command.out / "runs")
    manifest = prepared_data(
        command.data,
        command.out,
        recipe.system.prepare,
        command.workers,
        command.hu_range,
    )
    labelled_cases(manifest, command.split)
    job = RunJob(
        manifest.folder,
        command.split,
        command.size,
        command.out / "logs",
        spatial_shards=command.spatial_shards,
    )
    scored, missing, failed = complete(runs, job)
    if scored:
        scores = read_scores(scored, command.split)
        section = write_sweep(
            settings, scores, manifest, command.out, command.split, missing
        )
        print_sections([section], Console())
        print(f"sweep: {command.out / 'sweep.md'}, figure: {command.out / 'sweep.png'}")
    if failed:
        raise SystemExit(2)
