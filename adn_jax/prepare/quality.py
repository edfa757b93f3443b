"""What deserves a look in a prepared case: measures, a sentence for each odd one."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, UInt8
from scipy import ndimage

from adn_jax.io.image import Affine, Image, spacing_of, voxel_steps
from adn_jax.metrics.overlap import Mask, Spacing, volume_ml, voxel_ml
from adn_jax.prepare.resample import Grid, box_around, shrink
from adn_jax.prepare.skull_strip import RIM_MM
from adn_jax.scans.hounsfield import HuVolume

Quality = dict[str, Any]
"""Measures by name, which ends in the unit; fractions are from 0 to 1."""

NOISE_SMOOTHING_MM = 3.0
NOISE_SLICES = 16
DETAIL_MM = (0.0, 1.0, 1.0)
"""Bright and dark spots are looked for in voxels of this size (z y x)."""
METAL_MARGIN_MM = 10.0
LEAST_KEPT = 0.7
"""Fraction of an infarct's volume that its label on the prepared grid should have."""
MIRROR_WORKING_MM = (6.0, 4.0, 4.0)
"""Voxels are averaged to about this size (z y x) first: noise goes, sulci go."""
FEWEST_VOXELS = 100
MIRROR_WINDOW_HU = (0.0, 80.0)
SEARCH_STEPS = ((8.0, 6.0), (4.0, 3.0), (2.0, 1.5), (1.0, 0.75))
"""Degrees and mm by which the search walks around the best line so far."""
WALK = tuple((turn, shift) for turn in (-1, 0, 1) for shift in (-1, 0, 1))


@dataclass(frozen=True)
class Measure:
    """A number of `case.json`: column of the quality page and rule of a flag.

    Values below `low` or above `high` are odd: `flag` says so, with the value in it.
    `style` formats a value. `rare`: it has a column only if some case's value is odd.
    """

    title: str
    meaning: str
    flag: str = ""
    low: float = -inf
    high: float = inf
    style: str = ".1f"
    rare: bool = False

    def is_odd(self, value: float | int | None) -> bool:
        """Whether the value, if there is one, is out of the usual range as it is shown:
        no reader has to wonder at 50 in place of 20 to 50."""
        if value is None:
            return False
        return not self.low <= round(value, self.digits) <= self.high

    @property
    def digits(self) -> int:
        """Decimals of a value that are shown; 3 of 0.123 as 12.3%."""
        return int(self.style[1]) + 2 * self.style.endswith("%")

    def text(self, value: float | int | None) -> str:
        """A value in the style of its column; a dash if there is none."""
        return "–" if value is None else f"{value:z{self.style}}".replace("-", "−")

    @property
    def usual(self) -> str:
        """The usual range in words; empty if every value is."""
        low, high = (f"{end:{self.style}}" for end in (self.low, self.high))
        if self.low == -inf:
            return "" if self.high == inf else f"at most {high}"
        return f"at least {low}" if self.high == inf else f"{low} to {high}"


BRIGHT_HU, DARK_HU, METAL_HU = 90.0, -20.0, 2500.0
"""Above clotted blood; below CSF and its noise; above petrous bone."""

