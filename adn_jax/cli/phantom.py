"""`adn phantom OUT --cases N --seed S`: heads with known truth."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from adn_jax.cli.arguments import LocalFolder, parse
from adn_jax.config.recipe_file import load_recipe
from adn_jax.errors import UserError, counted
from adn_jax.phantom.generate import write_phantoms
from adn_jax.phantom.settings import PRESETS


@dataclass(frozen=True)
class PhantomCommand:
    """Make head phantoms: raw CT with lesion, tissue, pose and asymmetry known."""

    out: Annotated[LocalFolder, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """Folder of the new raw data set; one made half-way is completed."""
    cases: int
    """How many phantoms."""
    seed: int = 0
    """The same seed gives the same files."""
    difficulty: Literal["easy", "hard"] | None = None
    """Easy, as if not given: clear infarcts, small files. Hard: infarcts and anatomy as
    in patients."""
    stream: Path | None = None
    """Config whose heads are drawn, as a training without data draws them: OUT becomes
    a prepared data set on its grid, in the place of raw scans of a difficulty."""
    validation: int | None = None
    """Cases for validation; 12 % where not given."""
    test: int | None = None
    """Cases for test; 18 % where not given."""
    workers: int | None = None
    """Processes side by side; one a processor where not given."""


def main(arguments: Sequence[str]) -> None:
    """Make the phantoms and say where they are."""
    command = parse(PhantomCommand, "phantom", arguments)
    kind, parts = "drawn", (command.validation, command.test)
    if command.stream is None:
        kind = command.difficulty or "easy"
        preset = PRESETS[kind]
        splits = write_phantoms(
            command.out, command.cases, command.seed, preset, *parts, command.workers
        )
    else:
        _check_stream(command)
        from adn_jax.data.stream import write_drawn_heads  # the others need no JAX

        recipe = load_recipe(command.stream)
        splits = write_drawn_heads(
            command.out, command.cases, command.seed, recipe, *parts
        )
    counts = ", ".join(f"{len(names)} {split}" for split, names in splits.items())
    print(
        f"{counted(command.cases, f'{kind} phantom')} (seed "
        f"{command.seed}; {counts}) {'is' if command.cases == 1 else 'are'} in "
        f"{command.out}"
    )


def _check_stream(command: PhantomCommand) -> None:
    """Raise `UserError` if an option is given that a stream of heads does not have."""
    for name in ("difficulty", "workers"):
        if getattr(command, name) is not None:
            raise UserError(
                f"--{name} is given with --stream, which draws heads as its config "
                "says, in this process; leave one of the two out."
            )
