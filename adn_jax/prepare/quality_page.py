"""One page over all cases of a prepared data set: what deserves a look comes first."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from scipy import ndimage

from adn_jax.data.cases import CaseFacts
from adn_jax.data.manifest import Manifest
from adn_jax.io.files import atomic_path, write_text
from adn_jax.io.paths import Place
from adn_jax.prepare.quality_table import FIGURES, Figure
from adn_jax.prepare.resample import box_around, shrink, spacing_of
from adn_jax.report.pages import page_environment

COLUMNS = 8

WIDTH = 1000
"""Pixels from left to right, at most."""

MOST_SLICES = 48

BONE_HU = 150.0

MARGIN_MM = 10.0
"""Shown around the skull."""

WINDOW_HU = (-20.0, 100.0)

GREYS = 64
"""Shades from black to white: more are not seen, and files stay small."""

OUTLINE_RGB = (255, 72, 66)


def write_quality_page(
    path: Place, manifest: Manifest, cases: Sequence[CaseFacts]
) -> None:
    """Write `quality.html`: failed and left-out cases, then a row a prepared case.

    The page needs no network and no server. The pictures stay in `quality/` beside it,
    and a browser reads one only when its row is near, so thousands of cases are light.
    """
    environment = page_environment("adn_jax.prepare")
    environment.filters["figure"] = format_figure
    columns = {
        name: figure
        for name, figure in FIGURES.items()
        if any(name in case.quality for case in cases)
    }
    text = environment.get_template("quality.html").render(
        manifest=manifest,
        cases=sorted(cases, key=lambda case: (-len(case.flags), case.name)),
        columns=columns,
        flagged=sum(bool(case.flags) for case in cases),
    )
    write_text(path, text)


def format_figure(value: float | int | None, figure: Figure) -> str:
    """A value in the style of its column; a dash where there is none."""
    return "–" if value is None else f"{value:{figure.style}}".replace("-", "−")


def write_mosaic(
    path: Path,
    hu: Float[np.ndarray, "z y x"],
    brain: UInt8[np.ndarray, "z y x"],
    affine: Float[np.ndarray, "4 4"],
) -> None:
    """Write a PNG of the slices, all or evenly chosen ones, the lowest first.

    The front is up and the patient's left on the image's right, as in all figures.
    """
    every = -(-len(hu) // MOST_SLICES)
    part = (slice(None, None, every), *_skull_box(hu, brain, affine))
    pixel = spacing_of(affine)[2]
    width = part[2].stop - part[2].start
    side = pixel * max(1, -(-width * COLUMNS // WIDTH))
    size = (0.0, side, side)
    grey = look(shrink(np.clip(hu[part], *WINDOW_HU), affine, size)[0])
    inside = look(shrink(brain[part], affine, size)[0]) > 0.5
    low, high = WINDOW_HU
    shades = np.rint((grey - low) * ((GREYS - 1) / (high - low))).astype(np.uint8)
    shades[inside & ~ndimage.binary_erosion(inside, np.ones((1, 3, 3)))] = GREYS
    picture = Image.fromarray(tile(shades), mode="P")
    ramp = np.rint(np.linspace(0, 255, GREYS)).astype(np.uint8)
    picture.putpalette(np.repeat(ramp, 3).tobytes() + bytes(OUTLINE_RGB))
    with atomic_path(path) as temporary:
        picture.save(temporary, format="png", optimize=True)


def _skull_box(
    hu: Float[np.ndarray, "z y x"],
    brain: UInt8[np.ndarray, "z y x"],
    affine: Float[np.ndarray, "4 4"],
) -> tuple[slice, ...]:
    """Rows and columns (y x) of skull and brain with a margin; all where none is."""
    shown = np.any((hu > BONE_HU) | (brain > 0), axis=0)
    if not shown.any():
        return slice(0, hu.shape[1]), slice(0, hu.shape[2])
    margins = [round(MARGIN_MM / size) for size in spacing_of(affine)[1:]]
    return box_around(shown, margins)


def look(volume: Float[np.ndarray, "z y x"]) -> Float[np.ndarray, "z y x"]:
    """Front up, the patient's left on the right."""
    return volume[:, ::-1, ::-1]


def tile(slices: UInt8[np.ndarray, "z y x"]) -> UInt8[np.ndarray, "rows columns"]:
    """Slices side by side, in rows of `COLUMNS`."""
    missing = -len(slices) % COLUMNS
    filled = np.pad(slices, ((0, missing), (0, 0), (0, 0)))
    _, height, width = filled.shape
    rows = filled.reshape(-1, COLUMNS, height, width).transpose(0, 2, 1, 3)
    return rows.reshape(-1, COLUMNS * width)
