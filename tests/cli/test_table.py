import json
import shutil
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from adn_jax.cli import table as module
from adn_jax.cli.main import main
from adn_jax.cli.table import Table, find_systems
from adn_jax.comparison import work
from adn_jax.config.sizes import demo_size
from adn_jax.data.cases import read_case
from adn_jax.errors import UserError
from adn_jax.evaluation import evaluate
from adn_jax.evaluation.evaluate import evaluate_peer
from adn_jax.evaluation.report import Pictures
from adn_jax.io import files
from adn_jax.io.files import only_one
from adn_jax.io.image import from_zyx, write_image
from adn_jax.prepare import dataset
from adn_jax.training.runs import Run
from tests.comparison.pretend import pretend_runs
from tests.training.tiny import tiny_recipe, write_heads

ROOT = Path(__file__).parents[2]

CONFIG = """
from dataclasses import replace
from tests.training.tiny import tiny_recipe

def get_config():
    recipe = tiny_recipe(name={name!r}, **{changes})
    plain = replace(recipe.joint_loss, regularisation=0.0, tissue=0.0)
    return recipe if recipe.system.disentangles else replace(recipe, joint_loss=plain)
"""


@pytest.fixture
def configs(tmp_path):
    """Config files of two systems with the same alignment."""
    plain = {"segment_input": "aligned", "tissue_source": "none"}
    systems = {"adn": {}, "resunet_aligned": plain}
    for name, changes in systems.items():
        text = CONFIG.format(name=name, changes=changes)
        (tmp_path / f"{name}.py").write_text(text)
    return [str(tmp_path / f"{name}.py") for name in systems]


@pytest.fixture
def data(tmp_path):
    """Prepared heads."""
    write_heads(tmp_path / "data", train=3, validation=1, test=2)
    return str(tmp_path / "data")


@pytest.fixture
def done(monkeypatch):
    """What was to be run, of which nothing fails, and what was written."""
    return pretend_runs(monkeypatch, module, "write_table")


def test_arguments_reach_the_runs(done, configs, data, tmp_path, capsys):
    out = str(tmp_path / "out")
    options = ["--seeds", "3", "5", "--set", "joint.steps=7", "--cases", "head03"]
    options += [
        "--set",
        "joint-loss.size=0.5",
        "threshold=0.4",
        "--split",
        "validation",
    ]
    main(["table", data, out, "--recipes", *configs, *options])
    ((runs, job),), ((scored, scores, _, folder, *rest),) = done
    assert [run.name for run in runs] == [
        "resunet_aligned-seed3",
        "adn-seed3",
        "resunet_aligned-seed5",
        "adn-seed5",
    ]
    for run in runs:
        assert (run.recipe.joint.steps, run.recipe.threshold) == (7, 0.4)
        assert run.recipe.joint_loss.size == 0.5
        assert run.system.base.joint.steps == 10
    assert (job.split, job.size) == ("validation", "full")
    assert (job.data, job.logs) == (Path(data), Path(out) / "logs")
    assert scored == runs
    assert scores == (runs, "validation", "")
    assert (folder, rest) == (Path(out), ["adn", "validation", ("head03",), []])
    assert "table: " in capsys.readouterr().out


def test_size_changes_the_recipes_before_the_settings(done, configs, data, tmp_path):
    given = ["--size", "demo", "--set", "joint.batch=1", "--spatial-shards", "2"]
    main(["table", data, str(tmp_path / "o"), "--recipes", *configs, *given])
    ((runs, job),), _ = done
    assert (job.size, job.spatial_shards) == ("demo", 2)
    assert runs[1].system.size == "demo"
    assert runs[1].system.base == demo_size(tiny_recipe(name="adn"))
    assert (runs[1].recipe.joint.batch, runs[1].recipe.joint.steps) == (1, 300)


def test_a_shard_does_its_runs_alone(done, configs, data, tmp_path):
    given = ["--seeds", "0", "1", "--shard", "1/2"]
    main(["table", data, str(tmp_path / "o"), "--recipes", *configs, *given])
    ((runs, _),), ((scored, *_),) = done
    assert {run.seed for run in runs} == {1}
    assert len(runs) == 2
    assert len(scored) == 4


