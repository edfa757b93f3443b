"""One page a scan for any browser, without network: CT, maps and lesions in three
planes (NiiVue).

The volumes lie in the page as NIfTI, so a page is as private as its scan.
"""

import gzip
import json
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import nibabel as nib
import numpy as np
from jaxtyping import Shaped
from matplotlib import colormaps
from matplotlib.colors import to_rgb
from scipy import ndimage

from adn_jax.inference.shown import IN_PLANE, ShownScan
from adn_jax.io.files import write_text
from adn_jax.io.image import SCANNER, Affine, spacing_of
from adn_jax.io.paths import Place
from adn_jax.prepare.resample import box_around, shift_origin
from adn_jax.report.pages import page_environment
from adn_jax.report.panels import LABEL, PREDICTION

OUTSIDE_HEAD_HU = -1024
"""Stands outside the head, where table and head rest are left out."""
EDGE_MM = 0.9
"""How wide the edges of masks are drawn, a pixel at least."""

WINDOWS_HU = {
    "Brain": (0.0, 80.0),
    "Stroke": (20.0, 60.0),
    "Narrow": (25.0, 45.0),
    "Subdural": (-50.0, 150.0),
    "Bone": (-800.0, 2000.0),
}
"""Shown ranges by name, in the order of their keys."""

Rgb = tuple[int, int, int]


def _ramp(name: str, low: float) -> tuple[Rgb, ...]:
    """Nine colours of one of matplotlib's maps, from a fraction of it to its end."""
    colours = 255 * colormaps[name](np.linspace(low, 1, 9))[:, :3]
    return tuple(tuple(one) for one in colours.round().astype(int).tolist())


@dataclass(frozen=True)
class Overlay:
    """How a map is drawn over the CT and what is said of it."""

    title: str
    meaning: str
    colours: tuple[Rgb, ...]
    low: float
    """From here it is drawn; what lies below is clear."""
    high: float = 1.0
    unit: str = ""
    digits: int = 2
    opacity: float = 0.7
    negative: tuple[Rgb, ...] = ()
    """Colours of -low to -high, if negative values are drawn."""
    is_mask: bool = False

    def for_script(self, name: str) -> dict[str, Any]:
        """What the page's script has to know of it."""
        chosen = ("low", "high", "unit", "digits", "opacity", "is_mask")
        return {
            "name": name,
            "title": self.title,
            "colours": _columns(self.colours),
            "negative": _columns(self.negative),
            **{item: getattr(self, item) for item in chosen},
        }

    @property
    def gradient(self) -> str:
        """Its colours from left to right, as CSS; of a mask its edge's."""
        if self.is_mask:
            return _css(self.colours[-1])
        colours = [*self.negative[::-1], *self.colours]
        return f"linear-gradient(to right, {', '.join(map(_css, colours))})"

    @property
    def ends(self) -> tuple[str, str]:
        """The values at both ends of its colours."""
        low = f"−{self.high:g}" if self.negative else f"{self.low:g}"
        return low, f"{self.high:g}"


def _columns(colours: Sequence[Rgb]) -> dict[str, list[int]]:
    """Colours as NiiVue takes a table: a list for each of R, G, B and A.

    It clears what lies below the lowest value only if A begins with 0, and takes every
    other A of an overlay for opaque.
    """
    if not colours:
        return {}
    columns = dict(zip("RGB", map(list, zip(*colours, strict=True)), strict=True))
    return {**columns, "A": [0, *[255] * (len(colours) - 1)]}


def _css(colour: Rgb) -> str:
    """A colour as CSS."""
    return f"rgb{colour}"


HEAT, LEAF = _ramp("inferno", 0.3), _ramp("viridis", 0.25)
IN_BITS = "entropy of the mean prediction, 0 to 1 bit"
DARKER = "how much darker a voxel is than its mirror voxel"
OF_D = "what the model takes for ischaemia: its output from 0 to 1, no HU"
REST = (
    "A − P, A as a fraction of the window: asymmetry that the model takes for normal; "
    "where P exceeds A it is below 0, or 0 if the model cuts it there; no HU"
)
FOUND = "where the probability reaches the threshold, outlined"
GIVEN = "the infarct by the data set's label, outlined"
ORANGE, BLUE = ((92, 46, 0), (255, 176, 64)), ((0, 44, 110), (96, 190, 255))


