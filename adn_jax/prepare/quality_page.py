"""Quality of all cases of a prepared data set: a table, and a page with pictures."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from scipy import ndimage

from adn_jax.data.cases import CaseFacts
from adn_jax.data.manifest import Manifest
from adn_jax.io.files import atomic_path, write_text
from adn_jax.io.image import Affine
from adn_jax.io.paths import Place
from adn_jax.prepare.quality import MEASURES
from adn_jax.prepare.resample import box_around, shrink, spacing_of
from adn_jax.report.pages import page_environment
from adn_jax.report.tables import to_csv

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
        if any(name in case.quality for case in cases)
    }
    text = environment.get_template("quality.html").render(
        manifest=manifest,
        cases=sorted(cases, key=lambda case: (-len(case.flags), case.name)),
        columns=columns,
        flagged=sum(bool(case.flags) for case in cases),
    )
    write_text(path, text)


def write_contact_sheet(
    path: Path,
    hu: Float[np.ndarray, "z y x"],
    brain: UInt8[np.ndarray, "z y x"],
    affine: Affine,
) -> None:
    """Write a PNG of the slices, all or evenly chosen ones, the lowest first.

    The front is up and the patient's left on the image's right, as in all figures.
    """
    spacing = spacing_of(affine)
    rows = columns = slice(None)  # of skull and brain with a margin
    head = np.any((hu > BONE_HU) | (brain > 0), axis=0)
    if head.any():
        margins = [round(MARGIN_MM / size) for size in spacing[1:]]
        rows, columns = box_around(head, margins)
    part = (slice(None, None, -(-len(hu) // MOST_SLICES)), rows, columns)
    width = hu[0, rows, columns].shape[1]
    side = spacing[2] * max(1, -(-width * COLUMNS // WIDTH))
    grey, inside = (
        shrink(volume, affine, (0.0, side, side))[0][:, ::-1, ::-1]
        for volume in (np.clip(hu[part], *WINDOW_HU), brain[part])
    )
    inside = inside > 0.5
    low, high = WINDOW_HU
    shades = np.rint((grey - low) * ((GREYS - 1) / (high - low))).astype(np.uint8)
    shades[inside & ~ndimage.binary_erosion(inside, np.ones((1, 3, 3)))] = GREYS
    picture = Image.fromarray(tile(shades), mode="P")
    ramp = np.rint(np.linspace(0, 255, GREYS)).astype(np.uint8)
    picture.putpalette(np.repeat(ramp, 3).tobytes() + bytes(OUTLINE_RGB))
    with atomic_path(path) as temporary:
        picture.save(temporary, format="png", optimize=True)


def tile(slices: UInt8[np.ndarray, "z y x"]) -> UInt8[np.ndarray, "rows columns"]:
    """Slices side by side, in rows of `COLUMNS`."""
    missing = -len(slices) % COLUMNS
    filled = np.pad(slices, ((0, missing), (0, 0), (0, 0)))
    _, height, width = filled.shape
    rows = filled.reshape(-1, COLUMNS, height, width).transpose(0, 2, 1, 3)
    return rows.reshape(-1, COLUMNS * width)
