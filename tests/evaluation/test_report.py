import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from adn_jax.data.manifest import Manifest
from adn_jax.evaluation.case import (
    CaseResult,
    CaseUncertainty,
    score_disentanglement,
    score_masks,
)
from adn_jax.evaluation.report import (
    Pictures,
    format_interval,
    render_report,
    score_figure,
)
from adn_jax.evaluation.summary import per_case_csv, summarise_results
from adn_jax.inference.figures import save_figure
from adn_jax.inference.maps import LesionUncertainty
from adn_jax.metrics.calibration import reliability
from tests.tiny_runs import RECIPE

NONE = Pictures({}, {})
MASK = np.zeros((2, 6, 6), bool)
MASK[:, 1:4, 1:4] = True
SUMS = reliability(0.1 + 0.7 * MASK, MASK, 4)
PREPARE = RECIPE.system.prepare
UNCERTAINTY = CaseUncertainty(
    entropy_right=0.25,
    entropy_wrong=0.75,
    error_auroc=0.875,
    lesions=(
        LesionUncertainty(4.0, 0.9, 0.3, 0.01, hit=True),
        LesionUncertainty(1.0, 0.6, 0.8, 0.02, hit=False),
    ),
)


def result(name, shift=0, *, known=True, flags=(), native=True, uncertainty=None):
    """A case whose prediction is the label moved by `shift` voxels along x."""
    scores = score_masks(np.roll(MASK, shift, axis=2), MASK, (5.0, 1.0, 1.0))
    stages = ("final", "network_alone", "input")
    return CaseResult(
        name=name,
        grids={"native": scores, "prepared": scores}
        if native
        else {"prepared": scores},
        alignment={
            stage: {"angle_deg": 1.0 + i, "offset_mm": 0.5}
            for i, stage in enumerate(stages)
        }
        if known
        else {},
        disentanglement={
            "auroc": 0.9,
            "auroc_asymmetry": 0.6,
            "mass_share": 0.8,
            "mass_share_asymmetry": 0.2,
        },
        disentanglement_truth="lesion label",
        pose={"rotation_deg": -4.0, "offset_mm": 1.0},
        flags=flags,
        calibration=dict.fromkeys(("brain", "near"), SUMS),
        uncertainty=uncertainty,
    )


@pytest.fixture
def summary_of(tiny_recipe, tmp_path):
    def build(results, uncertainty_source=""):
        manifest = Manifest(tiny_recipe.system.prepare, (), {}, tmp_path)
        return {
            "split": "test",
            **summarise_results(
                results,
                manifest,
                "penalise",
                tiny_recipe.name,
                tiny_recipe.threshold,
                seeks_midline=True,
                uncertainty_source=uncertainty_source,
            ),
            "adds_up": False,
            "tta": None,
            "least_lesion_ml": 0.0,
            "known_lesions": None,
            "without_label": 0,
            "run": "run",
            "members": ["run", "other"]
            if uncertainty_source.startswith("ens")
            else ["run"],
            "data": "data <set>",
            "steps": {"joint": 3},
        }

    return build


