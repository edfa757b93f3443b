import json
import re
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pytest

from adn_jax.cli.main import main
from adn_jax.evaluation.index import TrainingCurve, draw_curve, find_curves, write_index
from adn_jax.training.runs import Run
from tests.browser import opened
from tests.evaluation.noted import note

LOG = [
    *({"stage": "joint", "step": n, "split": "train", "loss": 1 / n, "dice": 9.0}
      for n in range(1, 1001)),
    {"stage": "joint", "step": 500, "split": "validation", "dice": 0.25},
    {"stage": "joint", "step": 1000, "split": "validation", "dice": 0.5},
]  # fmt: skip


class Page(HTMLParser):
    """What a page leads to, its anchors, and its pictures' words."""

    def __init__(self, text):
        super().__init__()
        self.links, self.anchors, self.pictures = [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        facts = dict(attrs)
        if "id" in facts:
            self.anchors.add(facts["id"])
        if tag == "a":
            self.links.append(facts["href"])
        if tag == "img":
            self.pictures.append(facts["alt"])


@pytest.fixture(scope="module")
def folder(tiny_data, tiny_params, tmp_path_factory):
    """A run with a log, evaluated by the command."""
    from tests.tiny_runs import RECIPE, write_run

    run = tmp_path_factory.mktemp("runs") / "my run"
    write_run(run, RECIPE, tiny_params)
    (tiny_data / "quality.html").write_text("<p>quality")
    note(run, data=str(tiny_data))
    (run / "metrics.jsonl").write_text("".join(json.dumps(ln) + "\n" for ln in LOG))
    main(["evaluate", str(run)])
    return run


@pytest.fixture(scope="module")
def page(folder):
    return (folder / "index.html").read_text()


def links_that_lead_somewhere(page):
    links = Page(page.read_text()).links
    for link in links:
        name, _, anchor = unquote(link).partition("#")
        target = page.parent / name if name else page
        assert target.is_file(), link
        assert not anchor or anchor in Page(target.read_text()).anchors, link
    return links


def test_every_link_leads_somewhere(folder):
    links = links_that_lead_somewhere(folder / "index.html")
    assert sum(link.endswith("scans/turned.html") for link in links) == 1
    assert sum(link.endswith("quality.html") for link in links) == 2


def test_the_report_leads_back_to_the_run(folder):
    links = links_that_lead_somewhere(folder / "evaluation" / "test" / "report.html")
    assert links.count("../../index.html") == 1


def test_cases_stand_from_the_worst_to_the_best(folder, page):
    results = {
        path.stem: json.loads(path.read_text())["grids"]["native"]["dice"]
        for path in (folder / "evaluation/test/cases").iterdir()
    }
    told = re.findall(r">(turned|upright|healthy)</a>.*?<td>([^<]+)</td>", page, re.S)
    assert {name for name, _ in told} == set(results)
    values = [results[name] for name, _ in told]
    assert values == sorted(values)
    assert [dice for _, dice in told] == [f"{value:.3f}" for value in values]


def test_what_the_rule_for_empty_masks_gives_is_told(page):
    said = "1 of 3 cases by the rule for empty masks, mean of the others"
    assert page.count(said) == 2


def test_curves_keep_the_mean_of_every_update(folder):
    loss, score = find_curves(Run.open(folder))
    assert (loss.stage, loss.name, loss.step[-1]) == ("joint", "loss", 1000)
    assert len(loss.step) == 300
    np.testing.assert_allclose(loss.value[0], np.mean([1, 1 / 2, 1 / 3, 1 / 4]))
    np.testing.assert_array_equal(score.step, [500, 1000])
    np.testing.assert_array_equal(score.value, [0.25, 0.5])
    assert score.best_step == 0  # imported weights


def test_a_training_that_was_stopped_before_its_first_update_has_a_curve():
    """Of the score of the weights that it began with: a point, without warnings."""
    begun = TrainingCurve("joint", "Dice", np.zeros(1), np.array([0.3]))
    assert draw_curve(begun).startswith("data:image/svg+xml")


def test_a_stage_that_was_taken_has_no_curve_here(folder):
    run = Run.open(folder)
    run.finished = {"joint": {**run.finished["joint"], "taken_from": "elsewhere"}}
    assert find_curves(run) == []


def test_pictures_have_words(page):
    words = Page(page).pictures
    assert any("Dice of validation heads from 0.250 to 0.500" in each for each in words)
    assert all(len(each) > 20 for each in words)


def test_an_unfinished_run_says_what_is_left(tiny_run):
    (tiny_run / "stages.json").write_text("{}")
    text = write_index(Run.open(tiny_run)).read_text()
    assert "not finished: align and joint are left to train" in text
    assert "<code>adn evaluate run --data DIR</code>" in text  # it names no data set
    assert "<img" not in text
    note(tiny_run, data="heads")
    text = write_index(Run.open(tiny_run)).read_text()
    assert "<code>adn evaluate run</code>" in text


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(folder, browser, scheme):
    path = folder / "index.html"
    with opened(browser, path, (400, 800), color_scheme=scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == 400
