"""Every picture shows front, top and the patient's sides where the scan has them."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from PIL import Image as Picture

from adn_jax.comparison.qualitative import PicturedScan, qualitative_figure
from adn_jax.inference.figures import (
    alignment_figure,
    maps_figure,
    overview_figure,
    scan_figure,
    segmentation_figure,
    uncertainty_figure,
)
from adn_jax.inference.shown import ShownScan
from adn_jax.io.image import nearest_ras
from adn_jax.prepare.case import to_native
from adn_jax.prepare.quality_page import COLUMNS, write_contact_sheet
from adn_jax.report.panels import PREDICTION
from adn_jax.scans.read import RawScan
from tests.inference.planted import CLOT_MM, ORIENTATIONS, planted


@pytest.fixture(scope="module", params=ORIENTATIONS)
def head(request):
    return planted(request.param)


def panels_of(figure):
    """Pixels (0 to 1) of each panel, in the figure's order."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[::-1, :, :3] / 255.0
    boxes = [axes.get_window_extent().extents.round() for axes in figure.axes]
    return [
        pixels[int(low) : int(high), int(left) : int(right)][::-1]
        for left, low, right, high in boxes
    ]


def middle(mask):
    """Row and column of the middle of a mask, as shares of the picture."""
    return np.argwhere(mask).mean(axis=0) / mask.shape


def clot_in(panel):
    """Pixels that are white, the letters beneath left out."""
    return panel[: int(0.9 * len(panel))].min(axis=-1) > 0.9


def outline_in(panel):
    return np.abs(panel - to_rgb(PREDICTION)).max(axis=-1) < 0.12


def shown_of(scan, case, maps):
    probability = to_native(maps.prediction, case.geometry)
    images = {"probability": probability, "lesion": probability >= 0.5}
    return ShownScan.of_scan(RawScan("planted", scan), case, maps, images)


def figures_of(scan, case, maps):
    yield scan_figure(shown_of(scan, case, maps))
    yield segmentation_figure([maps], ["planted"])
    yield maps_figure([maps], ["planted"])
    yield overview_figure(maps)
    yield alignment_figure([maps], ["planted"])
    yield uncertainty_figure([maps], [maps.prediction], ["planted"])
    pictured = PicturedScan(case, (maps.predicted,), (1.0,))
    yield qualitative_figure([pictured], ["unet"], maps.window_hu)


def check_sides(figure):
    """The clot is on the right, at the back; what is found on the left, in front."""
    panels = panels_of(figure)
    clots = [one for panel in panels if (one := clot_in(panel)).sum() > 30]
    found = [one for panel in panels if (one := outline_in(panel)).sum() > 30]
    assert clots
    for row, column in map(middle, clots):
        assert row > 0.55
        assert column < 0.45
    for row, column in map(middle, found):
        assert row < 0.45
        assert column > 0.55


def test_every_figure_shows_every_side_where_it_is():
    for figure in figures_of(*planted("PIR")):
        check_sides(figure)


def test_files_of_every_orientation_look_the_same(head):
    check_sides(scan_figure(shown_of(*head), slices=1))


def test_slices_go_from_foot_to_head():
    shown = shown_of(*planted("SAL"))
    count = len(shown.levels(7))
    first_row = panels_of(scan_figure(shown, slices=7))[:count]
    clots = [clot_in(panel).sum() for panel in first_row]
    assert np.argmax(clots) >= 3
    assert max(clots[:3]) == max(clots[-2:]) == 0


def test_the_contact_sheet_shows_every_side_where_it_is(head, tmp_path):
    scan, _, _ = head
    hu, affine = nearest_ras(scan)
    write_contact_sheet(tmp_path / "a.png", hu, (hu > 0).astype(np.uint8), affine)
    with Picture.open(tmp_path / "a.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).min(axis=-1)  # letters are yellow
    rows, width = -(-len(hu) // COLUMNS), pixels.shape[1] // COLUMNS
    tiles = pixels.reshape(rows, -1, COLUMNS, width).swapaxes(1, 2)
    tiles = tiles.reshape(rows * COLUMNS, -1, width) > 190
    height_mm = affine[2, 2] * np.argmax(tiles.sum(axis=(1, 2))) + affine[2, 3]
    assert abs(height_mm - CLOT_MM[2]) <= affine[2, 2]
    row, column = middle(tiles.max(axis=0))
    assert row > 0.55
    assert column < 0.45
