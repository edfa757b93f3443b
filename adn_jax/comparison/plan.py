"""Which runs a comparison consists of, which machine does which, who shares T."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from adn_jax.config import Recipe
from adn_jax.config.serialization import differing_fields
from adn_jax.errors import UserError
from adn_jax.training.runs import Run, changed_settings, stages_of


@dataclass(frozen=True)
class System:
    """What is compared: a recipe, trained once for each seed."""

    name: str
    config: Path
    """The config file that its training starts from."""
    base: Recipe
    """The recipe that the config file gives at the chosen size."""
    recipe: Recipe
    """The recipe that is trained, apart from its seed."""


@dataclass(frozen=True)
class PlannedRun:
    """A system with a seed, and the folder of its run."""

    system: System
    seed: int
    folder: Path

    @property
    def recipe(self) -> Recipe:
        """The recipe of this run."""
        return replace(self.system.recipe, seed=self.seed)

    @property
    def name(self) -> str:
        """For progress and messages."""
        return self.folder.name


@dataclass(frozen=True)
class Shard:
    """One of several machines that share the runs: `index` of `count`, from 0."""

    index: int = 0
    count: int = 1


def read_shard(text: str) -> Shard:
    """A shard from text such as 0/4; `UserError` where it is none."""
    index, slash, count = text.partition("/")
    if slash and index.isdecimal() and count.isdecimal() and int(index) < int(count):
        return Shard(int(index), int(count))
    raise UserError(
        f"--shard is {text!r}; it has to be a number from 0 and how many there are, "
        "as 0/4, 1/4, 2/4 and 3/4."
    )


def plan_runs(
    systems: Sequence[System], seeds: Sequence[int], folder: Path
) -> list[PlannedRun]:
    """Every system with every seed, seed by seed; `UserError` for a doublet."""
    given: dict[str, Sequence[str | int]] = {
        "system": [system.name for system in systems],
        "seed": list(seeds),
    }
    for what, values in given.items():
        twice = next((each for each in values if values.count(each) > 1), None)
        if twice is not None:
            raise UserError(f"the {what} {twice!r} is given twice; give each once.")
        if not values:
            raise UserError(f"no {what} is given; give at least one.")
    return [
        PlannedRun(system, seed, folder / f"{system.name}-seed{seed}")
        for seed in seeds
        for system in systems
    ]


def runs_of_shard(runs: Sequence[PlannedRun], shard: Shard) -> list[PlannedRun]:
    """The runs that one machine does.

    Seeds are dealt first, so that the runs of a seed, which share T, stay together
    as long as there are no more shards than seeds; of more, several share a seed.
    """
    seeds = list(dict.fromkeys(run.seed for run in runs))
    chosen = []
    for place, seed in enumerate(seeds):
        dealt = range(place % shard.count, shard.count, len(seeds))
        for number, run in enumerate(run for run in runs if run.seed == seed):
            if dealt[number % len(dealt)] == shard.index:
                chosen.append(run)
    return chosen


def find_trained_t(run: PlannedRun, peers: Iterable[PlannedRun]) -> PlannedRun | None:
    """The first of the peers whose finished T is what this run would train.

    None: there is none, no T is needed, or the run has begun one of its own.
    """
    needed = "align" in stages_of(run.recipe)
    begun = Run.find(run.folder)
    if not needed or (begun is not None and begun.has_checkpoints("align")):
        return None
    for peer in peers:
        if peer.folder == run.folder or "align" not in stages_of(peer.recipe):
            continue
        if changed_settings("align", peer.recipe, run.recipe):
            continue
        other = Run.find(peer.folder)
        if other is not None and "align" in other.finished:
            return peer
    return None


def check_same_data(systems: Sequence[System]) -> None:
    """Raise `UserError`, naming the fields, unless all want the same prepared data."""
    first, *others = systems
    for other in others:
        differing = list(
            differing_fields(
                first.recipe.system.prepare, other.recipe.system.prepare, "prepare."
            )
        )
        if differing:
            raise UserError(
                f"{first.name} and {other.name} want data prepared differently "
                f"({'; '.join(differing)}); set these fields to the same values."
            )
