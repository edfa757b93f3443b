"""Command lines from dataclasses, recipes from files."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import field, make_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from adn_jax.config import Recipe
from adn_jax.config.recipe_file import load_recipe
from adn_jax.config.serialization import present_option, tell_renamed
from adn_jax.config.sizes import Size, at_size
from adn_jax.config.validation import check_recipe
from adn_jax.errors import UserError
from adn_jax.io.paths import Place, at_home, to_place
from adn_jax.training.runs import run_place, stages_of

Command = TypeVar("Command")


def local_folder(text: str) -> Path:
    """A folder on a disk; `UserError` for the address of an object store."""
    if "://" in text:
        raise UserError(
            f"{text} is in an object store, but this command writes to a disk alone; "
            "give a folder there and copy it afterwards."
        )
    return at_home(text)


def _place_argument(metavar: str, place_of: Callable[[str], Place]) -> Any:
    """How a place on the command line is read and shown."""
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda texts: place_of(texts[0]),
        is_instance=lambda value: isinstance(value, Place),
        str_from_instance=lambda place: [str(place)],
    )


Where = Annotated[Place, _place_argument("DIR", to_place)]
"""A folder on the command line, here or in an object store."""

LocalFolder = Annotated[Path, _place_argument("DIR", local_folder)]
"""A folder on the command line, on a disk: for results that no store can take."""

WhereRun = Annotated[Place, _place_argument("RUN", run_place)]
"""The folder of a run, or `bundled`."""

TTA_RENAMED = {
    "--mirrored": ("--tta.mirrored",),
    "--poses": ("--tta.copies",),
    "--no-averaging": ("--tta.no-mirrored", "--tta.copies=0"),
}
"""Former options of `evaluate` and `predict` -> the present ones."""


def parse(command: type[Command], verb: str, arguments: Sequence[str]) -> Command:
    """Fill the dataclass `command` from a verb's arguments; exit code 2 if wrong."""
    return tyro.cli(
        command,
        prog=f"adn {verb}",
        args=with_present_names(arguments),
        config=(tyro.conf.AvoidSubcommands,),
    )


def given(settings: Any, section: str, arguments: Sequence[str]) -> dict[str, Any]:
    """The fields of a section that a verb's arguments set, in the order of their
    names."""
    options = [text for each in arguments for text in _present_arguments(each)]
    starts = (f"--{section}.no-", f"--{section}.")
    names = {
        option.partition("=")[0].removeprefix(start).replace("-", "_")
        for option in options
        for start in starts
        if option.startswith(start)
    }
    return {name: value for name, value in vars(settings).items() if name in names}


def parse_with_recipe(
    command: type[Command], verb: str, arguments: Sequence[str]
) -> tuple[Command, Recipe]:
    """Fill `command` and the recipe of the config file that comes first.

    Every field of the recipe is an option, `--section.field value`; where the command
    has a `size`, they change the recipe of that size.
    """
    config, rest = arguments[:1], arguments[1:]
    if config and config[0] in {"-h", "--help"}:
        recipe, rest = Recipe(name="recipe"), arguments
    elif not config or config[0].startswith("-"):
        raise UserError(
            f"the config file is missing; it comes first: adn {verb} configs/adn.py ..."
        )
    else:
        recipe = at_size(load_recipe(Path(config[0])), asked_size(rest))

    unnamed = tyro.conf.arg(name="")
    rest = with_present_names(rest)
    with_recipe: type[Any] = make_dataclass(
        "WithRecipe",
        [
            # a type for tyro, which is known at run time only
            ("command", Annotated[command, unnamed]),  # ty: ignore[invalid-type-form]
            ("recipe", Annotated[Recipe, unnamed], field(default=recipe)),
        ],
    )
    both = tyro.cli(
        with_recipe,
        prog=f"adn {verb} CONFIG",
        description=inspect.getdoc(command),
        args=list(rest),
        config=(tyro.conf.AvoidSubcommands,),
    )
    check_recipe(both.recipe)
    return both.command, both.recipe


def check_trained(option: str, stages: Sequence[str], recipe: Recipe) -> None:
    """Raise `UserError` if an option names a stage that the recipe does not train."""
    trained = stages_of(recipe)
    if others := [stage for stage in stages if stage not in trained]:
        raise UserError(
            f"{option} has {others[0]!r}; {recipe.name} trains {', '.join(trained)}."
        )


def with_present_names(arguments: Sequence[str]) -> list[str]:
    """The arguments with options spelled as now; each former name is told."""
    present = []
    for argument in arguments:
        now = _present_arguments(argument)
        if now != [argument]:
            former = argument.partition("=")[0]
            tell_renamed(former, " ".join(_present_arguments(former)))
        present += now
    return present


def _present_arguments(argument: str) -> list[str]:
    """One argument as it is spelled now."""
    option, sign, value = argument.partition("=")
    if not option.startswith("--"):
        return [argument]
    former = option.replace("_", "-")
    *others, last = TTA_RENAMED.get(former, (present_option(option),))
    return [*others, last + sign + value]


def asked_size(arguments: Sequence[str]) -> Size:
    """The value of the last `--size`, as the parser takes it; one that is unknown is
    left to it to refuse."""
    words = [word for each in arguments for word in each.split("=", 1)]
    sizes = [value for option, value in pairwise(words) if option == "--size"]
    return "demo" if sizes[-1:] == ["demo"] else "full"
