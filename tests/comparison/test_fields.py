from pathlib import Path

import pytest

from adn_jax.cli.arguments import parse_with_recipe
from adn_jax.cli.train import Train
from adn_jax.config.fields import (
    as_pairs,
    option,
    options_between,
    read_pairs,
    set_fields,
)
from adn_jax.errors import UserError
from tests.training.tiny import tiny_recipe

CONFIG = str(Path(__file__).parents[1] / "training" / "tiny_config.py")
CHANGES = {
    "joint.steps": "100",
    "joint-loss.regularisation": "0.5",
    "alignment.centre": "false",
    "soft_labels": "True",
    "joint_loss.grid": "aligned",
    "segment-net.prior": "none",
    "prepare.shape": "8 16 16",
    "joint.optimizer.clip_norm": "1.5",
    "precision": "bfloat16",
}


def test_fields_are_set_from_text():
    changed = set_fields(tiny_recipe(), CHANGES)
    assert changed.joint.steps == 100
    assert changed.joint_loss.regularisation == 0.5
    assert changed.system.alignment.centre is False
    assert changed.soft_labels is True
    assert changed.system.segment_net.prior is None
    assert changed.system.disentangle_net == tiny_recipe().system.disentangle_net
    assert changed.system.prepare.shape == (8, 16, 16)
    assert changed.joint.optimizer.clip_norm == 1.5


def test_options_give_the_train_verb_the_same_recipe():
    changed = set_fields(tiny_recipe(), CHANGES)
    options = options_between(tiny_recipe(), changed)
    given = [CONFIG, "--data", "d", "--run", "r", *options]
    _, parsed = parse_with_recipe(Train, "train", given)
    assert parsed == changed
    assert options_between(changed, changed) == []


def test_options_of_each_kind():
    assert option("joint_loss.tissue", 0.0) == ["--joint-loss.tissue", "0.0"]
    assert option("soft_labels", False) == ["--no-soft-labels"]
    assert option("alignment.centre", True) == ["--alignment.centre"]
    assert option("prepare.shape", (1, 2, 3)) == ["--prepare.shape", "1", "2", "3"]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("joint.step", "3", "has no field 'joint.step'; perhaps 'joint.steps' is"),
        ("joint", "3", "has no field 'joint'"),
        ("joint.steps", "many", "joint.steps is 'many'; int is wanted there"),
        ("joint.steps", "1.5", "joint.steps is '1.5'; int is wanted"),
        ("joint.steps", "-1", "joint.steps is -1; it has to be at least 0"),
        ("joint_loss.grid", "head", "joint_loss.grid is 'head'; one of 'scan'"),
        ("soft_labels", "maybe", "soft_labels is 'maybe'; bool is wanted"),
        ("seed", "3", "set it by --seeds"),
    ],
)
def test_mistakes_are_named(name, text, said):
    with pytest.raises(UserError, match=said):
        set_fields(tiny_recipe(), {name: text})


def test_pairs():
    assert read_pairs("--set", ["a.b=1", "c=x=y"]) == {"a.b": "1", "c": "x=y"}
    with pytest.raises(UserError, match=r"--set is 'a\.b'; a field"):
        read_pairs("--set", ["a.b"])
    with pytest.raises(UserError, match="--over has 'a' twice"):
        read_pairs("--over", ["a=1", "a=2"])
    with pytest.raises(UserError, match=r"joint_loss\.tissue' twice"):
        read_pairs("--set", ["joint-loss.tissue=1", "joint_loss.tissue=2"])


def test_options_of_train_as_a_comparison_takes_them():
    said = (
        "set --align.batch 4, --alignment.network, --joint.optimizer.learning-rate "
        "1e-3 or --prepare.tissue auto; check --data, --joint-loss.tissue."
    )
    assert as_pairs(said, tiny_recipe()) == (
        "give --set align.batch=4, --set alignment.network=true, --set "
        "joint.optimizer.learning_rate=1e-3 or --set prepare.tissue=auto; check "
        "--data, --set joint_loss.tissue=VALUE."
    )
    said = "set --spatial-shards 2 --joint.batch 2 (about 41.0 GB)."
    pairs = "set --spatial-shards 2 --set joint.batch=2 (about 41.0 GB)."
    assert as_pairs(said, tiny_recipe()) == pairs


def test_a_former_name_is_read_and_told(capsys):
    texts = ["joint.optimizer.average=0.9", "averaging.poses=2", "joint.steps=3"]
    pairs = read_pairs("--set", texts)
    changed = set_fields(tiny_recipe(), pairs)
    assert changed.joint.optimizer.ema_decay == 0.9
    assert (changed.tta.copies, changed.joint.steps) == (2, 3)
    assert capsys.readouterr().err.splitlines() == [
        "adn: joint.optimizer.average is now called joint.optimizer.ema_decay.",
        "adn: averaging.poses is now called tta.copies.",
    ]
