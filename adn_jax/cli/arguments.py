"""Command lines from dataclasses."""

from collections.abc import Sequence
from typing import TypeVar

import tyro

Command = TypeVar("Command")


def parse(command: type[Command], verb: str, arguments: Sequence[str]) -> Command:
    """Fill the dataclass `command` from `arguments`; exit code 2 where they are wrong."""
    return tyro.cli(
        command,
        prog=f"adn {verb}",
        args=list(arguments),
        config=(tyro.conf.AvoidSubcommands,),
    )
