"""`adn pack PREPARED OUT`: few large files in place of many."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from adn_jax.cli.arguments import Where, parse
from adn_jax.errors import counted
from adn_jax.prepare.export import CASES_PER_SHARD, pack_dataset


@dataclass(frozen=True)
class Pack:
    """Pack a prepared data set into ArrayRecord files, which train and evaluate
    read from where they lie: a disk, or gs://. The same command again continues."""

    prepared: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="PREPARED")]
    """Folder of a prepared data set."""
    out: Annotated[Where, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """Folder of the packed one, or gs://BUCKET/FOLDER."""
    cases_per_shard: int = CASES_PER_SHARD
    """How many cases share a file; 128 are about 110 MB at full size."""


def main(arguments: Sequence[str]) -> None:
    """Run the verb."""
    command = parse(Pack, "pack", arguments)
    packed = pack_dataset(command.prepared, command.out, command.cases_per_shard)
    cases = len(packed.cases)
    print(
        f"{counted(cases, 'case')} {'is' if cases == 1 else 'are'} in "
        f"{counted(len(packed.shards), 'file')} in {command.out}"
    )
