"""Axial slices and maps drawn as a radiologist reads them, in mm.

The front is up and the patient's left on the image's right (radiological convention):
the x axis, which grows to the patient's right, runs to the left. All panels of a
figure have one scale.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Shaped
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.text import Text

from adn_jax.metrics.alignment import Plane

SliceImage = Float[np.ndarray, "y x"]

SliceMask = Bool[np.ndarray, "y x"]

BoundingBox = Float[np.ndarray, "2 2"]
"""Lowest and highest (x, y) in mm from the grid's centre."""

BACKGROUND = "#0b0d11"

INK = "#eef1f5"

FAINT = "#9aa3b2"

LABEL = "#ff5a52"

PREDICTION = "#3fd2ff"

MIDLINE = "#ffd23f"

SIGNED = LinearSegmentedColormap.from_list(
    "signed", ["#a6dcff", "#2f7fd0", "#000000", "#c4721a", "#ffd9a0"]
)
"""Blue below 0, black at 0, orange above: told apart by all eyes."""

DASHES = {LABEL: (0.0, (3.5, 1.2)), MIDLINE: (0.0, (5.0, 3.0))}
"""Lines that are not full: colours alone are lost in grey print."""

DARK_EDGE = [withStroke(linewidth=2.2, foreground=BACKGROUND)]
"""Around letters that may stand on white bone."""

PANEL_INCHES = 1.6

NARROWEST_INCHES = 4.6
"""A sheet of one or two panels has larger ones, so that its footer fits."""

GAP_INCHES = 0.05

TITLE_INCHES = 0.34

CAPTION_INCHES = 0.34

HEADING_INCHES = 0.3

FOOTER_INCHES = 0.36

SIDE_INCHES = 0.24

EXTENT_MARGIN_MM = 5.0


@dataclass(frozen=True)
class Extent:
    """Half width and half height in mm of what the panels of a figure show."""

    half_width: float
    half_height: float


@dataclass(frozen=True)
class Sheet:
    """A dark figure and its panels, row by row."""

    figure: Figure
    panels: list[list[Axes]]
    height: float
    """In inches."""


def head_box(
    volume: Shaped[np.ndarray, "z y x"], spacing_yx: tuple[float, float]
) -> BoundingBox:
    """The rectangle around all of the head."""
    outline = np.any(volume > 0, axis=0)
    if not outline.any():
        outline = np.ones_like(outline)
    low = [np.flatnonzero(outline.any(axis=axis))[0] for axis in (0, 1)]
    high = [np.flatnonzero(outline.any(axis=axis))[-1] + 1 for axis in (0, 1)]
    half = np.array(outline.shape[::-1]) / 2
    return (np.array([low, high]) - half) * spacing_yx[::-1]


def common_extent(boxes: Sequence[BoundingBox]) -> Extent:
    """Room for the largest of several heads, each centred on its own box."""
    width, height = np.max([box[1] - box[0] for box in boxes], axis=0)
    return Extent(width / 2 + EXTENT_MARGIN_MM, height / 2 + EXTENT_MARGIN_MM)


def dark_sheet(
    rows: int,
    columns: int,
    extent: Extent,
    titles: Sequence[str],
    captions: bool,
    headed: bool = False,
) -> Sheet:
    """A figure of equal panels with column titles, and room for captions at the end and
    for a heading."""
    fitting = (NARROWEST_INCHES - 2 * SIDE_INCHES + GAP_INCHES) / columns - GAP_INCHES
    panel_width = max(PANEL_INCHES, fitting)
    panel_height = panel_width * extent.half_height / extent.half_width
    step = panel_height + GAP_INCHES
    top = (TITLE_INCHES if titles else GAP_INCHES) + HEADING_INCHES * headed
    width = 2 * SIDE_INCHES + columns * (panel_width + GAP_INCHES) - GAP_INCHES
    height = top + rows * step + CAPTION_INCHES * captions + FOOTER_INCHES
    figure = Figure(figsize=(width, height), facecolor=BACKGROUND, dpi=160)
    panels = []
    for row in range(rows):
        bottom = height - top - row * step - panel_height
        panels.append(
            [
                figure.add_axes(
                    (
                        (SIDE_INCHES + column * (panel_width + GAP_INCHES)) / width,
                        bottom / height,
                        panel_width / width,
                        panel_height / height,
                    ),
                    facecolor=BACKGROUND,
                )
                for column in range(columns)
            ]
        )
    for axes, title in zip(panels[0], titles, strict=False):
        axes.set_title(
            title, color=INK, fontsize=9.5 if headed else 11, pad=6, parse_math=False
        )
    return Sheet(figure, panels, height)


def draw_slice(
    axes: Axes,
    image: SliceImage,
    spacing_yx: tuple[float, float],
    limits: tuple[float, float],
    colours: str | Colormap = "gray",
) -> None:
    """Draw a slice in mm from the grid's centre, patient's left on the right."""
    half_y, half_x = np.multiply(image.shape, spacing_yx) / 2
    axes.imshow(
        image,
        cmap=colours,
        vmin=limits[0],
        vmax=limits[1],
        origin="lower",
        extent=(-half_x, half_x, -half_y, half_y),
        interpolation="bilinear",
    )
    axes.set_axis_off()


def show_head(
    axes: Axes, box: BoundingBox, extent: Extent, marks: bool = False
) -> None:
    """Cut the panel to the head; `marks` adds R and L beside it."""
    x, y = box.mean(axis=0)
    axes.set_aspect("equal")
    axes.set_xlim(x + extent.half_width, x - extent.half_width)
    axes.set_ylim(y - extent.half_height, y + extent.half_height)
    if marks:
        for place, side in ((0.03, "R"), (0.97, "L")):
            corner_text(axes, side, place, "left" if side == "R" else "right")


