"""Figures of one scan or of some: alignment, maps, predictions, uncertainty."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import ndimage

from adn_jax.errors import counted
from adn_jax.inference.maps import CaseMaps, Map
from adn_jax.inference.shown import ShownScan
from adn_jax.io.files import atomic_path
from adn_jax.io.paths import Place
from adn_jax.metrics.alignment import Plane, on_grid
from adn_jax.metrics.overlap import Mask
from adn_jax.report.pages import format_ml
from adn_jax.report.panels import (
    FAINT,
    LABEL,
    MIDLINE,
    PREDICTION,
    SIGNED,
    BoundingBox,
    Extent,
    Sheet,
    caption,
    common_extent,
    corner_text,
    dark_sheet,
    draw_midline,
    draw_outline,
    draw_slice,
    footer,
    head_box,
    scale_bar,
    sheet_title,
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
DISPLAYED = f"{CONVENTION} CT {DISPLAY_HU[0]:.0f} to {DISPLAY_HU[1]:.0f} HU."
MAP_SCALE = "Maps: black is 0, brightest the value in the corner."
NOT_HU = "P: 0 to 1, not HU; Q, blue below 0, and X̂ are made with it."

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

SCAN_HU = (0.0, 80.0)
"""Shown range of whole scans."""
MAP_TITLES = {"asymmetry": "A", "pathological": "P"}
NAMED_LESIONS = 4
"""Lesions that a figure names one by one."""
PREDICTED = {"prediction": PREDICTION}
MAP_COLOURS = "inferno"
BAR = "#3b6ea5"
MEDIAN = "#c2410c"


@dataclass(frozen=True)
class CaseArtist:
    """Draws slices of one case into panels."""

    maps: CaseMaps

    @property
    def scan_box(self) -> BoundingBox:
        """The head on I's grid."""
        return head_box(self.maps.volume, self.maps.spacing_mm[1:])

    @property
    def aligned_box(self) -> BoundingBox:
        """The head on X's grid, centred on the mid-line."""
        box = head_box(self.maps.aligned, self.maps.spacing_mm[1:])
        reach = np.abs(box[:, 0]).max()
        return np.array([[-reach, box[0, 1]], [reach, box[1, 1]]])

    @property
    def note(self) -> str:
        """What the numbers of D's maps are, if any are drawn."""
        drawn = self.maps.plane is not None and self.maps.pathological is not None
        return NOT_HU if drawn and not self.maps.adds_up else ""

    @property
    def midline_legend(self) -> dict[str, str]:
        """The mid-line's entry in the legend, if one was looked for."""
        return {"mid-line": MIDLINE} if self.maps.plane else {}

    def present(self, titles: Mapping[str, str]) -> dict[str, str]:
        """Those of the named volumes that the system has, with their titles."""
        has = (name for name in titles if getattr(self.maps, name) is not None)
        return {name: titles[name] for name in has}

    def ct(self, axes: Axes, volume: Map, z: int) -> None:
        """A slice of a scan in the shown range of HU."""
        low, width = self.maps.window_hu[0], self.maps.window_width_hu
        darkest, brightest = ((hu - low) / width for hu in DISPLAY_HU)
        draw_slice(axes, volume[z], self.maps.spacing_mm[1:], (darkest, brightest))

    def asymmetry(
        self, axes: Axes, volume: Map, z: int, top: float, note: str = ""
    ) -> None:
        """A slice of an asymmetry map, black at 0 and below, brightest at `top`."""
        limits, spacing = (0.0, top), self.maps.spacing_mm[1:]
        draw_slice(axes, volume[z], spacing, limits, MAP_COLOURS)
        corner_text(axes, note, 0.97, "right")

    def signed(self, axes: Axes, volume: Map, z: int, top: float, note: str) -> None:
        """A slice of a map of both signs, blue at `-top` and orange at `top`."""
        draw_slice(axes, volume[z], self.maps.spacing_mm[1:], (-top, top), SIGNED)
        corner_text(axes, note, 0.97, "right")

    def volumes(self, panels: Mapping[str, Axes], z: int) -> None:
        """A slice of each named volume: scans as CT, A, P and Q as maps."""
        tops = self.brightest_values([z])
        for name, axes in panels.items():
            volume = getattr(self.maps, name)
            if name not in tops:
                self.ct(axes, volume, z)
                continue
            draw = self.signed if self.has_signs(name) else self.asymmetry
            draw(axes, volume, z, tops[name], self.top_in_words(name, tops))

    def has_signs(self, name: str) -> bool:
        """Whether a map goes below 0: Q does unless it is a part of A."""
        return name == "anatomical" and not self.maps.adds_up

    def outline(self, axes: Axes, mask: Mask | None, z: int, colour: str) -> None:
        """One outlined mask, if there is one."""
        if mask is not None:
            draw_outline(axes, mask[z], self.maps.spacing_mm[1:], colour)

    def aligned_outlines(self, axes: Axes, z: int) -> None:
        """Label and prediction on X's grid."""
        self.outline(axes, self.maps.aligned_lesion, z, LABEL)
        self.outline(axes, self.maps.aligned_predicted, z, PREDICTION)

    def uncertainty(self, axes: Axes, entropy: Map, z: int) -> None:
        """Uncertainty inside the brain, which is outlined as the label is.

        It is drawn to 1 bit in all cases: the most that a yes or no can have.
        """
        brain = self.maps.volume > 0
        inside = np.where(brain, entropy, np.float32(0))
        self.asymmetry(axes, inside, z, 1.0)
        self.outline(axes, brain, z, FAINT)
        self.outline(axes, self.maps.lesion, z, LABEL)

    def brightest_values(self, levels: Sequence[int]) -> dict[str, float]:
        """Brightest value drawn of A, P and Q, as far as there are: A and Q share a
        scale, P has its own; a P far below A stays dark."""
        chosen = list(levels)
        asymmetry = self.brightest(self.maps.asymmetry[chosen], levels)
        tops = {"asymmetry": asymmetry}
        if self.maps.pathological is not None:
            own = self.brightest(self.maps.pathological[chosen], levels)
            tops |= {"pathological": max(own, asymmetry), "anatomical": asymmetry}
        return tops

    def brightest(self, volume: Map, levels: Sequence[int]) -> float:
        """The value drawn brightest: a high percentile of the map inside the head."""
        head = self.maps.aligned[list(levels)] > 0
        in_plane = np.ones((1, 3, 3), bool)
        core = ndimage.binary_erosion(head, in_plane, iterations=RIM_VOXELS)
        inside = volume[core if core.any() else head]
        if not inside.size:
            return 1.0
        return max(float(np.percentile(inside, BRIGHT_PERCENTILE)), 1e-3)

    def top_in_words(self, name: str, tops: Mapping[str, float]) -> str:
        """The brightest value: A in HU, P and Q too if they are parts of it; else they
        have no unit."""
        if name == "asymmetry" or self.maps.adds_up:
            return f"{tops[name] * self.maps.window_width_hu:.0f} HU"
        return f"{'±' * self.has_signs(name)}{tops[name]:.2g}"