MEASURES = {
    "brain_ml": Measure(
        "brain mL",
        "Volume of the brain mask, CSF spaces and cerebellum included.",
        "the brain mask holds {:.0f} mL instead of 900 to 1900",
        low=900.0,
        high=1900.0,
        style=".0f",
    ),
    "slices": Measure("slices", "Number of slices.", style=".0f"),
    "slice_mm": Measure(
        "slice mm", "Distance of the slices.", "slices are {:.1f} mm apart", high=10.0
    ),
    "pixel_mm": Measure("pixel mm", "Voxel size in the slice.", style=".2f"),
    "brain_height_mm": Measure(
        "height mm", "Slices with brain, from foot to head.", style=".0f"
    ),
    "first_slice_cm2": Measure(
        "lowest cm²",
        "Area of the brain in the lowest slice: large where the scan starts in it.",
        "the scan starts inside the brain ({:.0f} cm² in its lowest slice)",
        high=20.0,
        style=".0f",
    ),
    "last_slice_cm2": Measure(
        "highest cm²",
        "Area of the brain in the highest slice: large where the scan ends in it.",
        "the scan ends inside the brain ({:.0f} cm² in its highest slice)",
        high=20.0,
        style=".0f",
    ),
    "brain_outside_grid": Measure(
        "off grid",
        "Share of the brain that lies outside the prepared grid.",
        "{:.1%} of the brain lies outside the prepared grid",
        high=0.001,
        style=".1%",
    ),
    "brain_hu": Measure(
        "brain HU",
        "Median in the mask.",
        "the brain's median is {:.0f} HU instead of 20 to 50: other units, contrast or "
        "an unusual protocol",
        low=20.0,
        high=50.0,
        style=".0f",
    ),
    "air_hu": Measure(
        "air HU",
        "First percentile of the whole scan: air is -1000.",
        "the darkest hundredth of the scan is {:.0f} HU instead of about -1000: no "
        "air, cut values or other units",
        high=-850.0,
        style=".0f",
    ),
    "noise_hu": Measure(
        "noise HU",
        "Robust standard deviation of what is finer than 3 mm in the slice.",
        "noise is {:.1f} HU: a low dose, thin slices or a sharp kernel",
        high=10.0,
    ),
    "asymmetry_hu": Measure(
        "halves differ HU",
        "Mean difference from the mirror image about the best mid-line in the slices.",
        "the halves differ by {:.1f} HU on average: a large lesion, a head tilted "
        "sideways or a mask that lacks a part",
        high=8.0,
    ),
    "bright_ml": Measure(
        "bright mL",
        f"Volume above {BRIGHT_HU:.0f} HU in the brain without its rim.",
        "{:.1f} mL inside the brain are above "
        f"{BRIGHT_HU:.0f} HU: contrast agent, bone in the mask or metal",
        high=5.0,
    ),
    "dark_ml": Measure(
        "dark mL",
        f"Volume below {DARK_HU:.0f} HU in the brain without its rim.",
        "{:.1f} mL inside the brain are below "
        f"{DARK_HU:.0f} HU: air, fat or streaks beside metal",
        high=2.0,
    ),
    "metal_ml": Measure(
        "metal mL",
        f"Volume above {METAL_HU:.0f} HU in the brain and 10 mm around.",
        "{:.2f} mL at the brain are above "
        f"{METAL_HU:.0f} HU: a clip, a coil or other metal",
        high=0.02,
        style=".2f",
    ),
    "registration_overlap": Measure(
        "atlas Dice",
        "Overlap of the registered atlas with the brain mask, 0 to 1.",
        "the registered atlas overlaps the brain with a Dice of {:.3f} only",
        low=0.9,
        style=".3f",
    ),
    "tissue_share": Measure(
        "tissue",
        "Share of the brain that the given maps call grey or white matter or CSF.",
        "the given maps label only {:.0%} of the brain",
        low=0.7,
        style=".0%",
        rare=True,
    ),
    "lesion_ml": Measure("infarct mL", "Volume of the labelled infarct."),
    "lesion_prepared_ml": Measure(
        "prepared mL", "Volume of the labelled infarct on the prepared grid."
    ),
    "infarct_share": Measure(
        "infarct in brain",
        "Share of the brain that is labelled infarct.",
        "{:.0%} of the brain is labelled infarct; the label may be a mask of the brain",
        high=0.4,
        style=".0%",
        rare=True,
    ),
    "lesion_outside_brain": Measure(
        "infarct off brain",
        "Share of the labelled infarct that lies outside the brain mask.",
        "{:.0%} of the infarct lies outside the brain mask",
        high=0.1,
        style=".0%",
    ),
}
"""The measures by their name in `case.json` and `quality.csv`, in the page's order."""


