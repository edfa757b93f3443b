from dataclasses import replace
from pathlib import Path

import pytest

from adn_jax.comparison.work import (
    Shard,
    check_same_data,
    find_trained_t,
    plan_runs,
    read_shard,
    runs_of_shard,
)
from adn_jax.config import AlignmentSettings
from adn_jax.errors import UserError
from adn_jax.training.runs import Run
from tests.comparison.made_up import make_system

SYSTEMS = [make_system(name) for name in ("unet", "sean", "adn")]


def names(runs):
    return [run.name for run in runs]


def finish_t(run):
    Run.create(run.folder, run.recipe).mark_finished("align", {"best_step": 2})


def test_runs_are_every_system_with_every_seed():
    runs = plan_runs(SYSTEMS[:2], (0, 7), Path("runs"))
    assert names(runs) == ["unet-seed0", "sean-seed0", "unet-seed7", "sean-seed7"]
    assert runs[3].folder == Path("runs/sean-seed7")
    assert runs[3].recipe == replace(SYSTEMS[1].recipe, seed=7)


@pytest.mark.parametrize(
    ("systems", "seeds", "said"),
    [
        ([SYSTEMS[0]] * 2, (0,), "the system 'unet' is given twice"),
        (SYSTEMS, (1, 1), "the seed 1 is given twice"),
        ([], (0,), "no system is given"),
        (SYSTEMS, (), "no seed is given"),
    ],
)
def test_doublets_and_nothing_are_refused(systems, seeds, said):
    with pytest.raises(UserError, match=said):
        plan_runs(systems, seeds, Path("runs"))


@pytest.mark.parametrize("count", range(1, 12))
def test_shards_are_disjoint_and_complete(count):
    runs = plan_runs(SYSTEMS, (0, 1, 2), Path("runs"))
    shards = [runs_of_shard(runs, Shard(index, count)) for index in range(count)]
    dealt = [name for shard in shards for name in names(shard)]
    assert sorted(dealt) == sorted(names(runs))
    sizes = [len(shard) for shard in shards]
    if count <= 3:
        for shard in shards:
            assert len(shard) == 3 * len({run.seed for run in shard})
    if count in {3, 9}:
        assert len(set(sizes)) == 1
    if count > 3:
        assert all(len({run.seed for run in shard}) <= 1 for shard in shards)


def test_shard_from_text():
    assert read_shard("2/4") == Shard(2, 4)
    for wrong in ("4/4", "1", "-1/2", "a/b", "0/0", "1/"):
        with pytest.raises(UserError, match="--shard is"):
            read_shard(wrong)


def test_t_is_shared_within_a_seed(tmp_path):
    runs = plan_runs(SYSTEMS, (0, 1), tmp_path)
    assert find_trained_t(runs[1], runs) is None
    finish_t(runs[0])
    assert find_trained_t(runs[0], runs) is None
    assert find_trained_t(runs[1], runs) == runs[0]
    assert find_trained_t(runs[2], runs) == runs[0]
    assert find_trained_t(runs[4], runs) is None
    assert find_trained_t(runs[1], runs[1:]) is None


def test_t_is_not_shared_with_other_alignment_or_a_run_that_was_begun(tmp_path):
    other = make_system("sean", alignment=AlignmentSettings(centre=False))
    without = make_system("unet", alignment=AlignmentSettings(network=False))
    runs = plan_runs([SYSTEMS[2], other, without], (0,), tmp_path)
    finish_t(runs[0])
    assert find_trained_t(runs[1], runs) is None
    assert find_trained_t(runs[2], runs) is None
    begun, *_ = plan_runs([make_system("mine")], (0,), tmp_path)
    assert find_trained_t(begun, runs) == runs[0]
    Run.create(begun.folder, begun.recipe)
    assert find_trained_t(begun, runs) == runs[0]
    (begun.folder / "checkpoints" / "align" / "2").mkdir(parents=True)
    assert find_trained_t(begun, runs) is None


def test_the_same_data_is_wanted():
    check_same_data(SYSTEMS)
    recipe = SYSTEMS[0].recipe
    prepare = replace(recipe.system.prepare, window_hu=(0.0, 100.0))
    other = replace(SYSTEMS[0], name="o", recipe=recipe.with_fields(prepare=prepare))
    with pytest.raises(UserError, match=r"unet and o want .*prepare\.window_hu"):
        check_same_data([SYSTEMS[0], other])