def _outline(title: str, meaning: str, colour: str) -> Overlay:
    """A mask, of whose values (`packed`) only its edge's is drawn."""
    red, green, blue = (round(255 * part) for part in to_rgb(colour))
    colours = ((red, green, blue), (red, green, blue))
    return Overlay(title, meaning, colours, 1.5, 2.0, opacity=1.0, is_mask=True)


def _in_hu(title: str, meaning: str) -> Overlay:
    """A map of HU by which voxels are darker."""
    return Overlay(title, meaning, HEAT, 3.0, 30.0, "HU", digits=0)


LAYERS = {
    "lesion": _outline("predicted infarct", FOUND, PREDICTION),
    "label": _outline("label", GIVEN, LABEL),
    "probability": Overlay("probability", "that a voxel is infarct", LEAF, 0.1),
    "asymmetry": _in_hu("asymmetry A", DARKER),
    "pathological": Overlay("pathological P", OF_D, HEAT, 0.05),
    "anatomical": Overlay("anatomical Q", REST, ORANGE, 0.05, 0.6, negative=BLUE),
    "uncertainty": Overlay("uncertainty", IN_BITS, LEAF, 0.1, 1.0, "bit"),
}
"""Maps over the CT, in the order of the page."""

PARTS_OF_A = {
    "pathological": _in_hu("pathological P", "the part of A by ischaemia"),
    "anatomical": _in_hu("anatomical Q", "the part of A by anatomy"),
}
"""P and Q where they add up to A."""

OF_MASKS = {
    "lesion": _outline("predicted infarct", "the mask as it was given", PREDICTION)
}
"""The lesion where no probability is known."""

SYNTHETIC_SCANS = {
    "anatomical": ("X̂ = X + Q", "the scan as the model that marks infarcts sees it"),
    "pathological": ("X̃ = X + P", "the scan with the infarct filled up"),
}
"""Scans that are made from a map: their title and meaning."""

MOST_VOXELS = 16_000_000
"""A larger head is shown in pixels twice as wide: browsers would load it for long."""


def write_viewer(path: Place, shown: ShownScan, still: bytes) -> None:
    """Write a scan's page, whole or not at all.

    Args:
        path: the page's file.
        shown: the scan and its maps.
        still: a picture of it (WebP) for browsers without WebGL2, and for paper.
    """
    write_text(path, viewer_page(shown, still))


def viewer_page(shown: ShownScan, still: bytes) -> str:
    """The page as HTML, with everything that it needs inside."""
    part, affine, start = head_alone(shown)
    styles = LAYERS | (PARTS_OF_A if shown.adds_up else {})
    styles |= {} if shown.has_probability else OF_MASKS
    layers = {name: layer for name, layer in styles.items() if name in part}
    windows = windows_of(shown)
    settings = {
        "slices": shown.slices[start:],
        # numbers of images may begin anywhere: then the last is no count
        "slice_count": max(shown.slices) if min(shown.slices) == 1 else None,
        "windows": list(windows.values()),
        "unit_hu": 1.0 if shown.adds_up else float(np.ptp(shown.window_hu)),
        "layers": [layer.for_script(name) for name, layer in layers.items()],
    }
    environment = page_environment("adn_jax.inference")
    return environment.get_template("viewer.html").render(
        shown=shown,
        layers=layers,
        synthetic={
            name: one for name, one in SYNTHETIC_SCANS.items() if name in layers
        },
        windows=windows,
        spacing_mm=spacing_of(affine),
        volumes={
            name: packed(one, affine, layers.get(name)) for name, one in part.items()
        },
        settings=json.dumps(settings).replace("<", "\\u003c"),
        still=b64encode(still).decode(),
        niivue=niivue(),
    )


