"""Quality of all cases of a prepared data set: a table, and a page with pictures."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float32, Shaped, UInt8
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from adn_jax.data.cases import CaseFacts
from adn_jax.data.manifest import Manifest
from adn_jax.io.files import atomic_path, write_text
from adn_jax.io.image import Affine, spacing_of
from adn_jax.io.paths import Place
from adn_jax.prepare.quality import MEASURES
from adn_jax.prepare.resample import box_around, shrink
from adn_jax.report.pages import page_environment
from adn_jax.report.tables import to_csv
from adn_jax.scans.hounsfield import BONE_HU

COLUMNS = 8
WIDTH = 1000
"""Pixels from left to right, at most."""
MOST_SLICES = 48
SHOWN_MARGIN_MM = 10.0
"""Shown around the skull."""
SHOWN_WINDOW_HU = (-20.0, 100.0)
LEAST_MARKED = 40
"""Pixels from left to right of a slice that has room for letters."""
GREYS = 64
"""Shades from black to white: more are not seen, and files stay small."""
BRAIN, LABELLED, MARKS = range(GREYS, GREYS + 3)
MARK_COLOURS = ((63, 210, 255), (255, 90, 82), (255, 226, 122))
"""RGB of the brain's edge, of the label's, and of letters."""


def write_quality_table(path: Place, cases: Sequence[CaseFacts]) -> None:
    """Write `quality.csv`: a row a case, its measures and its flags."""
    measures = dict.fromkeys(name for case in cases for name in case.quality)
    rows = [
        {
            "case": case.name,
            **{name: case.quality.get(name) for name in measures},
            "flags": "; ".join(case.flags),
        }
        for case in cases
    ]
    write_text(path, to_csv(rows))


def write_quality_page(
    path: Place, manifest: Manifest, cases: Sequence[CaseFacts]
) -> None:
    """Write `quality.html`: failed and left-out cases, then a row a prepared case.

    The page needs no network and no server. The pictures stay in `quality/` beside it,
    and a browser reads one only when its row is near, so thousands of cases are light.
    """
    environment = page_environment("adn_jax.prepare")
    columns = {
        name: measure
        for name, measure in MEASURES.items()
        if any(
            name in case.quality
            and (not measure.rare or measure.is_odd(case.quality[name]))
            for case in cases
        )
    }
    text = environment.get_template("quality.html").render(
        manifest=manifest,
        cases=sorted(cases, key=lambda case: (-len(case.flags), case.name)),
        columns=columns,
        flagged=sum(bool(case.flags) for case in cases),
        window=[f"{hu:.0f}" for hu in SHOWN_WINDOW_HU],
    )
    write_text(path, text)


def write_contact_sheet(
    path: Path,
    hu: Float[np.ndarray, "z y x"],
    brain: UInt8[np.ndarray, "z y x"],
    affine: Affine,
    lesion: Shaped[np.ndarray, "z y x"] | None = None,
) -> None:
    """Write a PNG of the slices, all or evenly chosen ones, the lowest first.

    The front is up and the patient's left on the image's right, as in all figures.
    `lesion` is not 0 in the label.
    """
    spacing = spacing_of(affine)
    rows = columns = slice(None)  # of skull and brain with a margin
    head = np.any((hu > BONE_HU) | (brain > 0), axis=0)
    if head.any():
        margins = [round(SHOWN_MARGIN_MM / size) for size in spacing[1:]]
        rows, columns = box_around(head, margins)
    every = -(-len(hu) // MOST_SLICES)
    part = (slice(None, None, every), rows, columns)
    width = hu[0, rows, columns].shape[1]
    side = spacing[2] * max(1, -(-width * COLUMNS // WIDTH))

    def shrunk(volume: Shaped[np.ndarray, "z y x"]) -> Float32[np.ndarray, "z2 y2 x2"]:
        """The part of a volume in the picture's pixels, as it is seen."""
        return shrink(volume[part], affine, (0.0, side, side))[0][:, ::-1, ::-1]

    low, high = SHOWN_WINDOW_HU
    grey = shrunk(np.clip(hu, low, high))
    shades = np.rint((grey - low) * ((GREYS - 1) / (high - low))).astype(np.uint8)
    shades[_edge(shrunk(brain) > 0.5)] = BRAIN
    if lesion is not None:
        label = shrunk((lesion > 0).astype(np.float32)) > 0.5
        shades[_edge(label)] = LABELLED
    picture = Image.fromarray(tile(shades), mode="P")
    ramp = np.repeat(np.rint(np.linspace(0, 255, GREYS)).astype(np.uint8), 3)
    picture.putpalette(ramp.tolist() + [part for rgb in MARK_COLOURS for part in rgb])
    _write_marks(picture, range(1, len(hu) + 1, every), shades.shape[1:], side)
    with atomic_path(path) as temporary:
        picture.save(temporary, format="png", optimize=True)


def _edge(mask: Bool[np.ndarray, "z y x"]) -> Bool[np.ndarray, "z y x"]:
    """The outermost pixels of a mask in each slice."""
    return mask & ~ndimage.binary_erosion(mask, np.ones((1, 3, 3)))


def _write_marks(
    picture: Image.Image, numbers: Sequence[int], shape: tuple[int, int], side_mm: float
) -> None:
    """Number, R and L of each tile of a `shape`, and 50 mm as a bar in the first;
    nothing where these would cover the head."""
    draw, (height, width) = ImageDraw.Draw(picture), shape
    if width < LEAST_MARKED:
        return
    font = ImageFont.load_default(max(8, width // 11))
    write = partial(draw.text, fill=MARKS, font=font, stroke_width=1, stroke_fill=0)
    for place, number in enumerate(numbers):
        x, y = place % COLUMNS * width, place // COLUMNS * height
        write((x + 2, y + 1), f"{number}", anchor="lt")
        write((x + 2, y + height - 2), "R", anchor="lb")
        write((x + width - 2, y + height - 2), "L", anchor="rb")
    end = width // 2 + round(25 / side_mm)
    line = [(end - round(50 / side_mm), height - 4), (end, height - 4)]
    draw.line(line, fill=MARKS, width=2)


def tile(slices: UInt8[np.ndarray, "z y x"]) -> UInt8[np.ndarray, "rows columns"]:
    """Slices side by side, in rows of `COLUMNS`."""
    missing = -len(slices) % COLUMNS
    filled = np.pad(slices, ((0, missing), (0, 0), (0, 0)))
    _, height, width = filled.shape
    rows = filled.reshape(-1, COLUMNS, height, width).transpose(0, 2, 1, 3)
    return rows.reshape(-1, COLUMNS * width)
