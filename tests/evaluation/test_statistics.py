import numpy as np
import pytest
from scipy import stats

from adn_jax.evaluation.statistics import (
    bootstrap_interval,
    summarise,
    summarise_tail,
)

VALUES = np.random.default_rng(3).beta(5, 2, 40)


def test_summary_equals_numpy_and_leaves_nan_out():
    summary = summarise([*VALUES, float("nan")])
    assert summary["n"] == 40
    assert summary["mean"] == pytest.approx(np.mean(VALUES))
    assert summary["median"] == pytest.approx(np.median(VALUES))
    assert summary["std"] == pytest.approx(np.std(VALUES, ddof=1))
    low, high = summary["ci95"]
    assert low < summary["mean"] < high


def test_interval_equals_scipy_and_repeats():
    ours = bootstrap_interval(VALUES)
    assert ours == bootstrap_interval(VALUES)
    reference = stats.bootstrap(
        (VALUES,), np.mean, method="percentile", n_resamples=10_000, rng=1
    ).confidence_interval
    assert ours == pytest.approx((reference.low, reference.high), abs=4e-3)


def test_tail_summary():
    tail = summarise_tail(np.arange(101.0))
    assert tail == {"mean": 50.0, "median": 50.0, "p95": 95.0, "max": 100.0, "n": 101}


def test_too_few_cases_give_none_not_nan():
    none = {"mean": None, "median": None, "std": None, "ci95": None, "n": 0}
    assert summarise([]) == none
    assert summarise([float("nan")]) == none
    single = summarise([0.5])
    assert (single["mean"], single["std"], single["ci95"], single["n"]) == (
        0.5,
        None,
        None,
        1,
    )
    assert summarise_tail([])["p95"] is None
