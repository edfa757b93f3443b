"""A run that commit 24b7285 trained is read, continued and used as it was then."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from adn_jax.cli.main import main
from adn_jax.data.cases import read_case
from adn_jax.inference.system import infer_case
from adn_jax.io.files import read_json, write_json
from adn_jax.training.runs import load_run
from tests.training.tiny import tiny_recipe, write_heads

PACKED = Path(__file__).parents[1] / "golden" / "run_24b7285.zip"
ITS_OPTIONS = [
    *("--standardise", "--partial-labels", "--joint-loss.infarct", "0.5"),
    *("--joint-loss.schedules", "infarct:0:4", "--joint.optimizer.average", "0.5"),
    *("--averaging.mirrored", "--averaging.poses", "1", "--name", "of_24b7285"),
]


@pytest.fixture
def old(tmp_path):
    """The run, with the heads that it was trained on beside it."""
    with zipfile.ZipFile(PACKED) as packed:
        packed.extractall(tmp_path)
    write_heads(tmp_path / "data")
    return tmp_path


def test_its_settings_are_read_by_their_present_names(old):
    recipe = load_run(old / "run").recipe
    assert recipe.name == "of_24b7285"
    assert recipe.soft_labels
    assert recipe.system.zscore_in_brain
    assert recipe.system.alignment_net.widths == (2, 4)
    assert recipe.joint.optimizer.ema_decay == 0.5
    assert recipe.joint_loss.pathology_supervision == 0.5
    assert (recipe.tta.mirrored, recipe.tta.copies) == (True, 1)


def test_it_predicts_what_it_predicted_then(old):
    model = load_run(old / "run")
    case = read_case(old / "data" / "head05")
    maps, _ = infer_case(model.params, case, model.recipe)
    then = np.load(old / "maps.npz")
    for name in ("prediction", "pathological"):
        np.testing.assert_allclose(getattr(maps, name), then[name], atol=2e-5)


def test_the_command_of_then_continues_it(old, capsys, monkeypatch):
    """Options go by their former names, and a line tells each present one."""
    monkeypatch.chdir(old)
    stages = read_json(old / "run" / "stages.json")
    write_json(old / "run" / "stages.json", {"align": stages["align"]})
    config = Path(__file__).with_name("tiny_config.py")
    main(["train", str(config), "--data", "data", "--run", "run", *ITS_OPTIONS])
    said = capsys.readouterr().err
    assert (
        "--joint-loss.infarct is now called --joint-loss.pathology-supervision" in said
    )
    assert "--averaging.poses is now called --tta.copies" in said
    assert read_json(old / "run" / "stages.json")["joint"]["steps"] == 10
    assert tiny_recipe().joint.steps == 10
