"""Sheets of panels: what stands below them."""

import pytest

from adn_jax.report.panels import Extent, dark_sheet, footer

LONG = (
    "Axial, front up, patient's left on the image's right. CT 5 to 60 HU. A 0 to 40 HU."
)


@pytest.mark.parametrize("columns", [1, 2, 3, 4, 8])
def test_note_and_legend_stand_on_the_sheet_and_apart(columns):
    sheet = dark_sheet(1, columns, Extent(70.0, 90.0), [], captions=True)
    footer(sheet, LONG, {"label": "#ff0000", "prediction": "#00ff00"})
    (note,), (legend,) = sheet.figure.texts, sheet.figure.legends
    note, legend = note.get_window_extent(), legend.get_window_extent()
    lowest_panel = sheet.panels[0][0].get_window_extent()
    for box in (note, legend):
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= sheet.figure.bbox.width
        assert box.y1 < lowest_panel.y0
    assert not note.overlaps(legend)
