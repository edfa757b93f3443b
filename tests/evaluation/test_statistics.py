from itertools import product

import numpy as np
import pytest
from scipy import stats

from adn_jax.evaluation.summary import (
    bootstrap_interval,
    holm,
    interval_over_seeds,
    mean_of_seeds,
    signed_rank_p,
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


NAN = float("nan")


def test_an_interval_needs_five_cases():
    assert summarise(VALUES[:4])["ci95"] is None
    assert summarise(VALUES[:4])["std"] is not None
    assert summarise(VALUES[:5])["ci95"] is not None
    assert interval_over_seeds(VALUES[:8].reshape(2, 4)) is None
    assert interval_over_seeds(VALUES[:10].reshape(2, 5)) is not None


def test_mean_of_seeds_leaves_undefined_values_out():
    table = np.array([[0.2, NAN, NAN], [0.4, 0.5, NAN]])
    assert mean_of_seeds(table) == pytest.approx([0.3, 0.5, NAN], nan_ok=True)


def test_interval_of_one_seed_is_that_over_cases():
    ours = interval_over_seeds(VALUES[None])
    assert ours == bootstrap_interval(VALUES)
    assert interval_over_seeds(np.tile(VALUES, (3, 1))) == pytest.approx(ours, abs=4e-3)
    with_gap = np.append(VALUES, NAN)[None]
    assert interval_over_seeds(with_gap) == ours


def test_interval_over_seeds_equals_draws_one_by_one():
    rng = np.random.default_rng(1)
    table = rng.normal(size=(4, 12)) + 2 * rng.normal(size=(4, 1))
    table[1, 3] = NAN
    means = []
    for _ in range(4_000):
        seeds, cases = rng.integers(4, size=4), rng.integers(12, size=12)
        means.append(np.nanmean(table[np.ix_(seeds, cases)]))
    reference = np.percentile(means, [2.5, 97.5])
    assert interval_over_seeds(table) == pytest.approx(reference, abs=0.15)


def test_luck_of_whole_seeds_widens_the_interval():
    cases = np.random.default_rng(0).normal(0, 0.01, 50)
    low, high = interval_over_seeds(cases + np.array([[-0.1], [0.0], [0.1]]))
    assert high - low > 0.1


def test_intervals_mirror_and_need_two_cases():
    table = np.random.default_rng(2).normal(size=(3, 9))
    low, high = interval_over_seeds(table)
    assert interval_over_seeds(-table) == pytest.approx((-high, -low))
    assert interval_over_seeds(np.zeros((2, 5))) == (0.0, 0.0)
    assert interval_over_seeds(np.array([[0.3], [0.4]])) is None


def signed_rank_by_all_signs(differences):
    """The exact two-sided p: all signs of the ranks are equally likely; zeros are
    ranked, but have no sign."""
    ranks = stats.rankdata(abs(differences))[differences != 0]
    observed = abs((np.sign(differences[differences != 0]) * ranks).sum())
    sums = [abs(np.dot(signs, ranks)) for signs in product((-1, 1), repeat=len(ranks))]
    return np.mean(np.array(sums) >= observed)


def test_signed_rank_equals_all_sign_flips():
    differences = np.array([0.11, -0.02, 0.3, 0.07, 0.25, -0.05, 0.19, 0.4, 0.01])
    p = signed_rank_p(differences)
    assert p == pytest.approx(signed_rank_by_all_signs(differences))
    assert p == pytest.approx(stats.wilcoxon(differences).pvalue)
    assert p == signed_rank_p(-differences)
    assert p == signed_rank_p(np.append(differences, NAN))


def test_signed_rank_with_zero_differences():
    assert signed_rank_p(np.zeros(6)) == 1.0
    assert signed_rank_p(np.array([NAN])) is None
    with_zeros = np.array([0.1, 0.0, 0.2, 0.3, -0.15, 0.0, 0.4, 0.0, 0.5, 0.6])
    exact = signed_rank_by_all_signs(with_zeros)
    assert signed_rank_p(with_zeros) == pytest.approx(exact)
    balanced = np.array([-0.1, 0.1, 0.0, -0.2, 0.2])
    assert signed_rank_p(balanced) == pytest.approx(1.0)


def test_holm_equals_values_by_hand():
    assert holm([]) == []
    assert holm([0.03]) == [0.03]
    assert holm([0.04, 0.01, 0.03, 0.005]) == pytest.approx([0.06, 0.03, 0.06, 0.02])
    assert holm([0.6, 0.5, 0.9]) == [1.0, 1.0, 1.0]


def test_holm_keeps_the_order_and_lies_between_the_values_and_bonferroni():
    p_values = np.random.default_rng(5).uniform(size=14) ** 3
    corrected = np.array(holm(p_values.tolist()))
    assert np.all(np.diff(corrected[np.argsort(p_values)]) >= 0)
    assert np.all(corrected >= p_values)
    assert np.all(corrected <= np.minimum(14 * p_values, 1) + 1e-15)
