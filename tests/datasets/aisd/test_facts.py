import re
from pathlib import Path

import pytest

from adn_jax.datasets.aisd import facts
from adn_jax.datasets.aisd.facts import (
    FIRST_SLICE,
    FLAGGED,
    LEFT_OUT,
    ODDITIES,
    ODDITY_BY_KEY,
    SOURCES,
    TEST_IDS,
    flags,
    left_out,
    oddity_table,
)


def test_the_official_test_set_has_52_cases():
    assert len(TEST_IDS) == facts.TEST.known == 52
    assert all(re.fullmatch(r"\d{7}", name) for name in TEST_IDS)
    assert facts.TRAIN.known + facts.TEST.known == facts.CASES.known


def test_every_row_is_whole_and_named_once():
    assert len(ODDITY_BY_KEY) == len(ODDITIES)
    for row in ODDITIES:
        assert row.what, row.key
        assert row.done, row.key
        sources = {one.split(",")[0].split()[0] for one in row.source.split("; ")}
        assert sources <= set(SOURCES), row.key
        assert all(re.fullmatch(r"\d{7}", name) for name in row.cases)
    assert set(ODDITY_BY_KEY) >= {key for keys in LEFT_OUT.values() for key in keys}
    assert set(ODDITY_BY_KEY) >= set(FLAGGED)
    assert ODDITY_BY_KEY["trunk"].cases == tuple(FIRST_SLICE)


def test_broken_cases_are_seven_of_the_training_set():
    broken = {name for key in LEFT_OUT["broken"] for name in ODDITY_BY_KEY[key].cases}
    assert broken == {
        *("0073465", "0091684", "0091530", "0226130", "0226134", "0538651", "0538050")
    }
    assert not broken & TEST_IDS


def test_cl_segnet_leaves_out_five_of_the_training_set():
    assert len(ODDITY_BY_KEY["cl_segnet"].cases) == 5
    assert not set(ODDITY_BY_KEY["cl_segnet"].cases) & TEST_IDS


@pytest.mark.parametrize(
    ("name", "setting", "reason"),
    [
        ("0091530", "broken", "artefacts"),
        ("0226134", "broken", "labels that do not fit"),
        ("0538050", "broken", "slab"),
        ("0538651", "broken", "without a reason"),
        ("0091465", "cl-segnet", "Cl-SegNet"),
    ],
)
def test_reasons_name_what_is_odd_and_who_says_so(name, setting, reason):
    said = left_out(name, setting)
    assert reason in said
    assert said.endswith(".csv)") or said.endswith(".pkl)")


def test_what_is_not_left_out():
    assert left_out("0091530", "none") is None
    assert left_out("0091530", "cl-segnet") is None
    assert left_out("0091465", "broken") is None
    assert left_out("0073410", "broken") is None


def test_flags_are_of_single_cases():
    (flag,) = flags("0091439")
    assert flag.startswith("AISD: a reader noted infarcts that are alike on both sides")
    assert flag.endswith("(stroke-seg-ssl, manual_labels/aisd_manual_lab.csv)")
    assert "artefacts" in flags("0091530")[0]
    assert flags("0073410") == ()


def test_the_page_on_aisd_has_the_same_table():
    page = Path(__file__).parents[3] / "docs" / "aisd.md"
    assert oddity_table().strip() in page.read_text()
