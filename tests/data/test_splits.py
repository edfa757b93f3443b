from pathlib import Path

import pytest

from adn_jax.data.splits import check_splits, choose_splits, draw_splits
from adn_jax.errors import UserError

NAMES = [f"case{index:03}" for index in range(40)]


SOURCE = Path("splits.json")


def test_drawn_splits_share_every_case_once():
    splits = draw_splits(NAMES, seed=0)
    assert {name: len(cases) for name, cases in splits.items()} == {
        "train": 28,
        "validation": 4,
        "test": 8,
    }
    assert sorted(sum(splits.values(), ())) == NAMES


def test_the_draw_depends_on_seed_and_names_only():
    assert draw_splits(NAMES, 1) == draw_splits(NAMES[::-1], 1)
    assert draw_splits(NAMES, 1) != draw_splits(NAMES, 2)


@pytest.mark.parametrize(
    ("count", "sizes"),
    [(0, (0, 0, 0)), (1, (1, 0, 0)), (2, (1, 1, 0)), (3, (1, 1, 1)), (5, (3, 1, 1))],
)
def test_small_data_sets(count, sizes):
    splits = draw_splits(NAMES[:count], 0)
    assert tuple(len(splits[name]) for name in ("train", "validation", "test")) == sizes


def test_given_splits_are_taken():
    given = {"train": NAMES[:3], "validation": NAMES[3:4], "test": NAMES[4:5]}
    assert choose_splits(given, NAMES, SOURCE) == {
        k: tuple(v) for k, v in given.items()
    }


def test_validation_is_drawn_from_training_cases():
    given = {"train": NAMES[:30], "test": NAMES[30:]}
    splits = choose_splits(given, NAMES, SOURCE)
    assert splits["test"] == tuple(NAMES[30:])
    assert len(splits["validation"]) == 3
    assert sorted(splits["train"] + splits["validation"]) == NAMES[:30]


def test_a_test_set_alone_stays_alone():
    assert choose_splits({"test": NAMES}, NAMES, SOURCE) == {
        "train": (),
        "validation": (),
        "test": tuple(NAMES),
    }


def test_none_given_draws():
    assert choose_splits(None, NAMES, SOURCE, seed=3) == draw_splits(NAMES, 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (["case000"], "is no table of case names"),
        ({"train": "case000"}, "is no table of case names"),
        ({"train": [1]}, "is no table of case names"),
        ({"trial": ["case000"]}, "a split named 'trial'; use train, validation, test"),
        ({"train": ["nobody"]}, "names 'nobody', which is no case folder"),
        ({"train": ["case000"], "test": ["case000"]}, "names 'case000' twice"),
    ],
)
def test_wrong_splits(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        check_splits(content, NAMES, tmp_path / "splits.json")
