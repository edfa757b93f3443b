from pathlib import Path

import pytest

from adn_jax.cli import sweep as module
from adn_jax.cli.main import main
from adn_jax.comparison import work
from adn_jax.config.sizes import demo_size
from tests.comparison.pretend import pretend_runs
from tests.training.tiny import tiny_recipe, write_heads

CONFIG = str(Path(__file__).parents[1] / "training" / "tiny_config.py")


@pytest.fixture
def data(tmp_path):
    """Prepared heads."""
    write_heads(tmp_path / "data", train=1, validation=0, test=2)
    return str(tmp_path / "data")


@pytest.fixture
def done(monkeypatch):
    """What was to be run, of which nothing fails, and what was written."""
    return pretend_runs(monkeypatch, module, "write_sweep")


def sweep(data, out, *options):
    over = ["--over", "joint-loss.regularisation=0,1"]
    main(["sweep", CONFIG, "--data", data, "--out", str(out), *over, *options])


def test_every_combination_with_every_seed_is_run(done, data, tmp_path, capsys):
    more = ["--over", "joint_loss.tissue=0,1", "--seeds", "0", "4"]
    sweep(data, tmp_path / "out", *more, "--joint.steps", "7")
    ((runs, job),), ((settings, scores, *_),) = done
    assert len(runs) == 8
    assert runs[0].folder == (
        tmp_path
        / "out"
        / "runs"
        / "joint_loss.regularisation=0,joint_loss.tissue=0-seed0"
    )
    assert {run.recipe.joint.steps for run in runs} == {7}
    assert {run.system.base.joint.steps for run in runs} == {10}
    assert [setting.values["joint_loss.tissue"] for setting in settings] == list("0101")
    assert (job.data, job.size, job.split) == (Path(data), "full", "test")
    assert scores == (runs, "test")
    assert "sweep.png" in capsys.readouterr().out


def test_size_comes_before_other_settings(done, data, tmp_path):
    given = ["--size", "demo", "--joint.batch", "1", "--spatial-shards", "2"]
    sweep(data, tmp_path / "out", *given)
    ((runs, job),), _ = done
    assert (job.size, job.spatial_shards) == ("demo", 2)
    assert runs[0].system.base == demo_size(tiny_recipe())
    assert (runs[0].recipe.joint.batch, runs[0].recipe.joint.steps) == (1, 300)


def test_a_missing_run_is_exit_code_2(done, data, tmp_path, monkeypatch):
    failures = {"joint_loss.regularisation=1-seed0": "it broke."}
    monkeypatch.setattr(work, "do_runs", lambda *_: failures)
    with pytest.raises(SystemExit) as end:
        sweep(data, tmp_path / "out")
    assert end.value.code == 2
    assert done[1][0][-1] == ["joint_loss.regularisation=1-seed0: it broke."]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--over", "joint_loss.tisue=0"], "perhaps 'joint_loss.tissue' is meant"),
        (["--over", "joint_loss.tissue=much"], "joint_loss.tissue is 'much'; float"),
        (
            ["--over", "prepare.shape=16 16 16,8 16 16"],
            "want data prepared differently",
        ),
        (["--seed", "3"], "--seed is given, but a sweep has several; set --seeds"),
    ],
)
@pytest.mark.usefixtures("done")
def test_mistakes_end_with_code_2(data, tmp_path, capsys, options, said):
    with pytest.raises(SystemExit) as end:
        sweep(data, tmp_path / "out", *options)
    assert end.value.code == 2
    assert said in capsys.readouterr().err