def flags_of(quality: Mapping[str, Any]) -> tuple[str, ...]:
    """A sentence for each measure that is out of its usual range."""
    flags = [
        measure.flag.format(quality[name])
        for name, measure in MEASURES.items()
        if name in quality and measure.is_odd(quality[name])
    ]
    native_ml = quality.get("lesion_ml", 0.0)
    kept_ml = quality.get("lesion_prepared_ml", native_ml)
    if native_ml > 0 and kept_ml == 0:
        flags.append("the labelled infarct is lost on the prepared grid")
    elif kept_ml < LEAST_KEPT * native_ml:
        kept = f"{kept_ml:.1f} of {native_ml:.1f} mL"
        flags.append(f"of the labelled infarct {kept} are on the prepared grid")
    return tuple(flags)


def measure_quality(
    hu: HuVolume, brain: UInt8[np.ndarray, "z y x"], affine: Affine, prepared: Grid
) -> Quality:
    """Measures of a stripped scan on its own grid, for a prepared grid."""
    inside = brain.astype(bool)
    spacing = spacing_of(affine)
    slice_mm = 1000 * voxel_ml(voxel_steps(affine)) / (spacing[1] * spacing[2])
    areas_cm2 = inside.sum(axis=(1, 2)) * spacing[1] * spacing[2] / 100
    box = box_around(inside, [int(np.ceil(METAL_MARGIN_MM / mm)) for mm in spacing])
    near, near_brain = hu[box].astype(np.float32, copy=False), inside[box]
    return {
        "brain_ml": volume_ml(inside, voxel_steps(affine)),
        "slices": int(inside.shape[0]),
        "slice_mm": round(slice_mm, 4),
        "pixel_mm": round(float(np.sqrt(spacing[1] * spacing[2])), 4),
        "brain_height_mm": float(np.count_nonzero(areas_cm2) * slice_mm),
        "first_slice_cm2": float(areas_cm2[0]),
        "last_slice_cm2": float(areas_cm2[-1]),
        "brain_outside_grid": fraction_outside(inside, affine, prepared),
        "brain_hu": float(np.median(near[near_brain])),
        "air_hu": float(np.percentile(hu[::2, ::4, ::4], 1)),
        "noise_hu": noise_hu(near, near_brain, spacing),
        "asymmetry_hu": mirror_residual_hu(near, near_brain, affine),
        **_measure_spots(near, near_brain, affine),
    }


def measure_lesion(
    native: Image | None, prepared: Mask | None, brain: Mask, prepared_voxel_ml: float
) -> Quality:
    """Volume of the labelled infarct, and how much of it lies outside the brain."""
    if native is None or prepared is None:
        return {}
    native_voxel_ml = voxel_ml(voxel_steps(native.affine))
    outside = float(np.mean(~brain[prepared])) if prepared.any() else 0.0
    return {
        "lesion_ml": float(np.count_nonzero(native.voxels) * native_voxel_ml),
        "lesion_prepared_ml": float(np.count_nonzero(prepared) * prepared_voxel_ml),
        "infarct_share": float(np.mean(prepared[brain])),
        "lesion_outside_brain": outside,
    }


def fraction_outside(inside: Mask, affine: Affine, grid: Grid) -> float:
    """Fraction of the brain that lies outside the prepared grid, at 1 mm."""
    every = [max(1, int(1 / size)) for size in spacing_of(affine)]
    counted = inside[tuple(slice(None, None, step) for step in every)]
    index = (np.argwhere(counted) * every)[:, ::-1]
    to_grid = np.linalg.inv(grid.affine) @ affine
    there = index @ to_grid[:3, :3].T + to_grid[:3, 3]
    within = (there >= -0.5) & (there <= np.array(grid.shape[::-1]) - 0.5)
    return float(1 - within.all(axis=1).mean())


def noise_hu(hu: HuVolume, brain: Mask, spacing_mm: Spacing) -> float | None:
    """Robust standard deviation of what is finer than 3 mm in the slice.

    From the median of the absolute value, so that the edges of sulci and ventricles
    weigh little. None if the mask is no wider than its rim.
    """
    filled = np.flatnonzero(brain.any(axis=(1, 2)))
    chosen = filled[np.linspace(0, len(filled) - 1, NOISE_SLICES).astype(int)]
    slices = np.clip(hu[np.unique(chosen)], -100, 200)
    sigma = (0.0, *(NOISE_SMOOTHING_MM / size for size in spacing_mm[1:]))
    fine = slices - ndimage.gaussian_filter(slices, sigma, truncate=2.5)
    core = ndimage.minimum_filter(
        brain[np.unique(chosen)], _window(RIM_MM, spacing_mm), mode="constant"
    )
    if not core.any():
        return None
    return float(1.4826 * np.median(np.abs(fine[core])))


