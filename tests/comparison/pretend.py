"""Runs that are done at once, and what the verbs would write of them."""

from types import ModuleType

import pytest

from adn_jax.comparison import work
from adn_jax.report.tables import Section


def pretend_runs(
    monkeypatch: pytest.MonkeyPatch, verb: ModuleType, writer: str
) -> tuple[list, list]:
    """Make a verb's runs done without failure; returns what it asked for and wrote."""
    asked, written = [], []

    def do_runs(runs, job):
        asked.append((runs, job))
        return {}

    def write(*arguments):
        written.append(arguments)
        return Section("Dice")

    monkeypatch.setattr(work, "check_runs", lambda *_: None)
    monkeypatch.setattr(work, "do_runs", do_runs)
    monkeypatch.setattr(work, "is_scored", lambda *_: True)
    monkeypatch.setattr(verb, "read_scores", lambda *arguments: arguments)
    monkeypatch.setattr(verb, writer, write)
    return asked, written
