import numpy as np
import pytest
from scipy import stats

from adn_jax.comparison.compare import (
    Estimate,
    Scores,
    SystemScores,
    by_size,
    compare,
    read_scores,
)
from adn_jax.comparison.table import differing_seeds
from tests.comparison.made_up import make_system

NAN = float("nan")


def scores_of(**tables):
    """Scores of systems of that name; HD95 is 50 (1 - Dice)."""
    cases = len(next(iter(tables.values()))[0])
    systems = [
        SystemScores(
            make_system(name),
            tuple(range(len(table))),
            {
                "dice": np.array(table, float),
                "hd95_mm": 50 * (1 - np.array(table, float)),
                "label_ml": np.ones((len(table), cases)),
            },
            ({},) * len(table),
        )
        for name, table in tables.items()
    ]
    names = tuple(f"c{i}" for i in range(cases))
    return Scores("prepared", names, np.geomspace(1, 100, cases), tuple(systems))


def test_numbers_equal_numpy_and_scipy(runs):
    scores = read_scores(runs, "test")
    unet, _, adn = compare(scores, "adn")
    mine, theirs = (scores.systems[i].tables["dice"] for i in (0, 2))
    assert adn.scores["dice"].mean == pytest.approx(theirs.mean())
    assert adn.scores["dice"].seeds_std == pytest.approx(
        theirs.mean(axis=1).std(ddof=1)
    )
    low, high = adn.scores["dice"].ci95
    assert low < theirs.mean() < high
    found = unet.differences["dice"]
    assert found.mean == pytest.approx((mine - theirs).mean())
    paired = (mine - theirs).mean(axis=0)
    assert found.p == pytest.approx(stats.wilcoxon(paired).pvalue)
    assert adn.differences == {}
    assert adn.scores["auroc"].cases == 12
    assert adn.scores["mass_share"].mean is None


def test_p_is_corrected_over_all_systems_and_scores(runs):
    rows = compare(read_scores(runs, "test"), "adn")
    found = [each for row in rows for each in row.differences.values()]
    assert len(found) == 4
    smallest = min(found, key=lambda each: each.p)
    assert smallest.p_holm == pytest.approx(min(1, 4 * smallest.p))
    assert all(each.p_holm >= each.p for each in found)


def test_identical_systems_do_not_differ():
    table = np.random.default_rng(0).uniform(size=(2, 10))
    other, _ = compare(scores_of(unet=table, adn=table), "adn")
    for each in other.differences.values():
        assert (each.mean, each.ci95, each.p, each.p_holm) == (0.0, (0.0, 0.0), 1, 1)


def test_differences_turn_round_with_the_reference():
    rng = np.random.default_rng(1)
    scores = scores_of(unet=rng.uniform(size=(3, 9)), adn=rng.uniform(size=(3, 9)))
    one = compare(scores, "adn")[0].differences["dice"]
    other = compare(scores, "unet")[1].differences["dice"]
    assert one.mean == pytest.approx(-other.mean)
    assert one.ci95 == pytest.approx((-other.ci95[1], -other.ci95[0]))
    assert one.p == pytest.approx(other.p)


def test_only_seeds_of_both_are_compared():
    scores = scores_of(unet=[[0.1] * 6], adn=[[0.4] * 6, [0.9] * 6])
    rows = compare(scores, "adn")
    found = rows[0].differences["dice"]
    assert found.mean == pytest.approx(-0.3)
    assert found.seeds == (0,)
    assert rows[0].flat()["difference_seeds"] == "0"
    assert differing_seeds(rows, "adn") == (
        "Differences are over shared seeds alone: 3D U-Net 0.",
    )
    assert rows[1].flat()["difference_seeds"] == ""


def test_nothing_is_said_of_seeds_that_all_share():
    rows = compare(scores_of(unet=[[0.1] * 6] * 2, adn=[[0.4] * 6] * 2), "adn")
    assert differing_seeds(rows, "adn") == ()


def test_without_the_reference_nothing_is_compared():
    rows = compare(scores_of(unet=[[0.1] * 6], sean=[[0.4] * 6]), "adn")
    assert [row.differences for row in rows] == [{}, {}]


def test_undefined_and_too_few_values():
    gap = Estimate.of(np.array([[0.5, NAN, 0.7]]))
    assert (gap.mean, gap.cases, gap.seeds_std) == (pytest.approx(0.6), 2, None)
    nothing = Estimate.of(np.empty((2, 0)))
    assert (nothing.mean, nothing.ci95, nothing.cases) == (None, None, 0)
    assert Estimate.of(np.array([[NAN, NAN]])).mean is None


def test_sizes_part_the_cases():
    found = by_size(np.array([0.0, 4.9, 5.0, 30.0, 30.1]))
    assert {
        name: np.flatnonzero(chosen).tolist() for name, chosen in found.items()
    } == {
        "small": [1],
        "medium": [2, 3],
        "large": [4],
    }
