from pathlib import Path

import pytest

from adn_jax.data.manifest import (
    Fold,
    check_splits,
    choose_splits,
    draw_splits,
    fold_splits,
    parse_fold,
)
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


def test_failed_cases_empty_no_drawn_split():
    for failed in (NAMES[:34], NAMES[3:37], NAMES[6:]):
        splits = choose_splits(None, NAMES, SOURCE, failed=failed)
        assert {name: len(cases) for name, cases in splits.items()} == {
            "train": 4,
            "validation": 1,
            "test": 1,
        }
        assert not {*sum(splits.values(), ())} & {*failed}


def test_failed_cases_leave_given_splits_and_validate_no_drawn_one():
    given = {"train": NAMES[:10], "test": NAMES[10:12]}
    splits = choose_splits(given, NAMES, SOURCE, failed=NAMES[:7])
    assert {name: len(cases) for name, cases in splits.items()} == {
        "train": 2,
        "validation": 1,
        "test": 2,
    }
    given["validation"] = NAMES[12:14]
    splits = choose_splits(given, NAMES, SOURCE, failed=NAMES[12:14])
    assert splits["validation"] == ()
    assert splits["train"] == tuple(NAMES[:10])


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


FOLDED = {"train": tuple(NAMES[:17]), "validation": tuple(NAMES[17:20])}
FOLDED["test"] = tuple(NAMES[20:25])


def test_folds_take_turns_in_validating():
    folds = [fold_splits(FOLDED, Fold(index, 5)) for index in range(5)]
    parts = [fold["validation"] for fold in folds]
    assert [len(part) for part in parts] == [4] * 5
    assert sorted(sum(parts, ())) == NAMES[:20]
    for fold in folds:
        assert sorted(fold["train"] + fold["validation"]) == NAMES[:20]
        assert fold["test"] == FOLDED["test"]


def test_a_fold_depends_on_the_names_alone():
    turned = {name: cases[::-1] for name, cases in FOLDED.items()}
    turned["train"], turned["validation"] = turned["validation"], turned["train"]
    one, other = (fold_splits(splits, Fold(1, 3)) for splits in (FOLDED, turned))
    assert one["train"] == other["train"]
    assert one["validation"] == other["validation"] == tuple(sorted(one["validation"]))


def test_uneven_parts_differ_by_one_case():
    sizes = [len(fold_splits(FOLDED, Fold(i, 3))["validation"]) for i in range(3)]
    assert sorted(sizes) == [6, 7, 7]


def test_a_fold_is_read_as_it_is_written():
    assert parse_fold("2/5") == Fold(2, 5)
    assert str(Fold(2, 5)) == "2/5"
    for text in ("5/5", "0/1", "1", "a/b", "-1/5", "0/5/2", ""):
        with pytest.raises(UserError, match="INDEX/COUNT"):
            parse_fold(text)


def test_more_folds_than_cases():
    with pytest.raises(UserError, match=r"fold is 0/21, but .* only 20 cases"):
        fold_splits(FOLDED, Fold(0, 21))
