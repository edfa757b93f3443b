"""Pages of the documentation's site that are made when it is built.

The start page is README.md; pages at the top of the repository lie beside it; the
references of commands and of the package's names come from the code itself.
"""

import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import adn_jax
from adn_jax.cli.completion import help_text
from adn_jax.cli.main import VERBS

ROOT = Path(__file__).parents[1]

COPIED = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "adn_jax/bundled/MODEL_CARD.md": "model-card.md",
}
"""Pages of the repository outside docs/, and their names on the site."""

WITH_RECIPE = ("train", "sweep", "benchmark", "plan")
"""Verbs whose help needs a recipe: it lists the settings, too."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that no file of docs/ holds."""
    pages = {
        site: moved((ROOT / source).read_text(), Path(source).parent)
        for source, site in COPIED.items()
    }
    pages |= {"commands.md": commands(), "api.md": names()}
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Links out of docs/ lead to the same pages on the site."""
    for source, site in COPIED.items():
        markdown = markdown.replace(f"](../{source}", f"]({site}")
    return markdown


def moved(text: str, folder: Path) -> str:
    """A page of `folder` whose links start from docs/, where it stands on the site.

    Files that the site has not are named without a link.
    """

    def led(link: re.Match[str]) -> str:
        words, target = link.groups()
        name, hash_, anchor = target.partition("#")
        if not name or re.match(r"[a-z]+:", name):
            return link[0]
        place = os.path.normpath(folder / name)
        if place not in COPIED and not place.startswith("docs/"):
            return words.strip("![]")
        there = COPIED.get(place, place.removeprefix("docs/"))
        return f"{words}({there}{hash_}{anchor})"

    return re.sub(r"(!?\[[^]]*\])\(([^)\s]+)\)", led, text)


def commands() -> str:
    """What `adn VERB --help` says of every verb."""
    parts = ["# Commands", "What `adn VERB --help` prints."]
    for verb, meaning in VERBS.items():
        recipe = [str(ROOT / "configs/adn.py")] * (verb in WITH_RECIPE)
        text = help_text(verb, *recipe).replace(f"{ROOT}/", "")
        parts += [f"## adn {verb}", f"{meaning.capitalize()}.", f"```text\n{text}\n```"]
    return "\n\n".join(parts)


def names() -> str:
    """The names of `adn_jax`, each from where it is defined."""
    parts = ["# Names of the package", "```text\n" + str(adn_jax.__doc__) + "\n```"]
    for name in dir(adn_jax):
        place = getattr(getattr(adn_jax, name), "__module__", "adn_jax.types")
        parts.append(f"::: {place}.{name}")
    return "\n\n".join(parts)
