import numpy as np
import pytest

from adn_jax.prepare.quality import MEASURES, flags_of

ENDS = [
    (name, end, sign)
    for name, measure in MEASURES.items()
    for end, sign in ((measure.low, -1), (measure.high, 1))
    if np.isfinite(end)
]


@pytest.mark.parametrize(("name", "end", "sign"), ENDS)
def test_a_flag_starts_beyond_the_usual_range(name, end, sign):
    step = max(0.02 * abs(end), 0.1 ** MEASURES[name].digits)
    assert flags_of({name: end}) == ()
    assert flags_of({name: end - sign * step}) == ()
    (flag,) = flags_of({name: end + sign * step})
    assert "{" not in flag


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("brain_ml", 700.0, "the brain mask holds 700 mL instead of 900 to 1900"),
        ("slice_mm", 12.0, "slices are 12.0 mm apart"),
        (
            "brain_outside_grid",
            0.02,
            "2.0% of the brain lies outside the prepared grid",
        ),
        ("registration_overlap", 0.7, "overlaps the brain with a Dice of 0.700 only"),
        (
            "lesion_outside_brain",
            0.25,
            "25% of the infarct lies outside the brain mask",
        ),
        ("metal_ml", 0.3, "0.30 mL at the brain are above 2500 HU: a clip"),
    ],
)
def test_sentences_name_the_value(name, value, sentence):
    (flag,) = flags_of({name: value})
    assert sentence in flag


def test_figures_without_a_value_or_a_range_have_no_flag():
    assert flags_of({}) == ()
    assert flags_of({"noise_hu": None, "slices": 1, "lesion_ml": 1e4, "new": 3}) == ()


def test_the_usual_range_in_words():
    assert MEASURES["brain_ml"].usual == "900 to 1900"
    assert MEASURES["noise_hu"].usual == "at most 10.0"
    assert MEASURES["registration_overlap"].usual == "at least 0.900"
    assert MEASURES["brain_outside_grid"].usual == "at most 0.1%"
    assert MEASURES["slices"].usual == ""


def test_sentences_agree_with_the_ranges():
    for name, measure in MEASURES.items():
        assert bool(measure.flag) == bool(measure.usual), name
        if "instead of 900" in measure.flag or "instead of 20" in measure.flag:
            assert f"instead of {measure.usual}" in measure.flag
