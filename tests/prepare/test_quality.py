import csv

import numpy as np
import pytest

from adn_jax.data.cases import CaseFacts
from adn_jax.io.image import Image
from adn_jax.io.nifti import read_voxels
from adn_jax.prepare.quality import (
    MEASURES,
    flags_of,
    fraction_outside,
    measure_lesion,
    measure_quality,
)
from adn_jax.prepare.quality_page import write_quality_table
from adn_jax.prepare.resample import Grid


@pytest.fixture(scope="module")
def scan(make_head):
    """HU, brain and affine of a plain head, 3 x 3 x 6 mm."""
    head = make_head()
    hu = read_voxels(head.ct, np.float32).transpose(2, 1, 0)
    return hu, read_voxels(head.brain, np.uint8).transpose(2, 1, 0), head.ct.affine


def measure(hu, brain, affine):
    hu, brain = hu.astype(np.float32), brain.astype(np.uint8)
    quality = measure_quality(hu, brain, affine, Grid(hu.shape, affine))
    return quality, flags_of(quality)


def test_slices_of_a_leaning_scan_are_as_thick_as_they_are_apart(scan):
    hu, brain, affine = scan
    upright, _ = measure(*scan)
    leaning = affine.copy()
    leaning[1, 2] = 2.4  # a gantry tilted by 22 degrees
    tilted, _ = measure(hu, brain, leaning)
    for name in ("brain_ml", "slice_mm", "brain_height_mm", "pixel_mm"):
        assert tilted[name] == pytest.approx(upright[name], rel=1e-3)


def test_a_plain_head_has_no_flag(scan):
    quality, flags = measure(*scan)
    assert flags == ()
    assert list(quality) == [
        "brain_ml",
        "slices",
        "slice_mm",
        "pixel_mm",
        "brain_height_mm",
        "first_slice_cm2",
        "last_slice_cm2",
        "brain_outside_grid",
        "brain_hu",
        "air_hu",
        "noise_hu",
        "asymmetry_hu",
        "bright_ml",
        "dark_ml",
        "metal_ml",
    ]
    assert quality["brain_ml"] == pytest.approx(1620, rel=0.02)
    assert (quality["slices"], quality["slice_mm"], quality["pixel_mm"]) == (24, 6, 3)
    assert quality["brain_hu"] == pytest.approx(35, abs=1)
    assert quality["air_hu"] == pytest.approx(-1004, abs=3)
    assert quality["noise_hu"] == pytest.approx(2, rel=0.2)
    assert 0 < quality["asymmetry_hu"] < 4
    assert quality["bright_ml"] == quality["dark_ml"] == quality["metal_ml"] == 0


