"""Figures of one scan or of some: alignment, maps, predictions, uncertainty."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import ndimage

from adn_jax.inference.maps import CaseMaps, Map
from adn_jax.io.files import atomic_path
from adn_jax.io.paths import Place
from adn_jax.metrics.alignment import Plane
from adn_jax.metrics.overlap import Mask
from adn_jax.report.panels import (
    FAINT,
    LABEL,
    MIDLINE,
    PREDICTION,
    Box,
    caption,
    common_extent,
    corner_text,
    dark_sheet,
    draw_midline,
    draw_outline,
    draw_slice,
    footer,
    head_box,
    show_head,
    side_label,
)

DISPLAY_HU = (5.0, 60.0)
"""Shown range of CT panels."""

BRIGHT_PERCENTILE = 99.5
"""Percentile of a map inside the head that is drawn brightest."""

RIM_VOXELS = 2
"""Outermost voxels of a head without a say in it: misfits are largest there."""

UPRIGHT = Plane(np.array([1.0, 0.0, 0.0]), np.zeros(3))

CONVENTION = "Axial, front up, patient's left on the image's right."

UNITS = "Maps: black is 0 and below, brightest the value in the corner."

NOT_HU = "P: D's output, 0 to 1, not HU; Q and X̂ are made with it."

SHORT_TITLES = {
    "salient": "X̂ = X + Q",
    "compensated": "X̃ = X + P",
    "asymmetry": "A",
    "pathological": "P",
    "anatomical": "Q",
}

LONG_TITLES = {
    "volume": "scan I",
    "aligned": "aligned X",
    "asymmetry": "asymmetry A",
    "pathological": "pathological P",
    "anatomical": "anatomical Q",
    "salient": "X̂ = X + Q",
}

OUTLINES = {"label": LABEL, "prediction": PREDICTION}

IN_PLANE = np.ones((1, 3, 3), bool)

MAP_COLOURS = "inferno"

BAR = "#3b6ea5"

MEDIAN = "#c2410c"


def segmentation_figure(cases: Sequence[CaseMaps], captions: Sequence[str]) -> Figure:
    """Largest lesion slice of each case's X, plain above, outlined below (Fig. 3)."""
    boxes = [_aligned_box(maps) for maps in cases]
    extent = common_extent(boxes)
    sheet = dark_sheet(2, len(cases), extent, [], captions=True)
    for column, (maps, box) in enumerate(zip(cases, boxes, strict=True)):
        z = lesion_slice(maps)
        above, below = (panels[column] for panels in sheet.panels)
        for axes in (above, below):
            _draw_ct(axes, maps, maps.aligned, z)
            show_head(axes, box, extent, marks=column == 0)
        _draw_outlines(below, maps, z)
        caption(below, captions[column])
    footer(sheet, CONVENTION, _outlines_of(cases))
    return sheet.figure


def maps_figure(cases: Sequence[CaseMaps], names: Sequence[str]) -> Figure:
    """Every map of each case at its largest lesion slice (Fig. 4)."""
    boxes = [_aligned_box(maps) for maps in cases]
    extent = common_extent(boxes)
    shown = present(cases[0], SHORT_TITLES)
    titles = ["X", "label", "prediction", *shown.values()]
    sheet = dark_sheet(len(cases), len(titles), extent, titles, captions=False)
    for panels, maps, box, name in zip(sheet.panels, cases, boxes, names, strict=True):
        z = lesion_slice(maps)
        for axes in panels[:3]:
            _draw_ct(axes, maps, maps.aligned, z)
        outline(panels[1], maps, maps.aligned_lesion, z, LABEL)
        outline(panels[2], maps, maps.aligned_predicted, z, PREDICTION)
        _draw_volumes(dict(zip(shown, panels[3:], strict=True)), maps, z)
        for axes in panels:
            show_head(axes, box, extent, marks=axes is panels[0])
        side_label(panels[0], name)
    footer(sheet, f"{CONVENTION} {UNITS} {_note_on(cases[0])}")
    return sheet.figure


