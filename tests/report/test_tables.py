import io

import pytest
from rich.console import Console

from adn_jax.benchmarks.job import Spread, quartiles
from adn_jax.report.tables import (
    Section,
    bytes_text,
    digits,
    print_sections,
    rate,
    seconds,
    tex_text,
    to_markdown,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.001234, "0.00123"), (0.2, "0.200"), (12.34, "12.3"), (345.6, "346")],
)
def test_three_digits(value, text):
    assert digits(value) == text


def test_units():
    assert [rate(value) for value in (7.9e14, 3.21e9, 2e4)] == [
        *("790 T", "3.21 G", "0.0200 M")
    ]
    assert [seconds(value) for value in (None, 2.5, 0.0123)] == [
        *("–", "2.50 s", "12.3 ms")
    ]
    assert quartiles(Spread(0.5, 1.0, 3.0)) == "0.500 to 3.00"
    assert quartiles(Spread(0.5, 0.75, 3.0)) == "500 to 3000"
    assert (bytes_text(2_340_000), bytes_text(2_345_000_000)) == ("2.3 MB", "2.35 GB")


def test_texts_stand_on_the_left():
    section = Section("Title", ("a", "b", "c"), (("x", "y", "1"),), ("Note.",), texts=2)
    lines = to_markdown([section]).splitlines()
    table = ["| a | b | c |", "| --- | --- | ---: |", "| x | y | 1 |"]
    assert lines == ["**Title**", "", *table, "", "Note."]


def test_signs_of_the_markup_are_escaped():
    section = Section("Title", ("a|b", "c"), (("x|y", "1"),))
    assert "| a\\|b | c |\n| --- | ---: |\n| x\\|y | 1 |" in to_markdown([section])
    assert tex_text("~a^2") == r"\textasciitilde{}a\textasciicircum{}2"


def test_brackets_are_no_style():
    file = io.StringIO()
    words = "[bold]title[/bold]", "[/b] column", "adn[v2]", "of [bold]it[/bold]"
    title, column, cell, note = words
    section = Section(title, (column,), ((cell,),), (note,))
    print_sections([section], Console(file=file))
    assert [each for each in words if each not in file.getvalue()] == []