def segmentation_figure(cases: Sequence[CaseMaps], captions: Sequence[str]) -> Figure:
    """Largest lesion slice of each case's X, plain above, outlined below (Fig. 3)."""
    artists = [CaseArtist(maps) for maps in cases]
    boxes = [artist.aligned_box for artist in artists]
    extent = common_extent(boxes)
    sheet = dark_sheet(2, len(cases), extent, [], captions=True)
    for artist, panels in zip(artists, zip(*sheet.panels, strict=True), strict=True):
        z = artist.maps.lesion_slice
        for axes in panels:
            artist.ct(axes, artist.maps.aligned, z)
        artist.aligned_outlines(panels[1], z)
    _finish_sheet(sheet, [boxes, boxes], extent, captions=captions)
    footer(sheet, DISPLAYED, _outlines_of(cases))
    return sheet.figure


def maps_figure(cases: Sequence[CaseMaps], names: Sequence[str]) -> Figure:
    """Every map of each case at its largest lesion slice (Fig. 4)."""
    artists = [CaseArtist(maps) for maps in cases]
    shown = artists[0].present(SHORT_TITLES)
    titles = ["X", "label", "prediction", *shown.values()]
    boxes = [[artist.aligned_box] * len(titles) for artist in artists]
    extent = common_extent([row[0] for row in boxes])
    sheet = dark_sheet(len(cases), len(titles), extent, titles, captions=False)
    for artist, panels in zip(artists, sheet.panels, strict=True):
        maps, z = artist.maps, artist.maps.lesion_slice
        for axes in panels[:3]:
            artist.ct(axes, maps.aligned, z)
        artist.outline(panels[1], maps.aligned_lesion, z, LABEL)
        artist.outline(panels[2], maps.aligned_predicted, z, PREDICTION)
        artist.volumes(dict(zip(shown, panels[3:], strict=True)), z)
    _finish_sheet(sheet, boxes, extent, names)
    footer(sheet, f"{DISPLAYED} {MAP_SCALE} {artists[0].note}")
    return sheet.figure


