import csv
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO

import numpy as np
import pytest

from adn_jax.comparison import table as outcome
from adn_jax.comparison.compare import Difference, difference_cells, read_scores
from adn_jax.comparison.qualitative import PicturedScan
from adn_jax.comparison.table import write_table
from adn_jax.comparison.work import plan_runs
from adn_jax.config.fields import set_fields
from adn_jax.data.manifest import read_manifest
from adn_jax.errors import UserError
from adn_jax.report.tables import tex_text
from tests.comparison.made_up import CASES, LEVELS, made_up_rows, write_scored
from tests.training.tiny import head


class Page(HTMLParser):
    """Texts of cells, addresses of pictures, and whether every tag is closed."""

    def __init__(self, text):
        super().__init__()
        self.cells, self.pictures, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.pictures.append(dict(attrs)["src"])
        elif tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "td":
            self.cells.append(data)


@pytest.fixture
def written(runs, data, tmp_path, monkeypatch):
    """The files of a table, its short form, and which cases were drawn."""
    drawn = []

    def predict_chosen(chosen_runs, _scores, _manifest, chosen):
        drawn.append(([run.name for run in chosen_runs], list(chosen)))
        case = head("h", 0)
        masks = tuple(np.asarray(case.lesion) >= 0.5 for _ in chosen_runs)
        return [PicturedScan(case, masks, (0.5,) * len(masks)) for _ in chosen]

    monkeypatch.setattr(outcome, "predict_chosen", predict_chosen)

    def write(cases=CASES[:1], missing=("sean-seed1: it <broke> & ended.",), of=runs):
        section = write_table(
            of,
            read_scores(of, "test"),
            read_manifest(data),
            tmp_path / "out",
            "adn",
            "test",
            cases,
            missing,
        )
        return tmp_path / "out", section, drawn

    return write


def test_every_file_says_the_same(written):
    out, section, drawn = written(cases=())
    content = json.loads((out / "table.json").read_text())
    unet, aligned, adn = content["rows"]
    assert [row["name"] for row in content["rows"]] == [
        "unet",
        "resunet_aligned",
        "adn",
    ]
    rows = list(csv.DictReader(StringIO((out / "table.csv").read_text())))
    assert float(rows[0]["dice"]) == unet["scores"]["dice"]["mean"]
    assert float(rows[0]["hd95_mm_p_holm"]) == unet["differences"]["hd95_mm"]["p_holm"]
    assert (rows[0]["paper_dice"], rows[2]["paper_hd95_mm"]) == ("0.4281", "39.18")
    assert rows[2]["dice_p"] == ""
    assert float(rows[1]["dice_small"]) == aligned["sizes"]["small"]["mean"]
    mean = f"{adn['scores']['dice']['mean']:.3f}"
    for name in ("table.md", "table.tex", "table.html"):
        text = (out / name).read_text()
        assert mean in text
        assert "0.5245" in text
    assert section.rows[2][:2] == ("ADN", mean)
    assert drawn == [
        (["unet-seed0", "resunet_aligned-seed0", "adn-seed0"], drawn[0][1])
    ]
    assert len(drawn[0][1]) == 5
    table = content["per_case"]["adn"]["dice"]
    assert (len(table), len(table[0])) == (2, 12)
    assert content["per_case"]["adn"]["mass_share"][0][0] is None


def test_the_seeds_of_differences_are_told_where_not_all_share_them(written, runs):
    out, section, _ = written(of=[run for run in runs if run.name != "unet-seed1"])
    said = "Differences are over shared seeds alone: 3D U-Net 0."
    assert said in section.notes
    for name in ("table.md", "table.tex", "table.html"):
        assert said in (out / name).read_text()
    row, *_ = csv.DictReader(StringIO((out / "table.csv").read_text()))
    assert (row["seeds"], row["difference_seeds"]) == ("0", "0")


def test_markdown_names_data_rules_and_what_is_missing(written):
    out, *_ = written()
    text = (out / "table.md").read_text()
    for expected in (
        "split test, 12 cases",
        "- Seeds: 0, 1",
        "- Scored on: the prepared grid",
        "- Label rule: label values 1 are infarct",
        "- Empty masks: Label and prediction both empty: Dice 1",
        "- Steps: align 4, joint 10",
        "- Versions: python 3.11, jax 0.9",
        "- sean-seed1: it <broke> & ended.",
        "| method | aligned | Dice |",
        "p corrected for 4 tests",
        "small, < 5 mL (n = 4)",
    ):
        assert expected in text


def test_size_and_changed_settings_are_told(written, systems, data, tmp_path):
    out, *_ = written()
    assert "Settings" not in (out / "table.md").read_text()
    changed = [
        replace(
            each,
            recipe=set_fields(each.base, {"threshold": "0.4", "joint.batch": "1"}),
            size="demo",
        )
        for each in systems
    ]
    runs = plan_runs(changed, (0,), tmp_path / "changed")
    for run in runs:
        write_scored(run, data, made_up_rows(LEVELS[run.system.name], run.seed))
    out, *_ = written(of=runs)
    for name in ("table.md", "table.tex"):
        assert (
            "Settings: size demo, threshold=0.4, joint.batch=1\n"
            in (out / name).read_text()
        )
    assert "size demo" in (out / "table.html").read_text()


def test_page_is_whole_and_holds_its_figures(written):
    out, *_ = written()
    page = Page((out / "table.html").read_text())
    assert page.open == []
    assert len(page.pictures) == 3
    assert all(source.startswith("data:image/png;base64,") for source in page.pictures)
    assert {"ADN", "3D U-Net", "0.5245"} <= set(page.cells)
    assert "it &lt;broke&gt; &amp; ended." in (out / "table.html").read_text()
    for name in ("dice", "hd95", "fig3"):
        assert (out / "figures" / f"{name}.png").stat().st_size > 5_000


def test_tex_has_equal_rows_and_no_bare_signs(written):
    out, *_ = written()
    text = (out / "table.tex").read_text()
    for body in re.findall(r"\\toprule(.*?)\\bottomrule", text, re.DOTALL):
        lines = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert len(lines) >= 3
        assert len({line.count(" & ") for line in lines}) == 1
    code = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    assert not re.search(r"(?<!\\)[%_]", code)
    assert tex_text("a_b < 5 % −1") == r"a\_b $<$ 5 \% $-$1"


def test_chosen_cases_are_drawn(written):
    *_, drawn = written(cases=CASES[3:5])
    assert drawn[0][1] == list(CASES[3:5])
    with pytest.raises(UserError, match="--cases names 'head', which was not scored"):
        written(cases=("head",))


def test_a_table_without_its_reference(written, runs):
    out, section, _ = written(of=[run for run in runs if run.system.name != "adn"])
    assert "Difference" not in (out / "table.md").read_text()
    assert {row[3] for row in section.rows} == {"–"}


def test_p_in_words():
    found = [Difference(0.0, None, p, p) for p in (None, 0.0004, 0.0312, 1.0)]
    assert [difference_cells(each, 3)[2] for each in found] == [
        "–",
        "< 0.001",
        "0.031",
        "1.000",
    ]