@cache
def niivue() -> str:
    """NiiVue as one script, with the notices of all that is in it at its head."""
    return (files("adn_jax.inference") / "templates/niivue.js").read_text("ascii")


def windows_of(shown: ShownScan) -> dict[str, tuple[float, float]]:
    """The ranges by name; of a scan that was cut to a window those inside of it."""
    brightest = max(float(shown.hu.max()), shown.window_hu[1])
    fitting = {name: ends for name, ends in WINDOWS_HU.items() if ends[1] <= brightest}
    return fitting or {"Whole": shown.window_hu}


def head_alone(
    shown: ShownScan,
) -> tuple[dict[str, Shaped[np.ndarray, "z y x"]], Affine, int]:
    """The scan ("ct") and its maps cut to the head, their affine, and the first slice.

    Heads of more than `MOST_VOXELS` lose every second pixel, by means.
    """
    box = box_around(shown.head, 1)
    outside = ~shown.head[box]
    part: dict[str, Any] = {"ct": shown.hu[box].astype(np.float32)}
    part["ct"][outside] = OUTSIDE_HEAD_HU
    for name in LAYERS:
        if name in shown.volumes:
            part[name] = np.where(outside, np.float32(0), shown.volumes[name][box])
    affine = shift_origin(shown.affine, [one.start for one in box])
    while outside.size > MOST_VOXELS:
        outside = outside[:, ::2, ::2]
        part = {name: _halved(one, LAYERS.get(name)) for name, one in part.items()}
        affine = affine @ np.diag([2.0, 2.0, 1.0, 1.0])
        affine[:3, 3] += affine[:3, :2].sum(axis=1) / 4
    return part, affine, box[0].start


def _halved(
    volume: Shaped[np.ndarray, "z y x"], layer: Overlay | None
) -> Shaped[np.ndarray, "z y2 x2"]:
    """Every four pixels of a slice as one: their mean, or a mask's largest."""
    z, y, x = volume.shape
    even = np.pad(volume, ((0, 0), (0, y % 2), (0, x % 2)), mode="edge")
    blocks = even.reshape(z, (y + 1) // 2, 2, (x + 1) // 2, 2)
    return blocks.max((2, 4)) if layer and layer.is_mask else blocks.mean((2, 4))


def packed(
    volume: Shaped[np.ndarray, "z y x"], affine: Affine, layer: Overlay | None
) -> str:
    """A volume as base64 of gzipped NIfTI: the scan (no layer) in whole HU, masks as 1
    and at their edge 2, maps in 255 steps of their largest value."""
    if layer is None:
        whole = np.rint(volume).clip(OUTSIDE_HEAD_HU, np.iinfo(np.int16).max)
        return _nifti(whole.astype(np.int16), affine)
    if layer.is_mask:
        mask, pixel_mm = volume > 0, max(spacing_of(affine)[1:])
        inner = ndimage.binary_erosion(
            mask, IN_PLANE, max(1, round(EDGE_MM / pixel_mm)), border_value=1
        )
        return _nifti(mask + (mask & ~inner).astype(np.uint8), affine)
    top = max(float(np.abs(volume).max()), layer.high)
    zero = 128 if layer.negative else 0
    step = top / (255 - zero)
    steps = np.rint(volume / step + zero).clip(0, 255).astype(np.uint8)
    return _nifti(steps, affine, step, -zero * step)


def _nifti(
    voxels: Shaped[np.ndarray, "z y x"],
    affine: Affine,
    slope: float = 1.0,
    inter: float = 0.0,
) -> str:
    """Voxels, which stand for `slope` times them plus `inter`, in the page's form."""
    image = nib.Nifti1Image(voxels.transpose(2, 1, 0), affine)
    image.set_qform(affine, SCANNER)
    image.set_sform(affine, SCANNER)
    image.header.set_slope_inter(slope, inter)
    return b64encode(gzip.compress(image.to_bytes(), mtime=0)).decode()
