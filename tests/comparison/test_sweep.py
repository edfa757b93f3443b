import csv
from io import StringIO
from pathlib import Path

import pytest

from adn_jax.comparison.compare import compare, read_scores
from adn_jax.comparison.sweep import curves, plan_settings, write_sweep
from adn_jax.comparison.work import plan_runs
from adn_jax.config import AlignmentSettings, JointLossSettings
from adn_jax.data.manifest import read_manifest
from adn_jax.errors import UserError
from tests.comparison.made_up import made_up_rows, write_scored
from tests.training.tiny import tiny_recipe

OVER = {"joint-loss.regularisation": "0, 1,10", "joint_loss.tissue": "0,1"}


def settings_of(over, recipe=None):
    recipe = recipe or tiny_recipe()
    return plan_settings(Path("tiny.py"), tiny_recipe(), recipe, over)


def test_every_combination_is_a_system():
    settings = settings_of(OVER, tiny_recipe(threshold=0.4))
    assert len(settings) == 6
    names = [setting.system.name for setting in settings]
    assert names[:2] == [
        "joint_loss.regularisation=0,joint_loss.tissue=0",
        "joint_loss.regularisation=0,joint_loss.tissue=1",
    ]
    last = settings[-1].system.recipe
    assert (last.joint_loss.regularisation, last.joint_loss.tissue) == (10.0, 1.0)
    assert last.threshold == 0.4
    assert settings[0].system.base.threshold == 0.5


def test_folders_have_plain_names():
    (setting,) = settings_of({"prepare.shape": "8 16 16"})
    assert setting.system.name == "prepare.shape=8_16_16"
    (setting,) = settings_of({"joint_loss.extra": "a/b:c"})
    assert "/" not in setting.system.name


@pytest.mark.parametrize(
    ("over", "said"),
    [
        ({}, "nothing to sweep over"),
        ({"joint_loss.tisue": "0,1"}, "perhaps 'joint_loss.tissue' is meant"),
        ({"joint_loss.tissue": "0,,1"}, "an empty value"),
        ({"joint_loss.tissue": "0,0.0"}, "which are the same; give each value once"),
        ({"joint_loss.tissue": "0,much"}, "is 'much'; float is wanted"),
        ({"joint_loss.tissue": "0,-1"}, "it has to be at least 0"),
    ],
)
def test_mistakes(over, said):
    with pytest.raises(UserError, match=said):
        settings_of(over)


PLAIN = tiny_recipe(
    alignment=AlignmentSettings(network=False),
    segment_input="aligned",
    joint_loss=JointLossSettings(regularisation=0.0),
)
"""Without T and D."""


@pytest.mark.parametrize(
    "over",
    [
        {"align.batch": "2,4"},
        {"align.optimizer.learning_rate": "0.1,0.2"},
        {"tissue.steps": "1,2"},
        {"joint_loss.tissue": "0,1"},
        {"joint_loss.warm_start_steps": "0,2"},
        {"disentangle_input": "aligned,mirror_pair"},
        {"joint.batch": "2,4", "align.batch": "2,4"},
    ],
)
def test_a_setting_that_the_system_does_not_use_is_refused(over):
    field, values = list(over.items())[-1]
    with pytest.raises(UserError, match=f"--over {field}={values} changes nothing by"):
        settings_of(over, PLAIN)


@pytest.mark.parametrize(
    "over",
    [
        {"align.batch": "2"},
        {"joint_loss.boundary": "0,1"},
        {"threshold": "0.4,0.5"},
        {"tissue_source": "maps,network", "tissue.steps": "1,2"},
    ],
)
def test_a_setting_that_counts_anywhere_is_not_refused(over):
    assert settings_of(over, PLAIN)


@pytest.fixture
def swept(data, tmp_path):
    """Settings and their runs; the better, the larger the weights."""
    settings = settings_of(OVER, tiny_recipe(threshold=0.4))
    systems = [setting.system for setting in settings]
    runs = plan_runs(systems, (0, 1), tmp_path / "runs")
    for run in runs:
        loss = run.recipe.joint_loss
        level = 0.3 + 0.02 * loss.regularisation + 0.05 * loss.tissue
        write_scored(run, data, made_up_rows(level, run.seed))
    return settings, runs


def test_files_of_a_sweep(swept, data, tmp_path):
    settings, runs = swept
    left = [run for run in runs if run.system != settings[3].system]
    scores = read_scores(left, "test")
    missing = ["third: it broke."]
    short = write_sweep(
        settings, scores, read_manifest(data), tmp_path, "test", missing
    )
    lines = list(csv.DictReader(StringIO((tmp_path / "sweep.csv").read_text())))
    assert len(lines) == 5
    assert float(lines[-1]["dice"]) > float(lines[0]["dice"])
    assert float(lines[-1]["dice_difference_low"]) > 0
    assert float(lines[-1]["dice_p_holm"]) < 0.05
    assert (lines[0]["dice_difference"], lines[0]["mass_share"]) == ("", "")
    text = (tmp_path / "sweep.md").read_text()
    assert text.startswith(
        "# tiny over joint_loss.regularisation and joint_loss.tissue"
    )
    assert "| 1 | 1 | – | – |" in text
    assert "- Settings: threshold=0.4\n" in text
    assert "AUROC of P" in text
    assert "share of" not in text
    assert "- third: it broke." in text
    assert short.columns[-1] == "AUROC of P"
    assert {len(row) for row in short.rows} == {len(short.columns)}
    assert (tmp_path / "sweep.png").stat().st_size > 5_000


def test_a_curve_for_each_value_of_the_second_field(swept):
    settings, runs = swept
    rows = compare(read_scores(runs, "test"), settings[0].system.name)
    zero, one = curves(settings, rows, "dice", ["0", "1", "10"])
    assert (zero.label, one.label) == ("joint_loss.tissue = 0", "joint_loss.tissue = 1")
    assert one.estimates[2] == rows[5].scores["dice"]