def overview_figure(maps: CaseMaps) -> Figure:
    """One case from scan to prediction in one row, for the README."""
    titles = {**present(maps, LONG_TITLES), "prediction": "prediction"}
    if maps.plane is None:
        del titles["aligned"]
    scan_box, box = head_box(maps.volume, maps.spacing_mm[1:]), _aligned_box(maps)
    extent = common_extent([scan_box, box])
    sheet = dark_sheet(1, len(titles), extent, list(titles.values()), captions=False)
    panels = dict(zip(titles, sheet.panels[0], strict=True))
    z = lesion_slice(maps)
    _draw_volumes({k: v for k, v in panels.items() if k != "prediction"}, maps, z)
    _draw_ct(panels["prediction"], maps, maps.aligned, z)
    _draw_outlines(panels["prediction"], maps, z)
    if maps.plane:
        draw_midline(panels["volume"], maps.plane, height_mm(maps, z))
        draw_midline(panels["aligned"], UPRIGHT, 0.0)
    for column, (name, axes) in enumerate(panels.items()):
        scan = name == "volume"
        show_head(axes, scan_box if scan else box, extent, marks=column == 0)
    note = f"{CONVENTION} {_note_on(maps)}"
    footer(sheet, note, {**_midline_of(maps), **_outlines_of([maps])})
    return sheet.figure


def alignment_figure(cases: Sequence[CaseMaps], captions: Sequence[str]) -> Figure:
    """Scans with the mid-line found (above) and turned upright (below)."""
    scan_boxes = [head_box(maps.volume, maps.spacing_mm[1:]) for maps in cases]
    boxes = [_aligned_box(maps) for maps in cases]
    extent = common_extent([*scan_boxes, *boxes])
    sheet = dark_sheet(2, len(cases), extent, [], captions=True)
    for column, maps in enumerate(cases):
        z = lesion_slice(maps)
        above, below = (panels[column] for panels in sheet.panels)
        _draw_ct(above, maps, maps.volume, z)
        if maps.plane is not None:
            draw_midline(above, maps.plane, height_mm(maps, z))
        show_head(above, scan_boxes[column], extent, marks=column == 0)
        _draw_ct(below, maps, maps.aligned, z)
        draw_midline(below, UPRIGHT, 0.0)
        show_head(below, boxes[column], extent, marks=column == 0)
        caption(below, captions[column])
    for panels, name in zip(sheet.panels, ["scan I", "aligned X"], strict=True):
        side_label(panels[0], name)
    footer(sheet, CONVENTION, {"mid-line": MIDLINE})
    return sheet.figure


def scan_figure(maps: CaseMaps, slices: int = 7) -> Figure:
    """A scan slice by slice: X with mid-line and prediction, A, and P where there is
    one."""
    levels = spread_slices(maps, slices)
    box = _aligned_box(maps)
    extent = common_extent([box])
    shown = present(maps, {"asymmetry": "A", "pathological": "P"})
    if maps.midline_missed:
        shown = {}
    titles = [f"{height_mm(maps, z):+.0f} mm" for z in levels]
    sheet = dark_sheet(1 + len(shown), len(levels), extent, titles, captions=False)
    tops = _brightest_values(maps, levels)
    for column, z in enumerate(levels):
        above, *below = (panels[column] for panels in sheet.panels)
        _draw_ct(above, maps, maps.aligned, z)
        if maps.plane:
            draw_midline(above, UPRIGHT, 0.0)
        outline(above, maps, maps.aligned_predicted, z, PREDICTION)
        for axes, name in zip(below, shown, strict=True):
            _draw_map(axes, maps, getattr(maps, name), z, tops[name])
        for axes in (above, *below):
            show_head(axes, box, extent, marks=column == 0)
    names = ["aligned X" if maps.plane else "scan"]
    if maps.midline_missed:
        names = ["X, no mid-line found"]
    for name, title in shown.items():
        names.append(f"{title}, to {unit_of(maps, name, tops)}")
    for panels, name in zip(sheet.panels, names, strict=True):
        side_label(panels[0], name)
    note = f"{CONVENTION} {_note_on(maps)}"
    footer(sheet, note, {**_midline_of(maps), "prediction": PREDICTION})
    return sheet.figure