def _measure_spots(hu: HuVolume, brain: Mask, affine: Affine) -> Quality:
    """Volume of what no plain brain has: contrast agent, air and streaks, metal."""
    small, small_affine = shrink(hu, affine, DETAIL_MM)
    mask = shrink(brain.astype(np.float32), affine, DETAIL_MM)[0] > 0.5
    grid = Grid(small.shape, small_affine)
    core = ndimage.minimum_filter(
        mask, _window(RIM_MM, grid.spacing_mm), mode="constant"
    )
    around = ndimage.maximum_filter(mask, _window(METAL_MARGIN_MM, grid.spacing_mm))
    return {
        "bright_ml": grid.voxel_ml * int(np.count_nonzero(small[core] > BRIGHT_HU)),
        "dark_ml": grid.voxel_ml * int(np.count_nonzero(small[core] < DARK_HU)),
        "metal_ml": grid.voxel_ml * int(np.count_nonzero(small[around] > METAL_HU)),
    }


def _window(radius_mm: float, spacing_mm: Spacing) -> tuple[int, ...]:
    """Voxels of a filter's window that reaches so far from its middle in the slice."""
    return 1, *(2 * round(radius_mm / size) + 1 for size in spacing_mm[1:])


def mirror_residual_hu(hu: HuVolume, brain: Mask, affine: Affine) -> float | None:
    """Mean |X - X'| in the brain, in HU, about the in-plane axis where it is least.

    X is the windowed scan, 0 outside the brain; X' its mirror image. The search starts
    from the long axis of the mask. Lesions, one-sided atrophy, a roll of the head and
    above all a mask that lacks a part make it larger. None for a mask of few voxels.
    """
    inside = np.where(brain, np.clip(hu, *MIRROR_WINDOW_HU), 0).astype(np.float32)
    small, grid = shrink(inside, affine, MIRROR_WORKING_MM)
    fraction = shrink(brain.astype(np.float32), affine, MIRROR_WORKING_MM)[0]
    step_mm = np.array(spacing_of(grid)[1:])
    core = fraction > 0.5
    if np.count_nonzero(core) < FEWEST_VOXELS:
        return None
    flat = fraction.sum(axis=0)
    centre = np.array(ndimage.center_of_mass(flat))

    def residual(angle_deg: float, shift_mm: float) -> float:
        """About a line turned from y to x, so far off the centre."""
        angle = np.radians(angle_deg)
        normal = np.array([-np.sin(angle), np.cos(angle)])  # y x, in mm
        mirror = np.eye(2) - 2 * np.outer(normal, normal)
        matrix, offset = np.eye(3), np.zeros(3)
        matrix[1:, 1:] = in_slice = mirror * step_mm / step_mm[:, None]
        shift = 2 * shift_mm * normal / step_mm
        offset[1:] = centre - in_slice @ centre + shift
        mirrored = ndimage.affine_transform(small, matrix, offset, order=1)
        return float(np.abs(small - mirrored)[core].mean())

    best = (long_axis_deg(flat, step_mm), 0.0)
    least = residual(*best)
    for degrees, mm in SEARCH_STEPS:
        start = best
        for turn, shift in WALK:
            line = (start[0] + turn * degrees, start[1] + shift * mm)
            if line != start and (found := residual(*line)) < least:
                least, best = found, line
    return least


def long_axis_deg(
    flat: Float32[np.ndarray, "y x"], step_mm: Float[np.ndarray, "2"]
) -> float:
    """Angle in degrees from y to the long axis of a mask's shadow, turning to x."""
    index = np.argwhere(flat > 0)
    spread = np.cov((index * step_mm).T, aweights=flat[flat > 0])
    y, x = np.linalg.eigh(spread)[1][:, -1]
    return float(np.degrees(np.arctan(x / y))) if abs(y) > 1e-9 else 90.0