def test_runs_of_other_machines_with_other_settings_are_left_out(
    done, configs, data, tmp_path, capsys
):
    out = tmp_path / "o"
    other = tiny_recipe(name="adn", seed=1)
    other = replace(other, joint=replace(other.joint, steps=20))
    run = Run.create(out / "runs" / "adn-seed1", other)
    run.mark_finished("joint", {"best_step": 2})
    given = ["--seeds", "0", "1", "--shard", "0/2"]
    main(["table", data, str(out), "--recipes", *configs, *given])
    _, ((scored, *_, missing),) = done
    assert [run.name for run in scored] == [
        "resunet_aligned-seed0",
        "adn-seed0",
        "resunet_aligned-seed1",
    ]
    why = (
        f"{run.folder} was trained with other settings (joint.steps 20 -> 10); choose "
        "another OUT or the settings of this one."
    )
    assert missing == [f"adn-seed1: {why}"]
    assert f"adn: adn-seed1 is missing: {why}" in capsys.readouterr().err


def test_a_missing_run_is_exit_code_2(
    done, configs, data, tmp_path, monkeypatch, capsys
):
    _, written = done
    failures = {"adn-seed0": "it broke."}
    monkeypatch.setattr(work, "do_runs", lambda *_: failures)
    command = ["table", data, str(tmp_path / "o"), "--recipes", *configs]
    with pytest.raises(SystemExit) as end:
        main(command)
    assert end.value.code == 2
    assert [run.name for run in written[0][0]] == ["resunet_aligned-seed0"]
    assert written[0][-1] == ["adn-seed0: it broke."]
    assert "adn: adn-seed0 is missing: it broke." in capsys.readouterr().err
    monkeypatch.setattr(work, "is_scored", lambda *_: False)
    with pytest.raises(SystemExit) as end:
        main(command)
    assert end.value.code == 2
    assert len(written) == 1


def test_without_adn_the_first_recipe_is_the_reference(tmp_path):
    given = []
    for name in ("unet", "deepmedic"):  # in the paper's order the other way round
        changes = {"segment_input": "aligned", "tissue_source": "none"}
        given.append(tmp_path / f"{name}.py")
        given[-1].write_text(CONFIG.format(name=name, changes=changes))
    table = Table(data=tmp_path, out=tmp_path / "o", recipes=tuple(given))
    systems, reference = find_systems(table, ["nnunet"])
    assert [system.name for system in systems] == ["deepmedic", "unet"]
    assert reference == "unet"
    assert find_systems(table, ["adn"])[1] == "adn"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--reference", "unet"], "--reference is 'unet', but the recipes are adn,"),
        (["--set", "joint.step=3"], "perhaps 'joint.steps' is meant"),
        (["--set", "joint.steps"], "--set is 'joint.steps'; a field and its value"),
        (["--shard", "2/2"], "--shard is '2/2'"),
        (["--seeds", "1", "1"], "the seed 1 is given twice"),
        (["--size", "huge"], "--size"),
        (["--predictions", "nowhere"], "nowhere is no folder"),
        (["--predictions", "adn=DIR"], "--recipes both have 'adn'; call the"),
    ],
)
def test_mistakes_end_with_code_2(configs, data, tmp_path, capsys, options, said):
    command = ["table", data, str(tmp_path / "o"), "--recipes", *configs, *options]
    with pytest.raises(SystemExit) as end:
        main(command)
    assert end.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("seed", ["0", "7"])
