"""How often lesions that a model predicts are infarcts, measured on heads with labels.

On healthy heads a network mostly marks small lesions of which it is not sure. Volume
and mean probability of a lesion tell its positive predictive value (PPV), the fraction
of such lesions that touch an infarct, by logistic regression. Where infarcts are rarer
than among the measured heads, it is lower.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import expit

from adn_jax.config.serialization import settings_from_json
from adn_jax.io.files import is_there, read_json, write_json
from adn_jax.io.paths import Place

KNOWN_LESIONS = "lesions.json"
"""In a run: what was measured of its lesions."""

ENOUGH = 20
"""True lesions, false ones, and heads without infarct that it takes to tell."""

FALSE_HEADS = 0.09
"""In at most this fraction of the measured heads without infarct a lesion is left: of
others then hardly more than a tenth."""


class HeadLesions(NamedTuple):
    """The lesions predicted in one head."""

    volume_ml: Float[np.ndarray, " n"]
    probability: Float[np.ndarray, " n"]
    """Means over their voxels."""
    hit: Bool[np.ndarray, " n"]
    """Whether each shares a voxel with the label."""
    has_infarct: bool
    """Whether the label has any."""


@dataclass(frozen=True)
class KnownLesions:
    """PPV of a lesion, and from which PPV on one counts."""

    heads: int
    """Measured ones, and the lesions predicted in them."""
    lesions: int
    intercept: float
    """Of the log-odds, with their slopes."""
    per_log_ml: float
    per_probability: float
    least_ppv: float
    """Lesions below are left out."""

    @classmethod
    def of(cls, found: Sequence[HeadLesions]) -> "KnownLesions | None":
        """Learn it from heads; None if there are too few lesions of either kind.

        `least_ppv` leaves lesions in no more than `FALSE_HEADS` of the heads without
        infarct, and is 0 if there are too few of those.
        """
        if not found:
            return None
        from sklearn.linear_model import LogisticRegression  # takes a second to import

        volume, probability, hit = (
            np.concatenate([getattr(head, name) for head in found])
            for name in ("volume_ml", "probability", "hit")
        )
        if min(np.count_nonzero(hit), np.count_nonzero(~hit)) < ENOUGH:
            return None
        # C is so large that nothing is shrunk
        fitted = LogisticRegression(C=1e6, max_iter=1000).fit(
            np.stack([np.log(volume), probability], axis=1), hit
        )
        slopes = [float(slope) for slope in fitted.coef_[0]]
        known = cls(
            len(found), len(hit), float(fitted.intercept_[0]), *slopes, least_ppv=0.0
        )
        best = sorted(
            known.ppv(head.volume_ml, head.probability).max(initial=0.0)
            for head in found
            if not head.has_infarct
        )
        if len(best) < ENOUGH:
            return known
        first_left_out = best[-1 - int(FALSE_HEADS * len(best))]
        return replace(known, least_ppv=_just_above(first_left_out))

    @classmethod
    def read(cls, run: Place) -> "KnownLesions | None":
        """Those noted in a run's folder; None if nobody measured them."""
        path = run / KNOWN_LESIONS
        if not is_there(path):
            return None
        return settings_from_json(cls, read_json(path), str(path))

    def write(self, run: Place) -> None:
        """Note them in a run's folder."""
        write_json(run / KNOWN_LESIONS, asdict(self))

    def ppv(
        self,
        volume_ml: Float[np.ndarray, "*n"] | float,
        probability: Float[np.ndarray, "*n"] | float,
    ) -> Float[np.ndarray, "*n"] | np.floating:
        """PPV of lesions of some volumes (mL, above 0) and mean probabilities."""
        slopes = (
            self.per_log_ml * np.log(volume_ml) + self.per_probability * probability
        )
        return expit(self.intercept + slopes)


def _just_above(ppv: float) -> float:
    """The next of the thousandths."""
    return (math.floor(1000 * ppv) + 1) / 1000