def corner_text(axes: Axes, text: str, place: float, side: str) -> None:
    """A faint note in the lower part of a panel."""
    axes.text(
        place,
        0.03,
        text,
        color=FAINT,
        fontsize=7.5,
        ha=side,
        va="bottom",
        path_effects=DARK_EDGE,
        transform=axes.transAxes,
    )


def scale_bar(axes: Axes, length_mm: float = 50.0) -> None:
    """A line of a length at the lower end of a panel, with its length in words."""
    x, (low, high) = sum(axes.get_xlim()) / 2, axes.get_ylim()
    y = low + 0.03 * (high - low)
    axes.plot(
        [x - length_mm / 2, x + length_mm / 2],
        [y, y],
        color=INK,
        linewidth=1.4,
        path_effects=DARK_EDGE,
    )
    axes.text(
        x,
        y + 0.015 * (high - low),
        f"{length_mm:.0f} mm",
        color=INK,
        fontsize=7,
        ha="center",
        va="bottom",
        path_effects=DARK_EDGE,
    )


def draw_outline(
    axes: Axes, mask: SliceMask, spacing_yx: tuple[float, float], colour: str
) -> None:
    """Outline a mask; nothing is drawn where it is empty."""
    if not mask.any() or mask.all():
        return
    y, x = (
        (np.arange(size) - (size - 1) / 2) * step
        for size, step in zip(mask.shape, spacing_yx, strict=True)
    )
    axes.contour(
        x,
        y,
        mask.astype(float),
        levels=[0.5],
        colors=colour,
        linewidths=1.1,
        linestyles=[_dash(colour)],
    )


def draw_midline(axes: Axes, plane: Plane, height_mm: float) -> None:
    """The trace of a mid-sagittal plane in the axial slice at `height_mm`."""
    a, b, c = plane.normal
    level = plane.normal @ plane.point - c * height_mm
    axes.axline(
        (a * level / (a * a + b * b), b * level / (a * a + b * b)),
        (
            a * level / (a * a + b * b) - b,
            b * level / (a * a + b * b) + a,
        ),
        color=MIDLINE,
        linewidth=0.9,
        linestyle=_dash(MIDLINE),
    )


def caption(axes: Axes, text: str) -> None:
    """A line or two below a panel, as small as its width wants."""
    text_below = axes.text(
        0.5,
        -0.025,
        text,
        color=INK,
        fontsize=8,
        linespacing=1.35,
        ha="center",
        va="top",
        transform=axes.transAxes,
        parse_math=False,
    )
    fit_letters(text_below, axes.bbox.width)


def side_label(axes: Axes, text: str) -> None:
    """A name along the left edge of a row, as small as its height wants."""
    name = axes.text(
        -0.04,
        0.5,
        text,
        color=INK,
        fontsize=8.5,
        ha="right",
        va="center",
        rotation=90,
        transform=axes.transAxes,
        parse_math=False,
    )
    fit_letters(name, axes.bbox.height, along="height")


def fit_letters(
    text: Text, room: float, along: Literal["width", "height"] = "width"
) -> None:
    """Make letters so small that they fit into so many pixels.

    Their width does not follow their size quite, as they are drawn on whole pixels.
    """
    for _ in range(5):
        needed = float(getattr(text.get_window_extent(), along))
        if needed <= room:
            return
        text.set_fontsize(float(text.get_fontsize()) * room / needed)


def _dash(colour: str) -> Literal["solid"] | tuple[float, tuple[float, ...]]:
    """The line style of an outline."""
    return DASHES.get(colour, "solid")


def sheet_title(sheet: Sheet, text: str) -> None:
    """A line above the column titles, as small as the sheet's width wants."""
    left = SIDE_INCHES / sheet.figure.get_figwidth()
    place = left, 1 - 0.08 / sheet.height
    line = sheet.figure.text(
        *place, text, color=INK, fontsize=10, va="top", parse_math=False
    )
    fit_letters(line, (1 - 2 * left) * sheet.figure.bbox.width)


def footer(sheet: Sheet, text: str, outlines: dict[str, str] | None = None) -> None:
    """A note at the lower left, a legend of outline colours at the lower right.

    If the sheet is too narrow for both, the legend stands above the note, whose letters
    shrink if they have to.
    """
    left = SIDE_INCHES / sheet.figure.get_figwidth()
    place = left, 0.1 / sheet.height
    note = sheet.figure.text(*place, text, color=FAINT, fontsize=8, parse_math=False)
    fit_letters(note, (1 - 2 * left) * sheet.figure.bbox.width)
    if not outlines:
        return
    legend = sheet.figure.legend(
        handles=[
            Line2D([], [], color=colour, label=name, linestyle=_dash(colour))
            for name, colour in outlines.items()
        ],
        loc="lower right",
        bbox_to_anchor=(1 - left, 0.03 / sheet.height),
        ncols=len(outlines),
        frameon=False,
        fontsize=8,
        labelcolor=INK,
        borderaxespad=0.0,
        handlelength=1.4,
        columnspacing=1.2,
    )
    if note.get_window_extent().x1 > legend.get_window_extent().x0:
        note.set_y(0.05 / sheet.height)
        legend.set_bbox_to_anchor((1 - left, 0.15 / sheet.height))