def spot(hu, brain, size, value):
    """A cube of one value in the middle of the brain."""
    hu = hu.copy()
    hu[tuple(slice(n // 2, n // 2 + size) for n in hu.shape)] = value
    return hu, brain


def noisy(hu, brain):
    return hu + np.random.default_rng(1).normal(0, 14, hu.shape), brain


def one_sided(hu, brain):
    return np.where(np.arange(hu.shape[2]) > hu.shape[2] // 2, hu - 22, hu), brain


def small(hu, brain):
    return hu, brain * (np.arange(len(hu)) % 2)[:, None, None]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (small, "the brain mask holds 8"),
        (lambda hu, brain: (hu[10:], brain[10:]), "the scan starts inside the brain ("),
        (lambda hu, brain: (hu[:14], brain[:14]), "the scan ends inside the brain ("),
        (lambda hu, brain: (hu + 26 * brain, brain), "HU instead of 20 to 50"),
        (lambda hu, brain: (np.maximum(hu, -30), brain), "of the scan is -30 HU"),
        (noisy, "noise is 1"),
        (one_sided, "the halves differ by 1"),
        (lambda *scan: spot(*scan, 8, 200), "27.6 mL inside the brain are above 90 HU"),
        (lambda *scan: spot(*scan, 5, -60), "6.8 mL inside the brain are below -20 HU"),
        (lambda *scan: spot(*scan, 2, 3000), "0.43 mL at the brain are above 2500 HU"),
    ],
)
def test_each_oddity_has_its_sentence(scan, change, sentence):
    hu, brain, affine = scan
    _, flags = measure(*change(hu, brain), affine)
    assert sum(sentence in flag for flag in flags) == 1, flags
    assert len(flags) <= 2, flags


def test_noise_and_mask_too_thin_to_tell(scan):
    hu, brain, affine = scan
    thin = np.zeros_like(brain)
    thin[10, 30:33, 30:33] = 1
    quality, _ = measure(hu, thin, affine)
    assert quality["noise_hu"] is None
    assert quality["asymmetry_hu"] is None


def test_a_brain_beyond_the_grid(scan):
    _, brain, affine = scan
    inside = brain.astype(bool)
    assert fraction_outside(inside, affine, Grid(inside.shape, affine)) == 0
    half = (inside.shape[0], inside.shape[1], inside.shape[2] // 2)
    outside = fraction_outside(inside, affine, Grid(half, affine))
    assert outside == pytest.approx(0.5, abs=0.01)


def test_registration_that_went_wrong():
    assert flags_of({"registration_overlap": 0.95}) == ()
    (flag,) = flags_of({"registration_overlap": 0.7})
    assert "overlaps the brain with a Dice of 0.700 only" in flag


def lesion_flags(prepared, brain):
    native = Image(np.ones((2, 2, 2), np.uint8), np.diag([10.0, 10, 10, 1]), "label")
    quality = measure_lesion(native, prepared, brain, 0.25)
    assert quality["lesion_ml"] == pytest.approx(8.0)
    assert quality["lesion_prepared_ml"] == prepared.sum() / 4
    return flags_of(quality)


def test_a_lesion_out_of_place():
    brain = np.zeros((6, 4, 4), bool)
    brain[:, :3] = True
    inside, half = brain.copy(), np.ones_like(brain)
    inside[2:] = half[2:] = False
    assert lesion_flags(inside, brain) == ()
    assert lesion_flags(half, brain) == (
        "25% of the infarct lies outside the brain mask",
    )
    few = np.zeros_like(brain)
    few[0, :2] = True
    (flag,) = lesion_flags(few, brain)
    assert flag == "of the labelled infarct 2.0 of 8.0 mL are on the prepared grid"
    (flag,) = lesion_flags(np.zeros_like(brain), brain)
    assert flag == "the labelled infarct is lost on the prepared grid"
    (flag,) = lesion_flags(brain, brain)
    assert flag.startswith("100% of the brain is labelled infarct; the label may be a")
    assert measure_lesion(None, None, brain, 0.25) == {}


@pytest.mark.parametrize(
    ("name", "usual", "odd", "said"),
    [
        ("brain_hu", 50.3, 50.6, "median is 51 HU instead of 20 to 50"),
        ("brain_ml", 1900.4, 1900.6, "holds 1901 mL instead of 900 to 1900"),
        ("brain_outside_grid", 0.0014, 0.0016, "0.2% of the brain"),
    ],
)
def test_a_flag_does_not_name_a_usual_value(name, usual, odd, said):
    assert flags_of({name: usual}) == ()
    (flag,) = flags_of({name: odd})
    assert said in flag


def test_a_value_of_no_size_has_no_sign():
    assert MEASURES["brain_hu"].text(-0.2) == "0"


def test_table_holds_the_figures_of_every_case(tmp_path):
    cases = [
        CaseFacts("a", {"brain_ml": 1.5, "noise_hu": None}, (), {}, frozenset()),
        CaseFacts("b", {"lesion_ml": 2}, ("x, y", "z"), {}, frozenset()),
    ]
    write_quality_table(tmp_path / "quality.csv", cases)
    with (tmp_path / "quality.csv").open() as file:
        rows = list(csv.DictReader(file))
    empty = {"brain_ml": "", "noise_hu": "", "lesion_ml": "", "flags": ""}
    assert rows == [
        {**empty, "case": "a", "brain_ml": "1.5"},
        {**empty, "case": "b", "lesion_ml": "2", "flags": "x, y; z"},
    ]
