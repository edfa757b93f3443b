import csv

import numpy as np
import pytest
from matplotlib.image import imread

from adn_jax.data.cases import PreparedCase
from adn_jax.prepare.quality import (
    CONTOUR_RGB,
    geometry_flags,
    measure_quality,
    tile,
    write_mosaic,
    write_quality_table,
)

USUAL = {"brain_ml": 1400.0, "brain_outside_grid": 0.0, "spacing_mm": [5.0, 0.5, 0.5]}


def test_figures_of_a_box_brain():
    hu = np.full((10, 50, 50), -1000.0, np.float32)
    brain = np.zeros(hu.shape, np.uint8)
    brain[2:8, 10:40, 10:40] = 1
    hu[brain == 1] = 34
    affine = np.diag([4.5, 4.5, 10.0, 1.0])
    quality, flags = measure_quality(hu, brain, affine, (10, 50, 25), affine)
    assert quality == {
        "brain_ml": pytest.approx(6 * 30 * 30 * 0.2025),
        "slices": 10,
        "spacing_mm": [10.0, 4.5, 4.5],
        "brain_height_mm": 60.0,
        "brain_hu_median": 34.0,
        "brain_outside_grid": pytest.approx(0.5),
    }
    assert flags == ("50% of the brain lies outside the prepared grid",)


@pytest.mark.parametrize(
    ("change", "areas", "message"),
    [
        ({"brain_ml": 700.0}, [0, 0], "holds 700 mL instead of 900 to 1900"),
        ({"brain_outside_grid": 0.02}, [0, 0], "2% of the brain lies outside"),
        ({"spacing_mm": [12.0, 1.0, 1.0]}, [0, 0], "slices are 12.0 mm apart"),
        ({}, [90, 0], "the scan starts inside the brain"),
        ({}, [0, 90], "the scan ends inside the brain"),
    ],
)
def test_each_oddity_has_its_sentence(change, areas, message):
    assert geometry_flags(USUAL, np.zeros(2)) == ()
    (flag,) = geometry_flags({**USUAL, **change}, np.array(areas, float))
    assert message in flag


def test_table_holds_the_figures_of_every_case(tmp_path):
    volume, brain = np.zeros((2, 2, 2), np.float32), np.ones((2, 2, 2), np.uint8)
    cases = [
        PreparedCase("a", volume, brain, np.eye(4), {}, quality={"brain_ml": 1.5}),
        PreparedCase(
            "b",
            volume,
            brain,
            np.eye(4),
            {},
            quality={"lesion_ml": 2},
            flags=("x, y", "z"),
        ),
    ]
    write_quality_table(tmp_path / "quality.csv", cases)
    with (tmp_path / "quality.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows == [
        {"case": "a", "brain_ml": "1.5", "lesion_ml": "", "flags": ""},
        {"case": "b", "brain_ml": "", "lesion_ml": "2", "flags": "x, y; z"},
    ]


def test_tiles_run_along_the_rows():
    slices = np.zeros((9, 2, 3, 3), np.uint8)
    slices += np.arange(9, dtype=np.uint8)[:, None, None, None]
    picture = tile(slices)
    assert picture.shape == (4, 24, 3)
    assert picture[0, ::3, 0].tolist() == list(range(8))
    assert picture[2, ::3, 0].tolist() == [8, 0, 0, 0, 0, 0, 0, 0]


def test_mosaic_shows_front_up_and_the_outline(tmp_path):
    hu = np.full((8, 10, 12), -1000.0, np.float32)
    hu[:, 9] = 100
    brain = np.zeros(hu.shape, np.uint8)
    brain[:, 3:8, 4:10] = 1
    write_mosaic(tmp_path / "a.png", hu, brain, np.diag([1.0, 1.0, 5.0, 1.0]))
    picture = np.round(imread(tmp_path / "a.png")[..., :3] * 255)
    assert picture.shape == (10, 96, 3)
    assert (picture[0] == 255).all()
    # The outline reaches x = 4 to 9, counted from the patient's left, of 12.
    columns = np.flatnonzero((picture[:, :12] == CONTOUR_RGB).all(-1).any(0))
    assert columns[[0, -1]].tolist() == [12 - 10, 12 - 5]
    outline = (picture == CONTOUR_RGB).all(-1)
    assert outline.sum() == 8 * (2 * 5 + 2 * 4)
