from dataclasses import replace
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest

from adn_jax.config import PrepareSettings
from adn_jax.data.cases import CaseFacts
from adn_jax.data.manifest import Manifest
from adn_jax.prepare.quality import MEASURES, flags_of
from adn_jax.prepare.quality_page import write_quality_page


def facts(name, **quality):
    return CaseFacts(name, quality, flags_of(quality), {}, frozenset())


CASES = [
    facts("b", brain_ml=1400.0, noise_hu=4.0, slices=30),
    facts("c", brain_ml=700.0, noise_hu=None, slices=30),
    facts("a <x> #1", brain_ml=1300.0, noise_hu=12.0, slices=31),
    facts("d", brain_ml=2000.0, noise_hu=14.0, slices=31),
]


class Page(HTMLParser):
    """Tags with their attributes, texts by table, and whether all tags are closed."""

    void = ("meta", "img", "br", "link", "input")

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.cells, self.row = [], [], {}, None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "table":
            self.row = self.cells.setdefault(dict(attributes)["id"], [])
        if tag == "tr":
            self.row.append([])
        if tag in ("td", "th"):
            self.row[-1].append("")
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if "td" in self.open or "th" in self.open:
            self.row[-1][-1] += text

    def rows(self, table):
        return [[" ".join(cell.split()) for cell in row] for row in self.cells[table]]

    def found(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def page(tmp_path):
    manifest = Manifest(
        settings=PrepareSettings(),
        cases=tuple(case.name for case in CASES),
        splits={"train": ("b", "c"), "validation": (), "test": ("d",)},
        folder=tmp_path / "heads & more",
        failed={"bad": "is <not> a scan."},
        left_out={f"left {i}": "known defect" for i in range(30)},
        layout="aisd",
    )
    write_quality_page(tmp_path / "quality.html", manifest, CASES)
    return Page((tmp_path / "quality.html").read_text())


def test_nothing_is_fetched_but_pictures_beside_the_page(page):
    assert page.open == []
    assert not page.found("link")
    assert all("src" not in script for script in page.found("script"))
    pictures = [picture["src"] for picture in page.found("img")]
    assert len(pictures) == 4
    assert all(path.startswith("quality/") for path in pictures)
    assert "quality/a <x> #1.png" in map(unquote, pictures)
    assert not any(set(path) & set("<>#? ") for path in pictures)
    assert [link["href"] for link in page.found("a")] == pictures
    for picture in page.found("img"):
        assert picture["loading"] == "lazy"
        assert picture["width"]
        assert picture["height"]
        assert "outline of the brain" in picture["alt"]


def test_flagged_cases_come_first_with_their_reasons(page):
    heading, *rows = page.rows("cases")
    assert heading == ["case", "flags", "brain mL", "slices", "noise HU"]
    assert [row[0].split(" the ")[0].split(" noise")[0] for row in rows] == [
        "d",
        "a <x> #1",
        "c",
        "b",
    ]
    assert [row[1] for row in rows] == ["2", "1", "1", "0"]
    assert "the brain mask holds 2000 mL instead of 900 to 1900" in rows[0][0]
    assert rows[2][2:] == ["700", "30", "–"]
    assert [("data-flagged" in row) for row in page.found("tr")[-4:]] == [
        True,
        True,
        True,
        False,
    ]
    odd = [cell["data-value"] for cell in page.found("td") if "class" in cell]
    assert odd == ["2000.0", "14.0", "12.0", "700.0"]


def test_failed_and_left_out_cases_are_at_the_top(page):
    assert list(page.cells) == ["failed", "left-out", "cases"]
    assert page.rows("failed")[1:] == [["bad", "is <not> a scan."]]
    assert len(page.rows("left-out")) == 31
    few, many, _ = page.found("details")
    assert "open" in few
    assert "open" not in many


@pytest.mark.parametrize(("share", "shown"), [(0.05, False), (0.97, True)])
def test_a_rare_measure_has_a_column_if_it_is_odd(tmp_path, share, shown):
    """More columns than these do not fit a page of 1,280 pixels."""
    case = replace(CASES[0], quality={"brain_ml": 1400.0, "infarct_share": share})
    manifest = Manifest(PrepareSettings(), (case.name,), {}, tmp_path)
    write_quality_page(tmp_path / "quality.html", manifest, [case])
    page = (tmp_path / "quality.html").read_text()
    assert ("infarct in brain" in page) == shown


def test_every_figure_sorts_and_is_explained(page):
    assert len(page.found("button")) == 2 + 3
    (table,) = [each for each in page.found("table") if each["id"] == "cases"]
    assert table["class"] == "sortable"
    (form,) = page.found("form")
    assert form["data-table"] == "cases"
    assert len(page.found("dt")) == 3
    titles = [each["title"] for each in page.found("th") if "title" in each]
    assert titles == [
        MEASURES[name].meaning for name in ("brain_ml", "slices", "noise_hu")
    ]


def test_values_in_the_style_of_their_column():
    assert MEASURES["air_hu"].text(-1009.3) == "−1009"
    assert MEASURES["brain_outside_grid"].text(0.0123) == "1.2%"
    assert MEASURES["slices"].text(28) == "28"
    assert MEASURES["noise_hu"].text(None) == "–"