def doubt_figure(
    cases: Sequence[CaseMaps], entropies: Sequence[Map], captions: Sequence[str]
) -> Figure:
    """Largest lesion slice of each scan I: plain, outlined, and its doubt."""
    boxes = [head_box(maps.volume, maps.spacing_mm[1:]) for maps in cases]
    extent = common_extent(boxes)
    sheet = dark_sheet(3, len(cases), extent, [], captions=True)
    for column, (maps, entropy) in enumerate(zip(cases, entropies, strict=True)):
        z = _most_filled(maps, entropy)
        plain, outlined, doubtful = panels = [row[column] for row in sheet.panels]
        for axes in (plain, outlined):
            _draw_ct(axes, maps, maps.volume, z)
        outline(outlined, maps, maps.lesion, z, LABEL)
        outline(outlined, maps, maps.predicted, z, PREDICTION)
        _draw_doubt(doubtful, maps, entropy, z)
        for axes in panels:
            show_head(axes, boxes[column], extent, marks=column == 0)
        caption(doubtful, captions[column])
    names = ["scan I", "label, prediction", "doubt, to 1 bit"]
    for row, name in zip(sheet.panels, names, strict=True):
        side_label(row[0], name)
    footer(sheet, CONVENTION, _outlines_of(cases))
    return sheet.figure


def lesion_slice(maps: CaseMaps) -> int:
    """Slice with the largest lesion on X's grid: the label's, else the prediction's,
    else the one with most asymmetry."""
    if maps.aligned_lesion is not None and maps.aligned_lesion.any():
        weight = maps.aligned_lesion
    elif maps.aligned_predicted.any():
        weight = maps.aligned_predicted
    else:
        weight = maps.asymmetry
    return int(np.argmax(weight.sum(axis=(1, 2))))


def spread_slices(maps: CaseMaps, count: int) -> list[int]:
    """Evenly spread slices of the head, one of them the lesion slice."""
    filled = (maps.aligned > 0).mean(axis=(1, 2))
    inside = np.flatnonzero(filled >= 0.25 * filled.max())
    count = min(count, inside.size)
    levels = inside[np.linspace(0, inside.size - 1, count).round().astype(int)]
    if maps.aligned_predicted.any():
        chosen = lesion_slice(maps)
        levels[np.argmin(abs(levels - chosen))] = chosen
    return levels.tolist()


def _draw_ct(axes: Axes, maps: CaseMaps, volume: Map, z: int) -> None:
    """A slice of a scan in the shown range of HU."""
    low = maps.window_hu[0]
    limits = [(hu - low) / _window_width(maps) for hu in DISPLAY_HU]
    draw_slice(axes, volume[z], maps.spacing_mm[1:], (limits[0], limits[1]))


def _draw_volumes(panels: Mapping[str, Axes], maps: CaseMaps, z: int) -> None:
    """A slice of each named volume: scans as CT, A, P and Q as maps."""
    tops = _brightest_values(maps, [z])
    for name, axes in panels.items():
        volume = getattr(maps, name)
        if name in tops:
            _draw_map(axes, maps, volume, z, tops[name], unit_of(maps, name, tops))
        else:
            _draw_ct(axes, maps, volume, z)


def _draw_map(
    axes: Axes, maps: CaseMaps, volume: Map, z: int, top: float, note: str = ""
) -> None:
    """A slice of an asymmetry map, black at 0 and below, brightest at `top`."""
    draw_slice(axes, volume[z], maps.spacing_mm[1:], (0.0, top), MAP_COLOURS)
    corner_text(axes, note, 0.97, "right")


def _brightest_values(maps: CaseMaps, levels: Sequence[int]) -> dict[str, float]:
    """Brightest value drawn of A, P and Q, as far as there are: A and Q share a scale,
    P has its own; a P far below A stays dark."""
    asymmetry = brightest(maps, maps.asymmetry[list(levels)], levels)
    tops = {"asymmetry": asymmetry}
    if maps.pathological is not None:
        own = brightest(maps, maps.pathological[list(levels)], levels)
        tops |= {"pathological": max(own, asymmetry), "anatomical": asymmetry}
    return tops


