"""Summaries of one number per case, bootstrap intervals, and paired comparisons.

A table of one score has a row for each seed (a trained model) and a column for each
case; NaN marks a case where the score is not defined.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float
from scipy import stats

SeedsByCases = Float[np.ndarray, "seeds cases"]

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


def mean_of_seeds(values: SeedsByCases) -> Float[np.ndarray, " cases"]:
    """Mean over the seeds of each case; NaN where no seed has a value."""
    known = ~np.isnan(values)
    count = known.sum(axis=0)
    total = np.where(known, values, 0.0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def interval_over_seeds(
    values: SeedsByCases, level: float = 0.95
) -> tuple[float, float] | None:
    """Percentile bootstrap interval of the mean over seeds and cases; None: one case.

    Cases and seeds are both drawn anew with replacement, each of them whole (the
    pigeonhole bootstrap, Owen 2007): the luck of a seed moves all of its cases, so
    that seeds drawn for each case on its own would make the interval too narrow.
    """
    values = values[:, ~np.isnan(values).all(axis=0)]
    seeds, cases = values.shape
    if cases < 2:
        return None
    generator = np.random.default_rng(SEED)
    by_case = generator.multinomial(cases, np.full(cases, 1 / cases), RESAMPLES)
    by_seed = generator.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES)
    known = ~np.isnan(values)
    total, count = (
        np.einsum("rs,sc,rc->r", by_seed, table, by_case, optimize=True)
        for table in (np.where(known, values, 0.0), known.astype(float))
    )
    tail = 100.0 * (1.0 - level) / 2.0
    means = total[count > 0] / count[count > 0]
    low, high = np.percentile(means, [tail, 100.0 - tail])
    return float(low), float(high)


def signed_rank_p(differences: Float[np.ndarray, " cases"]) -> float | None:
    """Two-sided p of the paired Wilcoxon signed-rank test; None without a case.

    Zero differences take part in the ranking (Pratt 1959); where all are zero, p is 1.
    """
    known = defined(differences)
    if not known.size:
        return None
    if not known.any():
        return 1.0
    return float(stats.wilcoxon(known, zero_method="pratt").pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """p values of several tests, corrected for their number (Holm 1979).

    The smallest is multiplied by the number of tests, the next by one less, and so on;
    none becomes smaller than the one before it, or larger than 1.
    """
    order = np.argsort(p_values)
    factors = np.arange(len(p_values), 0, -1)
    stepped = np.maximum.accumulate(np.asarray(p_values, float)[order] * factors)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(stepped, 1.0)
    return corrected.tolist()
