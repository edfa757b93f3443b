"""Whether a head is like those that a model was trained on, by a few plain measures.

A network answers for any input; what lies outside of all that it has seen (contrast
medium, a bleeding, a child, strong noise) is told by measures of the prepared volume
that a reader can check.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_erosion

from adn_jax.config import PrepareSettings
from adn_jax.config.serialization import settings_from_json
from adn_jax.data.cases import PreparedCase
from adn_jax.errors import UserError
from adn_jax.io.files import is_there, read_json, write_json
from adn_jax.io.paths import Place
from adn_jax.metrics.overlap import voxel_ml

KNOWN_HEADS = "heads.json"
"""In a run: the ranges of the heads it was trained on, where they were measured."""

BRIGHT_DEEP_HU = 55.0
"""Brighter than grey matter of any scanner: blood, contrast medium or calcium."""

INSIDE_MM = 6.0
"""Depth below the surface of the brain from which bone no longer brightens it."""

BEYOND_PERCENT = 0.25
"""Share of the known heads beyond either end of a range: the oddest are no measure."""

IN_WORDS = {
    "volume_ml": "the brain has {} mL",
    "dark_hu": "a twentieth of the brain is below {} HU",
    "median_hu": "half of the brain is below {} HU",
    "bright_hu": "a twentieth of the inner brain is above {} HU",
    "bright_ml": "in the inner brain {} mL are brighter than 55 HU",
    "noise_hu": "neighbouring voxels differ by noise of {} HU",
}
"""Every measure, as a flag says it."""


def measure_head(case: PreparedCase, settings: PrepareSettings) -> dict[str, float]:
    """The measures of a head on the grid of these settings, in mL and HU.

    Raises `UserError` if its brain is empty.
    """
    inside = case.brain > 0
    if not inside.any():
        raise UserError(f"{case.name} has no brain voxel; prepare it again.")
    low, high = settings.window_hu
    hu = low + (high - low) * case.volume
    of_voxel = voxel_ml(settings.spacing_mm)
    dark, median = np.percentile(hu[inside], (5, 50))
    deep = inside
    for axis, spacing in enumerate(settings.spacing_mm):
        line = np.ones([3 if axis == each else 1 for each in range(3)], bool)
        deep = binary_erosion(deep, line, max(round(INSIDE_MM / spacing), 1))
    both = inside[..., 1:] & inside[..., :-1]
    steps = np.abs(np.diff(hu, axis=2))[both]
    # the median of |N(0, s)| is 0.6745 s, and a difference has twice the variance
    noise = np.median(steps) / 0.6745 / np.sqrt(2) if steps.size else 0.0
    return {
        "volume_ml": float(inside.sum() * of_voxel),
        "dark_hu": float(dark),
        "median_hu": float(median),
        "bright_hu": float(np.percentile(hu[deep if deep.any() else inside], 95)),
        "bright_ml": float((hu[deep] > BRIGHT_DEEP_HU).sum() * of_voxel),
        "noise_hu": float(noise),
    }


@dataclass(frozen=True)
class KnownHeads:
    """The ranges of every measure over the heads that a model was trained on."""

    heads: int
    ranges: Mapping[str, tuple[float, float]]
    """Measure -> between what values nearly all of them lie (`BEYOND_PERCENT`)."""

    @classmethod
    def of(
        cls, cases: Iterable[PreparedCase], settings: PrepareSettings
    ) -> "KnownHeads":
        """Measure cases of one data set.

        Raises `UserError` if there is none, or a brain is empty.
        """
        found = [measure_head(case, settings) for case in cases]
        if not found:
            raise UserError(
                "there is no head to measure; give a prepared data set whose split "
                "'train' has cases."
            )
        ends = BEYOND_PERCENT, 100 - BEYOND_PERCENT
        ranges = {}
        for name in IN_WORDS:
            least, most = np.percentile([each[name] for each in found], ends)
            ranges[name] = (float(least), float(most))
        return cls(len(found), ranges)

    @classmethod
    def read(cls, run: Place) -> "KnownHeads | None":
        """Those noted in a run's folder; None if nobody measured them."""
        path = run / KNOWN_HEADS
        if not is_there(path):
            return None
        return settings_from_json(cls, read_json(path), str(path))

    def write(self, run: Place) -> None:
        """Note them in a run's folder."""
        write_json(
            run / KNOWN_HEADS, {"heads": self.heads, "ranges": dict(self.ranges)}
        )

    def flags(self, case: PreparedCase, settings: PrepareSettings) -> tuple[str, ...]:
        """A sentence for every measure of a head that is beyond the known ones."""
        found = measure_head(case, settings)
        stand = "head that stands" if self.heads == 1 else "heads that stand"
        return tuple(
            f"{IN_WORDS[name].format(_told(found[name]))}, unlike the {self.heads:,} "
            f"{stand} for what the model has learnt ({_told(least)} to {_told(most)}); "
            "take its result with caution"
            for name, (least, most) in self.ranges.items()
            if not least <= found[name] <= most
        )


def _told(value: float) -> str:
    """A measure with as many digits as anyone needs."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
