"""`adn completion`: what a shell needs to complete verbs and options."""

import importlib
import io
import os
import re
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass

from adn_jax.cli.arguments import parse
from adn_jax.cli.main import VERBS

SCRIPT = """\
# Completion of adn for bash; zsh takes it after: autoload -U bashcompinit; bashcompinit
_adn() {{
  local words="{verbs}"
  if (( COMP_CWORD > 1 )); then
    words=""
    case "${{COMP_WORDS[1]}}" in
{cases}
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -o default -F _adn adn
"""
"""Where no word fits, `default` completes files."""


@dataclass(frozen=True)
class Completion:
    """Print a script that completes verbs and options of adn in bash and zsh."""


def main(arguments: Sequence[str]) -> None:
    """Run the verb."""
    parse(Completion, "completion", arguments)
    cases = [f'      {verb}) words="{" ".join(options(verb))}" ;;' for verb in VERBS]
    print(SCRIPT.format(verbs=" ".join(VERBS), cases="\n".join(cases)), end="")


def options(verb: str) -> list[str]:
    """Every option of a verb, in the order of its help."""
    # in a frame or, where the text has no known encoding, without one
    heads = re.findall(r"^(?:│ |  )(-.*)", help_text(verb), re.MULTILINE)
    return re.findall(r"(?<!\S)--[a-z][\w.-]*", " ".join(heads))


def help_text(verb: str, *before: str) -> str:
    """What `adn VERB --help` prints, with arguments before the option."""
    module = importlib.import_module(f"adn_jax.cli.{verb.replace('-', '_')}")
    printed = io.StringIO()
    os.environ |= {"COLUMNS": "80", "NO_COLOR": "1"}
    with redirect_stdout(printed), suppress(SystemExit):
        module.main([*before, "--help"])
    return printed.getvalue()
