from dataclasses import replace

import matplotlib.image
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.text import Text

from adn_jax.evaluation.report import score_figure
from adn_jax.inference.figures import (
    CaseArtist,
    alignment_figure,
    maps_figure,
    overview_figure,
    save_figure,
    scan_figure,
    segmentation_figure,
)
from adn_jax.report.panels import LABEL, MIDLINE, PREDICTION
from tests.tiny_runs import make_shown


def drawn(figure):
    """The figure as RGB in 0..1."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3] / 255.0


def pixels(image, colour):
    """Rows and columns of the pixels near a colour."""
    return np.argwhere(np.abs(image - to_rgb(colour)).max(axis=2) < 0.12)


def test_slice_of_the_largest_lesion(make_maps):
    assert make_maps(shape=(7, 48, 40)).lesion_slice == 3
    nothing = make_maps(lesion=False, found=False)
    assert nothing.lesion_slice == np.argmax(nothing.asymmetry.sum((1, 2)))


def test_patients_left_is_on_the_images_right(make_maps):
    # The synthetic infarct lies on the patient's left, x below the middle.
    maps = make_maps()
    assert np.argwhere(maps.aligned_lesion)[:, 2].mean() < maps.aligned.shape[2] / 2
    image = drawn(scan_figure(make_shown(maps), slices=1))
    first_row = image[: image.shape[0] // 2]
    middle = pixels(first_row, MIDLINE)[:, 1]
    outline = pixels(first_row, PREDICTION)[:, 1]
    assert outline.min() > np.median(middle)


def test_front_is_up(make_maps):
    maps = make_maps(lesion=False, found=False)
    maps.aligned[:, -14:] += 0.5 * (maps.aligned[:, -14:] > 0)
    image = drawn(segmentation_figure([maps], ["head"]))
    first_row = image[: int(0.4 * len(image))].min(axis=2)
    bright, head = (np.argwhere(first_row > level)[:, 0] for level in (0.9, 0.4))
    assert bright.max() < head.mean()


def test_outlines_are_drawn_where_there_is_something(make_maps):
    both = drawn(segmentation_figure([make_maps()], ["head"]))
    legend_only = drawn(segmentation_figure([make_maps(found=False)], ["head"]))
    assert len(pixels(both, LABEL)) > 100
    assert len(pixels(legend_only, PREDICTION)) < 0.4 * len(pixels(both, PREDICTION))


def test_midline_follows_the_plane(make_maps):
    image = drawn(alignment_figure([make_maps(angle_deg=20.0)], ["head"]))
    scan = pixels(image[: int(0.41 * len(image))], MIDLINE)
    slope = np.polyfit(scan[:, 0], scan[:, 1], 1)[0]
    # Nose to the patient's left: up is to the right, by the tangent of the angle.
    assert slope == pytest.approx(-np.tan(np.radians(20.0)), abs=0.03)


def test_every_figure_takes_odd_cases(make_maps):
    cases = [
        make_maps(lesion=False, found=False, name="healthy"),
        make_maps(found=False, name="missed"),
        make_maps(name="found"),
    ]
    names = [maps.name for maps in cases]
    for figure in (
        maps_figure(cases, names),
        segmentation_figure(cases, names),
        alignment_figure(cases, names),
        overview_figure(cases[0]),
        scan_figure(make_shown(cases[1])),
    ):
        assert drawn(figure).std() > 0.01


def test_an_empty_volume_is_drawn_black(make_maps):
    maps = make_maps(lesion=False, found=False)
    for volume in (maps.volume, maps.asymmetry, maps.pathological):
        volume[:] = 0
    maps.aligned[:] = 0
    assert CaseArtist(maps).brightest(maps.asymmetry, range(6)) == 1.0
    assert drawn(scan_figure(make_shown(maps))).mean() < 0.2


def test_only_the_asymmetry_is_said_to_be_in_hu(make_maps):
    maps = make_maps()
    tops = {"asymmetry": 0.25, "pathological": 0.5, "anatomical": 0.25}
    said = {name: CaseArtist(maps).top_in_words(name, tops) for name in tops}
    assert said == {"asymmetry": "20 HU", "pathological": "0.5", "anatomical": "±0.25"}
    parts = CaseArtist(replace(maps, adds_up=True))
    assert [parts.top_in_words(name, tops) for name in tops] == [
        *("20 HU", "40 HU", "20 HU")
    ]
    shown = make_shown(maps)
    heading, note = (text.get_text() for text in scan_figure(shown).texts)
    assert "CT 0 to 80 HU" in note
    assert "P 0 to 1, not HU" in note
    assert heading.startswith("head: predicted infarct ")
    assert heading.endswith("For research; not for diagnosis.")
    (_, note) = scan_figure(replace(shown, adds_up=True)).texts
    assert "not HU" not in note.get_text()


def test_spread_slices_include_the_lesion(make_maps):
    shown = make_shown(make_maps(shape=(30, 48, 40)), brain=(3, 27))
    levels = shown.levels(7)
    assert len(levels) >= 6
    assert np.ptp(np.diff(levels)) <= 1
    assert 3 <= levels[0] <= levels[-1] <= 27
    assert shown.volumes["lesion"].sum(axis=(1, 2)).argmax() in levels
    nothing = make_shown(make_maps(found=False), brain=(1, 4))
    assert nothing.levels(7) == [1, 2, 3, 4]
    titles = [axes.get_title() for axes in scan_figure(shown, 7).axes[: len(levels)]]
    assert titles[0].startswith(f"slice {levels[0] + 1}, I ")


def test_score_figure_takes_volumes_from_zero_and_no_cases():
    dice, volume = np.array([0.2, 0.9, 1.0]), np.array([3.0, 80.0, 0.0])
    assert drawn(score_figure(dice, volume)).std() > 0.05
    assert drawn(score_figure(dice[:0], volume[:0])).std() > 0.01


def test_scores_that_are_not_defined_have_no_part_in_the_median():
    figure = score_figure(np.array([0.5, 0.7, np.nan]), np.array([3.0, 80.0, 0.0]))
    (note,) = figure.axes[0].texts
    assert note.get_text() == "median 0.60"


def test_names_with_signs_of_mathematics_are_drawn_as_they_are(make_maps):
    figure = maps_figure([make_maps()], ["x$_$y"])
    assert drawn(figure).std() > 0.05
    assert any("x$_$y" in text.get_text() for text in figure.findobj(Text))


def test_figures_are_saved_whole(make_maps, tmp_path):
    save_figure(overview_figure(make_maps()), tmp_path / "new" / "overview.png")
    assert matplotlib.image.imread(tmp_path / "new" / "overview.png").shape[1] > 1500
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["overview.png"]
