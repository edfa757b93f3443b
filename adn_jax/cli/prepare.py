"""`adn prepare RAW OUT`: raw scans become prepared cases."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from adn_jax.cli.arguments import LocalFolder, parse
from adn_jax.config import PrepareSettings, ReadSettings, Recipe, SystemSettings
from adn_jax.config.recipe_file import load_recipe
from adn_jax.config.validation import check_recipe
from adn_jax.errors import counted
from adn_jax.prepare.dataset import log_manifest, orphaned_cases, prepare_dataset

PrepareOptions = tyro.conf.OmitArgPrefixes[PrepareSettings]
Reading = tyro.conf.OmitArgPrefixes[ReadSettings]


@dataclass(frozen=True)
class PrepareCommand:
    """Turn raw scans (NIfTI, DICOM) into prepared cases; those that are done are kept.

    A case that cannot be prepared is named with its reason and left out.
    """

    raw: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RAW")]
    """Raw data set: folders <case>/ with ct.nii.gz or dicom/ in them, BIDS, nnU-Net
    raw, or the AISD download."""
    out: Annotated[LocalFolder, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """Folder of the prepared data set."""
    recipe: Path | None = None
    """Config whose `prepare` section gives the defaults of the options below."""
    workers: int | None = None
    """Processes side by side; where not given one a processor, as memory allows. 1: no
    process but this one, which a crash would end."""
    memory_gib: float | None = None
    """What each process may take; one that takes more loses its case. Where not given,
    an equal share of the memory."""
    scheduler: str = ""
    """Address of a Dask scheduler: its cluster prepares the cases. All its machines
    must see RAW and OUT under the same names."""
    settings: PrepareOptions = field(default_factory=PrepareSettings)
    """How a raw scan becomes a prepared case."""
    reading: Reading = field(default_factory=ReadSettings)
    """How raw data is found and read."""


def main(arguments: Sequence[str]) -> None:
    """Prepare the data set; exit code 2 if any case failed, after doing the others."""
    command = parse(command_for(arguments), "prepare", arguments)
    check_recipe(
        Recipe(name="prepare", system=SystemSettings(prepare=command.settings))
    )
    manifest = prepare_dataset(
        command.raw,
        command.out,
        command.settings,
        command.workers,
        command.reading,
        command.scheduler,
        command.memory_gib,
    )
    log_manifest(manifest)
    if left := orphaned_cases(manifest):
        print(
            f"adn: {counted(len(left), 'prepared case')} in {command.out} not (any "
            f"more) in {command.raw}, and not used: {', '.join(left)}",
            file=sys.stderr,
        )
    counts = ", ".join(
        f"{len(names)} {split}" for split, names in manifest.splits.items()
    )
    cases = len(manifest.cases)
    print(
        f"{counted(cases, 'prepared case')} ({counts}) "
        f"{'is' if cases == 1 else 'are'} in {command.out}"
    )
    print(f"look at {command.out / 'quality.html'} before you train")
    if manifest.failed:
        raise SystemExit(2)


def command_for(arguments: Sequence[str]) -> type[PrepareCommand]:
    """The command; the recipe that the arguments name gives its default settings."""
    first_look = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first_look.add_argument("--recipe", type=Path)
    path = first_look.parse_known_args(list(arguments))[0].recipe
    if path is None:
        return PrepareCommand
    settings = (
        "settings",
        PrepareOptions,
        field(default=load_recipe(path).system.prepare),
    )
    changed: type[Any] = make_dataclass(
        "PrepareCommand",
        [settings],
        bases=(PrepareCommand,),
        frozen=True,
        namespace={"__doc__": PrepareCommand.__doc__},
    )
    return changed
