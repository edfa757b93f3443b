"""The figures of quality: what each says, its usual range, the flag of an odd value."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Any


@dataclass(frozen=True)
class Figure:
    """A figure of `case.json`: column of the quality page and rule of a flag.

    Values below `low` or above `high` are odd: `flag` says so, with the value in it.
    `style` formats a value.
    """

    title: str
    meaning: str
    flag: str = ""
    low: float = -inf
    high: float = inf
    style: str = ".1f"

    def is_odd(self, value: float | int | None) -> bool:
        """Whether the value, where there is one, is out of the usual range."""
        return value is not None and not self.low <= value <= self.high

    @property
    def usual(self) -> str:
        """The usual range in words; empty where every value is."""
        low, high = (f"{end:{self.style}}" for end in (self.low, self.high))
        if self.low == -inf:
            return "" if self.high == inf else f"at most {high}"
        return f"at least {low}" if self.high == inf else f"{low} to {high}"


BRIGHT_HU, DARK_HU, METAL_HU = 90.0, -20.0, 2500.0
"""Above clotted blood; below CSF and its noise; above petrous bone."""

FIGURES = {
    "brain_ml": Figure(
        "brain mL",
        "Volume of the brain mask, CSF spaces and cerebellum included.",
        "the brain mask holds {:.0f} mL instead of 900 to 1900",
        low=900.0,
        high=1900.0,
        style=".0f",
    ),
    "slices": Figure("slices", "Number of slices.", style=".0f"),
    "slice_mm": Figure(
        "slice mm",
        "Distance of the slices.",
        "slices are {:.1f} mm apart",
        high=10.0,
    ),
    "pixel_mm": Figure("pixel mm", "Voxel size in the slice.", style=".2f"),
    "brain_height_mm": Figure(
        "height mm", "Slices with brain, from foot to head.", style=".0f"
    ),
    "first_slice_cm2": Figure(
        "lowest cm²",
        "Area of the brain in the lowest slice: large where the scan starts in it.",
        "the scan starts inside the brain ({:.0f} cm² in its lowest slice)",
        high=20.0,
        style=".0f",
    ),
    "last_slice_cm2": Figure(
        "highest cm²",
        "Area of the brain in the highest slice: large where the scan ends in it.",
        "the scan ends inside the brain ({:.0f} cm² in its highest slice)",
        high=20.0,
        style=".0f",
    ),
    "brain_outside_grid": Figure(
        "off grid",
        "Share of the brain that lies outside the prepared grid.",
        "{:.1%} of the brain lies outside the prepared grid",
        high=0.001,
        style=".1%",
    ),
    "brain_hu": Figure(
        "brain HU",
        "Median in the mask.",
        "the brain's median is {:.0f} HU instead of 20 to 50: other units, contrast or "
        "an unusual protocol",
        low=20.0,
        high=50.0,
        style=".0f",
    ),
    "air_hu": Figure(
        "air HU",
        "First percentile of the whole scan: air is -1000.",
        "the darkest hundredth of the scan is {:.0f} HU instead of about -1000: no "
        "air, cut values or other units",
        high=-850.0,
        style=".0f",
    ),
    "noise_hu": Figure(
        "noise HU",
        "Robust standard deviation of what is finer than 3 mm in the slice.",
        "noise is {:.1f} HU: a low dose, thin slices or a sharp kernel",
        high=10.0,
    ),
    "asymmetry_hu": Figure(
        "halves differ HU",
        "Mean difference from the mirror image about the best mid-line in the slices.",
        "the halves differ by {:.1f} HU on average: a large lesion, a head tilted "
        "sideways or a mask that lacks a part",
        high=8.0,
    ),
    "bright_ml": Figure(
        "bright mL",
        f"Volume above {BRIGHT_HU:.0f} HU in the brain without its rim.",
        "{:.0f} mL inside the brain are above "
        f"{BRIGHT_HU:.0f} HU: contrast agent, bone in the mask or metal",
        high=5.0,
    ),
    "dark_ml": Figure(
        "dark mL",
        f"Volume below {DARK_HU:.0f} HU in the brain without its rim.",
        "{:.1f} mL inside the brain are below "
        f"{DARK_HU:.0f} HU: air, fat or streaks beside metal",
        high=2.0,
    ),
    "metal_ml": Figure(
        "metal mL",
        f"Volume above {METAL_HU:.0f} HU in the brain and 10 mm around.",
        "{:.2f} mL at the brain are above "
        f"{METAL_HU:.0f} HU: a clip, a coil or other metal",
        high=0.02,
        style=".2f",
    ),
    "registration_overlap": Figure(
        "atlas Dice",
        "Overlap of the registered atlas with the brain mask, 0 to 1.",
        "the registered atlas overlaps the brain with a Dice of {:.2f} only",
        low=0.9,
        style=".3f",
    ),
    "lesion_ml": Figure("infarct mL", "Volume of the labelled infarct."),
    "lesion_prepared_ml": Figure(
        "prepared mL", "Volume of the labelled infarct on the prepared grid."
    ),
    "lesion_outside_brain": Figure(
        "infarct off brain",
        "Share of the labelled infarct that lies outside the brain mask.",
        "{:.0%} of the infarct lies outside the brain mask",
        high=0.1,
        style=".0%",
    ),
}
"""The figures by their name in `case.json` and `quality.csv`, in the page's order."""


def flags_of(quality: Mapping[str, Any]) -> tuple[str, ...]:
    """A sentence for each figure that is out of its usual range."""
    return tuple(
        figure.flag.format(quality[name])
        for name, figure in FIGURES.items()
        if name in quality and figure.is_odd(quality[name])
    )