def test_what_runs_have_learnt_from_is_not_prepared_otherwise(
    configs, tmp_path, monkeypatch, capsys, seed
):
    """The same run with other settings, and another one in the same folder."""

    def prepare(*_, learnt_by):
        raise UserError(f"learnt by {learnt_by}.")

    monkeypatch.setattr(dataset, "prepare_dataset", prepare)
    out, raw = tmp_path / "out", tmp_path / "raw"
    write_heads(out / "prepared")
    raw.mkdir()
    run = Run.create(out / "runs" / "adn-seed0", tiny_recipe(name="adn"))
    run.mark_finished("align", {"best_step": 2})
    command = ["table", str(raw), str(out), "--recipes", *configs, "--seeds", seed]
    with pytest.raises(SystemExit) as end:
        main([*command, "--set", "prepare.shape=16 40 40"])
    assert end.value.code == 2
    assert capsys.readouterr().err == f"adn: learnt by {run.folder}.\n"


def write_labels(folder, data):
    """The labels of the held-out heads, as another tool might predict them."""
    for name in ("head04", "head05"):
        case = read_case(Path(data) / name)
        mask = from_zyx(case.lesion, case.affine, "mask")
        (folder / name).mkdir(parents=True)
        write_image(folder / name / "mask.nii.gz", mask)
    return folder


def test_predictions_that_another_shard_scores_are_waited_for(
    done, configs, data, tmp_path, monkeypatch
):
    held, said = ExitStack(), []

    def while_held(peer, *rest, **options):
        held.enter_context(only_one(peer.folder / "evaluation" / "test"))
        return evaluate_peer(peer, *rest, **options)

    def leave(sentence, **_):  # once it is told that another waits
        said.append(sentence)
        held.close()

    monkeypatch.setattr(files, "print", leave, raising=False)
    monkeypatch.setattr(module, "evaluate_peer", while_held)
    monkeypatch.setattr(evaluate, "write_peer_figures", lambda *_: Pictures({}, {}))
    given = ["--shard", "1/2", "--predictions", str(write_labels(tmp_path / "t", data))]
    main(["table", data, str(tmp_path / "o"), "--recipes", *configs, *given])
    assert said[0].startswith("adn: waiting for another process to leave ")
    ((scored, *_),) = done[1]
    assert (scored[-1].name, len(scored)) == ("t-seed0", 3)


@pytest.mark.slow
def test_two_systems_from_data_to_table(configs, data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    out = tmp_path / "out"
    settings = ["align.steps=2", "joint.steps=2", "joint.validate_every=2"]
    settings += ["align_loss.warm_start_steps=1", "joint_loss.warm_start_steps=1"]
    command = ["table", data, str(out), "--recipes", *configs, "--set", *settings]
    command += ["--predictions", f"perfect={write_labels(tmp_path / 'tool', data)}"]
    main(command)
    content = json.loads((out / "table.json").read_text())
    assert content["missing"] == []
    assert content["cases"] == ["head04", "head05"]
    assert [row["aligned"] for row in content["rows"]] == [True, True, None]
    perfect = content["rows"][2]
    assert (perfect["name"], perfect["scores"]["dice"]["mean"]) == ("perfect", 1.0)
    ours = content["rows"][1]["scores"]["dice"]["mean"]
    assert perfect["differences"]["dice"]["mean"] == pytest.approx(1.0 - ours)
    assert "auroc" in content["rows"][1]["scores"]
    stages = json.loads((out / "runs" / "adn-seed0" / "stages.json").read_text())
    donor = str(out / "runs" / "resunet_aligned-seed0")
    assert stages["align"]["taken_from"] == donor
    for name in ("table.md", "table.csv", "table.tex", "table.html"):
        assert "ADN" in (out / name).read_text()
    assert (out / "figures" / "fig3.png").stat().st_size > 5_000
    logs = {path: path.read_text() for path in (out / "logs").iterdir()}

    def no_child(*_, **__):
        raise AssertionError("nothing is left to do")

    capsys.readouterr()
    shutil.rmtree(out / "figures")
    monkeypatch.setattr("adn_jax.comparison.work.run_child", no_child)
    main(command)
    assert "ADN" in capsys.readouterr().out
    assert json.loads((out / "table.json").read_text()) == content
    assert {path: path.read_text() for path in (out / "logs").iterdir()} == logs
    assert (out / "figures" / "dice.png").is_file()
