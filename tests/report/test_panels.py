"""Sheets of panels: what stands below them."""

import pytest

from adn_jax.report.panels import (
    Extent,
    caption,
    dark_sheet,
    footer,
    sheet_title,
    side_label,
)

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


def test_long_names_stay_on_the_sheet_and_below_their_panels():
    name = "sub-strokecase0042_ses-0001_run-1_desc-withoutcontrast"
    sheet = dark_sheet(2, 3, Extent(70.0, 90.0), ["a", "b", "c"], True, headed=True)
    sheet_title(sheet, f"{name}: predicted infarct 12.3 mL left, 4.5 mL right")
    side_label(sheet.panels[0][0], name)
    caption(sheet.panels[1][1], f"{name}\nDice 0.512")
    (title,) = sheet.figure.texts
    assert title.get_window_extent().x1 <= sheet.figure.bbox.width
    first, below = sheet.panels[0][0], sheet.panels[1][1]
    (label,), (words,) = first.texts, below.texts
    assert label.get_window_extent().height <= first.bbox.height + 1
    assert words.get_window_extent().width <= below.bbox.width + 1


def test_short_names_keep_their_size():
    sheet = dark_sheet(1, 3, Extent(70.0, 90.0), [], captions=True)
    caption(sheet.panels[0][0], "head")
    assert sheet.panels[0][0].texts[0].get_fontsize() == 8
