"""What the pages say can be followed: links lead somewhere, commands can be read."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import adn_jax
from adn_jax.cli import main as cli

ROOT = Path(__file__).parents[1]

PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("adn_jax/*/*.md")]
)

FENCED = re.compile(r"^```.*?^```", re.M | re.S)

BLOCK = re.compile(r"^```\w*\n(.*?)^```|((?:^(?: {4}.*)?\n)+)", re.M | re.S)

STANDING_FOR = {"CONFIG": "configs/demo.py", "CONFIG...": "configs/demo.py"}


class CommandReadError(Exception):
    """A verb has read its command line; in place of its work."""


def slug(heading):
    """The anchor that the repository's pages give a heading."""
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def anchors(page):
    text = FENCED.sub("", page.read_text())
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", text, re.M)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = FENCED.sub("", page.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        place = (page.parent / name).resolve() if name else page
        assert place.exists(), target
        if anchor:
            assert anchor in anchors(place), target


def commands():
    """Every command line of ours in a block of code, with the page it stands on."""
    for page in PAGES:
        for fenced, indented in BLOCK.findall(page.read_text()):
            block = re.sub(r"\\\n\s*", " ", fenced or indented)
            for line in block.splitlines():
                found = re.match(r"\s*(?:\$ |\S*bin/)?adn ([a-z-]+ .*)", line)
                if found:
                    yield pytest.param(
                        re.sub(r"\s#.*|&&.*|[|>].*", "", found[1]).strip(),
                        id=f"{page.name}: {found[1][:60]}",
                    )


@pytest.fixture
def reading_alone(monkeypatch):
    """Verbs stop when they have read their command line."""

    def stopping(parse):
        def read(*arguments):
            parse(*arguments)
            raise CommandReadError

        return read

    for verb in cli.VERBS:
        module = importlib.import_module(f"adn_jax.cli.{verb.replace('-', '_')}")
        for name in ("parse", "parse_with_recipe"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, stopping(getattr(module, name)))


@pytest.mark.usefixtures("reading_alone")
@pytest.mark.parametrize("command", list(commands()))
def test_commands_can_be_read(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    spelled = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {command}"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    here = [re.sub(r"^(gs|s3)://", "", word) for word in spelled]
    words = [STANDING_FOR.get(word, word) for word in here]
    with pytest.raises(CommandReadError):
        cli.main(words)


def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", tmp_path]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=quiet, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    pages = {page.parent.name for page in tmp_path.glob("*/index.html")}
    assert {"commands", "api", "method", "findings", "model-card"} <= pages
    assert (tmp_path / "overview.png").exists()
    start = (tmp_path / "index.html").read_text()
    assert "fonts.googleapis" not in start
    assert "A first look: a tour in a notebook." in " ".join(start.split())
    said = (tmp_path / "commands" / "index.html").read_text()
    assert all(f"adn {verb}" in said for verb in cli.VERBS)
    assert "--joint-loss.tissue" in said
    assert str(ROOT) not in said
    named = (tmp_path / "api" / "index.html").read_text()
    assert all(f"{name}" in named for name in dir(adn_jax))