class Page(HTMLParser):
    """What a browser would fetch, the first cells of the rows, and the open tags."""

    void = ("meta", "img", "br", "link")

    def __init__(self, text):
        super().__init__()
        self.fetched, self.rows, self.open, self.first = [], [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.fetched += [v for k, v in attributes if k in {"src", "href"}]
        first = tag == "td" and self.open[-1] == "tr" and self.fresh
        self.first = first or (self.first and tag == "a")
        self.fresh = tag == "tr"
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if self.first:
            self.rows.append(text.strip())
            self.first = False


def test_the_page_needs_nothing_beside_it(summary_of, tmp_path):
    results = [result("a"), result("b", 1), result("c", 2, flags=("Cut at the top.",))]
    save_figure(score_figure(np.ones(1), np.ones(1)), tmp_path / "scores.png")
    pictures = Pictures({"scores": tmp_path / "scores.png"}, {"b": "scans/b.html"})
    page = Page(render_report(summary_of(results), results, pictures, PREPARE))
    link, picture = (one for one in page.fetched if not one.startswith("#"))
    assert link == "scans/b.html"
    assert picture.startswith("data:image/png;base64,iVBOR")
    assert page.open == []
    assert page.rows == ["c", "a", "b"]


def test_numbers_and_rules_are_on_the_page(summary_of):
    results = [result(name, place % 2) for place, name in enumerate("abcdef")]
    text = render_report(summary_of(results), results, NONE, PREPARE)
    words = " ".join(text.split())
    for expected in (
        '<p class="value">0.83</p>',
        "95 % interval 0.72 to 0.94",
        "label empty 0, prediction empty 0, both 0",
        "One of them empty: Dice 0",
        "label values 1, 2, 3, 5 are infarct",
        "AUROC of P",
        "after network T alone 2.00",
        "data &lt;set&gt;",
        "jax 0.",
    ):
        assert expected in words


def test_what_is_not_over_all_cases_says_over_how_many(summary_of):
    results = [result("a"), result("b", 1), *map(result, "cdef")]
    found = summary_of(results)
    text = render_report(found, results, NONE, PREPARE)
    assert not re.search(r"over \d", text)
    undefined = replace(results[1].grids["native"], lesion_precision=np.nan)
    results[1] = replace(results[1], grids=dict.fromkeys(results[1].grids, undefined))
    unasked = dict.fromkeys(results[2].disentanglement, np.nan)
    results[2] = replace(results[2], disentanglement=unasked)
    text = render_report(summary_of(results), results, NONE, PREPARE)
    words = " ".join(text.split())
    assert re.search(r"precision [\d.]+ \([\d.]+ to [\d.]+\) over 5 cases, ", words)
    assert "95 % interval 0.900 to 0.900 over 5 cases" in words
    assert "(mean over 5 cases)" in words
    assert len(re.findall(r"over \d", words)) == 3


def test_heads_without_a_midline_are_counted_beside_its_error(summary_of):
    results = [result("a"), result("b", 1)]
    text = render_report(summary_of(results), results, NONE, PREPARE)
    assert "none found" not in text
    results[1] = replace(results[1], pose={}, alignment={})
    summary = summary_of(results)
    words = " ".join(render_report(summary, results, NONE, PREPARE).split())
    assert "95th percentile 1.00 over 1 case<" in words
    assert "before refinement 2.00; none found in 1 of 2<" in words
    assert "are in none of these (none found in 1 of 2)." in words


def test_what_p_is_is_said_as_the_system_has_it(summary_of, tmp_path):
    results = [result("a")]
    summary = summary_of(results)
    (tmp_path / "maps.png").touch()
    pictures = Pictures({"maps": tmp_path / "maps.png"}, {})
    text = render_report(summary, results, pictures, PREPARE)
    assert "a sigmoid, not HU and not a part of A" in text
    part = render_report(summary | {"adds_up": True}, results, pictures, PREPARE)
    assert "P is the part of it that D takes for ischaemia" in part
    assert "not HU" not in part
    assert "neither is HU" not in part


def test_without_a_midline_no_asymmetry_is_drawn(summary_of):
    results = [result("a")]
    text = render_report(summary_of(results), results, NONE, PREPARE)
    assert "taken apart" not in text
    assert "AUROC of P" in text


def test_what_is_left_out_is_on_the_page(summary_of):
    results = [result("a")]
    summary = summary_of(results)
    assert "Left out" not in render_report(summary, results, NONE, PREPARE)
    summary["least_lesion_ml"] = 1.5
    text = render_report(summary, results, NONE, PREPARE)
    assert "predicted lesions of less than 1.5 mL</dd>" in text
    summary["known_lesions"] = {"least_ppv": 0.55}
    both = render_report(summary, results, NONE, PREPARE)
    assert "less than 1.5 mL, and those of a volume and a" in both
    assert "fewer than 55 % are infarcts</dd>" in both
    summary["least_lesion_ml"] = 0.0
    alone = " ".join(render_report(summary, results, NONE, PREPARE).split())
    assert "predicted lesions of a volume and a probability with which" in alone


def test_real_data_has_no_midline_error(summary_of):
    results = [result("a", known=False)]
    summary = summary_of(results)
    assert summary["alignment_error_deg"] is None
    text = render_report(summary, results, NONE, PREPARE)
    assert "Mid-line error" not in text
    assert "AUROC of P" in text


def test_calibration_is_that_of_all_voxels_together(summary_of):
    results = [result("a"), result("b", 1)]
    summary = summary_of(results)["calibration"]
    assert summary["voxels"] == 2 * MASK.size
    assert summary["brier"] == pytest.approx(0.1**2 + 0.03 * MASK.mean())
    assert summary["mce"] == pytest.approx(0.2)
    assert summary["bins"]["count"] == [2 * int((~MASK).sum()), 0, 0, 2 * MASK.sum()]
    assert summary["bins"]["share_of_infarct"] == [0.0, None, None, 1.0]
    text = render_report(summary_of(results), results, NONE, PREPARE)
    assert "Calibration</h2>" in text
    assert "Uncertainty" not in text


def test_masks_have_no_calibration(summary_of):
    summary = summary_of(results := [replace(result("a"), calibration={})])
    assert summary["calibration"] is None
    page = Page(text := render_report(summary, results, NONE, PREPARE))
    assert page.open == []
    assert "alibration" not in text


def test_uncertainty_is_told_where_it_was_asked_for(summary_of):
    results = [
        result("a", uncertainty=UNCERTAINTY),
        result("b", 1, uncertainty=UNCERTAINTY),
    ]
    summary = summary_of(results, "20 dropout samples")
    uncertainty = summary["uncertainty"]
    assert uncertainty["error_auroc"]["mean"] == pytest.approx(0.875)
    assert (uncertainty["lesions"], uncertainty["false_lesions"]) == (4, 2)
    assert uncertainty["lesion_entropy_false"] == pytest.approx(0.8)
    assert (
        uncertainty["false_lesion_auroc"]
        == uncertainty["false_lesion_auroc_probability"]
        == 1.0
    )
    words = " ".join(render_report(summary, results, NONE, PREPARE).split())
    assert "From the 20 dropout samples" in words
    assert "0.75 bits where the prediction is wrong" in words
    assert "uncertainty_error_auroc" in per_case_csv(results).splitlines()[0]
    assert "mean prediction" not in words
    assert summary_of([result("a")])["uncertainty"] is None


def test_an_ensemble_is_named(summary_of):
    results = [result("a", uncertainty=UNCERTAINTY)]
    summary = summary_of(results, "ensemble of 2 runs: run, other")
    words = " ".join(render_report(summary, results, NONE, PREPARE).split())
    assert "grids: mean prediction of the runs run, other; alignment" in words


def test_a_system_without_d_says_nothing_of_p(summary_of):
    plain = {"disentanglement": {}, "disentanglement_truth": "", "pose": {}}
    results = [replace(result("a", known=False), **plain)]
    summary = summary_of(results)
    assert summary["disentanglement"] is summary["alignment_error_deg"] is None
    page = Page(text := render_report(summary, results, NONE, PREPARE))
    assert page.open == []
    for word in ("AUROC of P", "X̂", "X + P", "rotation", "mid-line", "Alignment"):
        assert word not in text


def test_headline_is_prepared_where_a_native_label_is_missing(summary_of):
    results = [result("a"), result("b", 1, native=False)]
    summary = summary_of(results)
    assert summary["grid"] == "prepared"
    assert list(summary["grids"]) == ["prepared"]
    assert summary["dice"]["n"] == 2
    assert "prepared grid" in render_report(summary, results, NONE, PREPARE)


def test_csv_has_every_column_for_every_case():
    lines = per_case_csv(
        [result("a", known=False, native=False), result("b", 9)]
    ).splitlines()
    columns = lines[0].split(",")
    assert len(set(columns)) == len(columns)
    assert {"case", "native_dice", "error_final_angle_deg", "flags"} <= set(columns)
    assert [len(line.split(",")) for line in lines] == [len(columns)] * 3


def test_flags_of_the_csv_stand_apart():
    flagged = result("a", flags=("2.8 of 4.5 mL are on the grid", "Nothing was found."))
    text = per_case_csv([flagged])
    assert "2.8 of 4.5 mL are on the grid; Nothing was found" in text


def test_intervals_for_readers():
    assert format_interval({"ci95": [0.5, 0.75]}, 1) == "95 % interval 0.5 to 0.8"
    assert format_interval({"ci95": None}) == ""


def test_one_case_is_no_cases_and_has_no_interval(summary_of):
    results = [result("a", 6)]
    summary = summary_of(results) | {"without_label": 1}
    page = render_report(summary, results, NONE, PREPARE)
    assert "1 case,\nscored" in page
    assert "1 case\nwithout a label was left out" in page
    assert "1 cases" not in page
    assert "of fewer than 5 cases there is none" in page


def test_a_case_without_midline_has_no_score_of_p(make_maps):
    maps = make_maps()
    assert score_disentanglement(maps)[0]["auroc"] > 0.5
    assert score_disentanglement(replace(maps, plane=None)) == ({}, "")


def test_scores_of_p_are_over_the_cases_that_have_them(summary_of):
    without = replace(result("b", 1), disentanglement={}, disentanglement_truth="")
    results = [result("a", 1), without]
    summary = summary_of(results)
    page = render_report(summary, results, NONE, PREPARE)
    assert "(mean over 1 case)" in page
    assert summary["disentanglement"]["auroc"]["n"] == 1