def overview_figure(maps: CaseMaps) -> Figure:
    """One case from scan to prediction in one row, for the README."""
    artist, z = CaseArtist(maps), maps.lesion_slice
    named = LONG_TITLES if maps.plane else {"volume": LONG_TITLES["volume"]}
    titles = {**artist.present(named), "prediction": "prediction"}
    boxes = [artist.scan_box, *[artist.aligned_box] * (len(titles) - 1)]
    extent = common_extent(boxes)
    sheet = dark_sheet(1, len(titles), extent, list(titles.values()), captions=False)
    panels = dict(zip(titles, sheet.panels[0], strict=True))
    artist.volumes({k: v for k, v in panels.items() if k != "prediction"}, z)
    artist.ct(panels["prediction"], maps.aligned, z)
    artist.aligned_outlines(panels["prediction"], z)
    if maps.plane:
        draw_midline(panels["volume"], maps.plane, maps.height_mm(z))
        draw_midline(panels["aligned"], UPRIGHT, 0.0)
    _finish_sheet(sheet, [boxes], extent)
    legend = {**artist.midline_legend, **_outlines_of([maps])}
    footer(sheet, f"{DISPLAYED} {artist.note}", legend)
    return sheet.figure


def alignment_figure(cases: Sequence[CaseMaps], captions: Sequence[str]) -> Figure:
    """Scans with the mid-line found (above) and turned upright (below)."""
    artists = [CaseArtist(maps) for maps in cases]
    scan_boxes = [artist.scan_box for artist in artists]
    boxes = [artist.aligned_box for artist in artists]
    extent = common_extent([*scan_boxes, *boxes])
    sheet = dark_sheet(2, len(cases), extent, [], captions=True)
    for artist, above, below in zip(artists, *sheet.panels, strict=True):
        maps, z = artist.maps, artist.maps.lesion_slice
        artist.ct(above, maps.volume, z)
        if maps.plane is not None:
            draw_midline(above, maps.plane, maps.height_mm(z))
        artist.ct(below, maps.aligned, z)
        draw_midline(below, UPRIGHT, 0.0)
    _finish_sheet(sheet, [scan_boxes, boxes], extent, ["scan I", "aligned X"], captions)
    footer(sheet, DISPLAYED, {"mid-line": MIDLINE})
    return sheet.figure


def scan_figure(shown: ShownScan, slices: int = 8) -> Figure:
    """A scan slice by slice on its own grid: plain, outlined, A, and P if there is one.

    The slices are evenly spread over the brain, one through the largest lesion.
    """
    levels, spacing = shown.levels(slices), shown.spacing_mm[1:]
    maps = {name: MAP_TITLES[name] for name in MAP_TITLES if name in shown.volumes}
    tops = {name: _brightest(shown, name, levels) for name in maps}
    names = ["CT", "prediction", *maps.values()]
    box = head_box(shown.head, spacing)
    extent = common_extent([box])
    titles = [_slice_name(shown, z) for z in levels]
    sheet = dark_sheet(len(names), len(levels), extent, titles, False, headed=True)
    for z, plain, outlined, *below in zip(levels, *sheet.panels, strict=True):
        for axes in (plain, outlined):
            draw_slice(axes, shown.hu[z], spacing, SCAN_HU)
        _draw_found(outlined, shown, z)
        for axes, name in zip(below, maps, strict=True):
            volume = shown.volumes[name][z]
            draw_slice(axes, volume, spacing, (0.0, tops[name]), MAP_COLOURS)
    for panels, name in zip(sheet.panels, names, strict=True):
        side_label(panels[0], name)
        for axes in panels:
            show_head(axes, box, extent, marks=True)
    scale_bar(sheet.panels[0][0])
    sheet_title(sheet, _found_in_words(shown))
    footer(sheet, _scales_in_words(shown, tops), _outlines_of_scan(shown))
    return sheet.figure


def _draw_found(axes: Axes, shown: ShownScan, z: int) -> None:
    """Mid-line, label and prediction on a slice."""
    spacing = shown.spacing_mm[1:]
    if shown.midline is not None:
        plane = on_grid(shown.midline, shown.affine, shown.hu.shape)
        height = (z - (len(shown.hu) - 1) / 2) * shown.spacing_mm[0]
        draw_midline(axes, plane, height)
    for name, colour in (("label", LABEL), ("lesion", PREDICTION)):
        if name in shown.volumes:
            draw_outline(axes, shown.volumes[name][z] > 0, spacing, colour)


def _brightest(shown: ShownScan, name: str, levels: Sequence[int]) -> float:
    """The value of a map drawn brightest: 1 of P unless it is HU, a high percentile of
    A where it is not 0."""
    if name == "pathological" and not shown.adds_up:
        return 1.0
    values = shown.volumes["asymmetry"][list(levels)]
    values = values[values > 0]
    return float(np.percentile(values, BRIGHT_PERCENTILE)) if values.size else 1.0


def _slice_name(shown: ShownScan, z: int) -> str:
    """The number of a slice, and its height in the scanner at the middle."""
    middle = (np.array(shown.hu.shape[:0:-1]) - 1) / 2
    height = float((shown.affine @ [*middle, z, 1.0])[2])
    about, up = "≈ " * shown.straightened, "S" if height >= 0 else "I"
    return f"slice {about}{shown.slices[z]}, {up} {abs(height):.0f} mm"