def unit_of(maps: CaseMaps, name: str, tops: Mapping[str, float]) -> str:
    """The brightest value: of A in HU; P, a sigmoid map, and Q = A - P have no unit."""
    if name == "asymmetry":
        return f"{tops[name] * _window_width(maps):.0f} HU"
    return f"{tops[name]:.2g}"


def _note_on(maps: CaseMaps) -> str:
    """What the numbers of D's maps are, where there are any."""
    return "" if maps.pathological is None else NOT_HU


def present(maps: CaseMaps, titles: Mapping[str, str]) -> dict[str, str]:
    """Those of the named volumes that the system has, with their titles."""
    return {
        name: title for name, title in titles.items() if getattr(maps, name) is not None
    }


def brightest(maps: CaseMaps, volume: Map, levels: Sequence[int]) -> float:
    """The value drawn brightest: a high percentile of the map inside the head."""
    head = maps.aligned[list(levels)] > 0
    core = ndimage.binary_erosion(head, IN_PLANE, iterations=RIM_VOXELS)
    inside = volume[core if core.any() else head]
    if not inside.size:
        return 1.0
    return max(float(np.percentile(inside, BRIGHT_PERCENTILE)), 1e-3)


def _draw_outlines(axes: Axes, maps: CaseMaps, z: int) -> None:
    """Label and prediction on X's grid."""
    outline(axes, maps, maps.aligned_lesion, z, LABEL)
    outline(axes, maps, maps.aligned_predicted, z, PREDICTION)


def outline(axes: Axes, maps: CaseMaps, mask: Mask | None, z: int, colour: str) -> None:
    """One outlined mask, where there is one."""
    if mask is not None:
        draw_outline(axes, mask[z], maps.spacing_mm[1:], colour)


def _outlines_of(cases: Sequence[CaseMaps]) -> dict[str, str]:
    """The legend: without the label where no case has one."""
    labelled = any(maps.aligned_lesion is not None for maps in cases)
    return OUTLINES if labelled else {"prediction": PREDICTION}


def _midline_of(maps: CaseMaps) -> dict[str, str]:
    """The mid-line's entry in the legend, where one was looked for."""
    return {"mid-line": MIDLINE} if maps.plane else {}


def _aligned_box(maps: CaseMaps) -> Box:
    """The head on X's grid, centred on the mid-line."""
    box = head_box(maps.aligned, maps.spacing_mm[1:])
    reach = np.abs(box[:, 0]).max()
    return np.array([[-reach, box[0, 1]], [reach, box[1, 1]]])


def height_mm(maps: CaseMaps, z: int) -> float:
    """Height of a slice above the grid's centre."""
    return (z - (maps.volume.shape[0] - 1) / 2) * maps.spacing_mm[0]


def _window_width(maps: CaseMaps) -> float:
    """HU that one unit of a prepared volume or map stands for."""
    return maps.window_hu[1] - maps.window_hu[0]


def save_figure(figure: Figure, path: Place) -> None:
    """Write a figure, whole or not at all."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, facecolor=figure.get_facecolor())


def _draw_doubt(axes: Axes, maps: CaseMaps, entropy: Map, z: int) -> None:
    """Doubt inside the brain, which is outlined as the label is.

    It is drawn to 1 bit in all cases: the most that a yes or no can have.
    """
    brain = maps.volume > 0
    inside = np.where(brain[z], entropy[z], np.float32(0))
    draw_slice(axes, inside, maps.spacing_mm[1:], (0.0, 1.0), MAP_COLOURS)
    outline(axes, maps, brain, z, FAINT)
    outline(axes, maps, maps.lesion, z, LABEL)


def _most_filled(maps: CaseMaps, entropy: Map) -> int:
    """Slice of I with the largest label, else prediction, else the most doubt."""
    weights = [maps.lesion, maps.predicted, entropy]
    chosen = next(
        (weight for weight in weights if weight is not None and weight.any()), entropy
    )
    return int(np.argmax(chosen.sum(axis=(1, 2))))
