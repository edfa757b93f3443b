"""Summaries of one number per case, with a bootstrap interval."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float

RESAMPLES = 10_000
SEED = 0
Summary = dict[str, float | int | list[float] | None]


def summarise(values: Iterable[float]) -> Summary:
    """Mean, median, standard deviation, 95 % interval of the mean, and count.

    NaN marks a case where the number is not defined; it is left out of everything,
    `n` included. Fields that need more cases than there are become None: the standard
    deviation (of the sample, n - 1) and the interval need two.
    """
    known = defined(values)
    if not known.size:
        return {"mean": None, "median": None, "std": None, "ci95": None, "n": 0}
    several = known.size > 1
    return {
        "mean": float(known.mean()),
        "median": float(np.median(known)),
        "std": float(known.std(ddof=1)) if several else None,
        "ci95": list(bootstrap_interval(known)) if several else None,
        "n": int(known.size),
    }


def summarise_tail(values: Iterable[float]) -> Summary:
    """Mean, median, 95th percentile, largest value and count, for errors."""
    known = defined(values)
    if not known.size:
        return {"mean": None, "median": None, "p95": None, "max": None, "n": 0}
    return {
        "mean": float(known.mean()),
        "median": float(np.median(known)),
        "p95": float(np.percentile(known, 95)),
        "max": float(known.max()),
        "n": int(known.size),
    }


def bootstrap_interval(
    values: Float[np.ndarray, " n"], level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean: cases drawn anew with replacement.

    Same values, same interval: the draw is seeded.
    """
    generator = np.random.default_rng(SEED)
    draws = generator.integers(values.size, size=(RESAMPLES, values.size))
    tail = 100.0 * (1.0 - level) / 2.0
    low, high = np.percentile(values[draws].mean(axis=1), [tail, 100.0 - tail])
    return float(low), float(high)


def defined(values: Iterable[float]) -> Float[np.ndarray, " n"]:
    """The values that are not NaN."""
    array = np.fromiter(values, np.float64)
    return array[~np.isnan(array)]