def _found_in_words(shown: ShownScan) -> str:
    """Name, lesions and purpose in a line."""
    lesions = [
        f"{format_ml(one.volume_ml)} mL" + (f" {one.side}" if one.side else "")
        for one in shown.lesions
    ]
    more = len(lesions) - NAMED_LESIONS
    found = ", ".join(lesions[:NAMED_LESIONS])
    found += f" and {more} more" if more > 0 else ""
    infarct = f"predicted infarct {found}" if lesions else "no infarct predicted"
    rules = [f"threshold {shown.threshold:.2f}"] if shown.has_probability else []
    if shown.left_out_ml:
        rules.append(f"left out as too small or doubtful to count: {shown.left_out}")
    by = f" ({', '.join(rules)})" if rules else ""
    said = f"{shown.name}: {infarct}{by}. For research; not for diagnosis."
    if shown.flags:
        said += f" {counted(len(shown.flags), 'flag')}."
    return said


def _scales_in_words(shown: ShownScan, tops: Mapping[str, float]) -> str:
    """What the panels show, and from which value to which."""
    low, high = (f"{hu:.0f}" for hu in SCAN_HU)
    scales = [f"CT {low} to {high} HU"]
    for name, top in tops.items():
        is_hu = name == "asymmetry" or shown.adds_up
        words = f"0 to {top:.0f} HU" if is_hu else "0 to 1, not HU"
        scales.append(f"{name[0].upper()} {words}")
    return f"{CONVENTION} {'; '.join(scales)}. Slices {shown.counted}."


def _outlines_of_scan(shown: ShownScan) -> dict[str, str]:
    """The legend: what is drawn on the slices."""
    midline = {"mid-line": MIDLINE} if shown.midline else {}
    label = {"label": LABEL} if "label" in shown.volumes else {}
    return {**midline, **label, **PREDICTED}


def uncertainty_figure(
    cases: Sequence[CaseMaps], entropies: Sequence[Map], captions: Sequence[str]
) -> Figure:
    """Largest lesion slice of each scan I: plain, outlined, and its uncertainty."""
    artists = [CaseArtist(maps) for maps in cases]
    boxes = [artist.scan_box for artist in artists]
    extent = common_extent(boxes)
    sheet = dark_sheet(3, len(cases), extent, [], captions=True)
    columns = zip(artists, entropies, *sheet.panels, strict=True)
    for artist, entropy, plain, outlined, uncertain in columns:
        maps = artist.maps
        weights = (maps.lesion, maps.predicted, entropy)
        filled = [one for one in weights if one is not None and one.any()]
        z = int(np.argmax((filled or [entropy])[0].sum(axis=(1, 2))))
        for axes in (plain, outlined):
            artist.ct(axes, maps.volume, z)
        artist.outline(outlined, maps.lesion, z, LABEL)
        artist.outline(outlined, maps.predicted, z, PREDICTION)
        artist.uncertainty(uncertain, entropy, z)
    names = ["scan I", "label, prediction", "uncertainty, to 1 bit"]
    _finish_sheet(sheet, [boxes] * 3, extent, names, captions)
    footer(sheet, DISPLAYED, _outlines_of(cases))
    return sheet.figure


def _finish_sheet(
    sheet: Sheet,
    boxes: Sequence[Sequence[BoundingBox]],
    extent: Extent,
    names: Sequence[str] = (),
    captions: Sequence[str] = (),
) -> None:
    """Cut each panel to its head, and write the names of rows and captions of columns.

    `boxes` are the heads' row by row. R and L stand in the first column.
    """
    for panels, row in zip(sheet.panels, boxes, strict=True):
        for axes, box in zip(panels, row, strict=True):
            show_head(axes, box, extent, marks=axes is panels[0])
    for panels, name in zip(sheet.panels, names, strict=False):
        side_label(panels[0], name)
    for axes, text in zip(sheet.panels[-1], captions, strict=False):
        caption(axes, text)


def _outlines_of(cases: Sequence[CaseMaps]) -> dict[str, str]:
    """The legend: without the label if no case has one."""
    labelled = any(maps.aligned_lesion is not None for maps in cases)
    return {"label": LABEL, **PREDICTED} if labelled else PREDICTED


def as_webp(figure: Figure, width: int = 1400) -> bytes:
    """A figure as a small picture for a page, `width` pixels wide."""
    buffer = BytesIO()
    dots = width / figure.get_figwidth()
    figure.savefig(
        buffer,
        format="webp",
        dpi=dots,
        facecolor=figure.get_facecolor(),
        pil_kwargs={"quality": 82},
    )
    return buffer.getvalue()


def save_figure(figure: Figure, path: Place) -> None:
    """Write a figure, whole or not at all."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, facecolor=figure.get_facecolor())
