"""Losses that teach nothing are refused before a stage begins, idle parts told."""

from dataclasses import replace

import pytest

from adn_jax.config import AlignLossSettings, AsymmetrySettings
from adn_jax.config.recipe_file import load_recipe
from adn_jax.config.validation import check_recipe
from adn_jax.errors import UserError
from adn_jax.training.teaching import check_losses, idle_parts
from adn_jax.training.train import train
from tests.test_configs import CONFIGS
from tests.training.tiny import tiny_recipe

RECIPE = tiny_recipe()
PLAIN = RECIPE.with_fields(
    joint_loss=replace(RECIPE.joint_loss, regularisation=0.0),
    segment_input="aligned",
)
NONE = {"cross_entropy": 0.0, "generalised_dice": 0.0}
OWN = "examples.loss_terms:boundary_charge"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_recipe_teaches_what_it_sets(path):
    recipe = load_recipe(path)
    check_losses(recipe, ("align", "joint"))
    assert not list(idle_parts(recipe, ("align", "joint")))


@pytest.mark.parametrize(
    ("recipe", "changes", "message"),
    [
        (PLAIN, NONE, "every weight of joint_loss is 0"),
        (PLAIN, {**NONE, "extra": (f"{OWN}:0",)}, "every weight of joint_loss is 0"),
        (
            PLAIN,
            {"schedules": ("tissue:0:10",)},
            r"schedules has 'tissue:0:10', but without lambda tissue does not count",
        ),
        (
            RECIPE,
            {"extra": (f"{OWN}:0",), "schedules": (f"{OWN}:0:10",)},
            f"the weight of {OWN} is 0; leave both out",
        ),
    ],
)
def test_a_joint_loss_that_teaches_nothing_is_refused(recipe, changes, message):
    wrong = replace(recipe, joint_loss=replace(recipe.joint_loss, **changes))
    check_recipe(wrong)  # a run of it stays readable
    check_losses(wrong, ("align", "tissue"))
    with pytest.raises(UserError, match=message):
        check_losses(wrong, ("joint",))


def joint_idle(recipe=RECIPE, **changes):
    changed = replace(recipe, joint_loss=replace(recipe.joint_loss, **changes))
    check_losses(changed, ("joint",))
    assert not list(idle_parts(changed, ("align", "tissue")))
    return " ".join(idle_parts(changed, ("joint",)))


def test_a_loss_of_t_that_teaches_nothing_is_refused():
    wrong = replace(RECIPE, align_loss=AlignLossSettings(mirror=0.0))
    with pytest.raises(UserError, match="every weight of align_loss is 0"):
        check_losses(wrong, ("align",))
    check_losses(wrong, ("joint",))


def test_a_warm_start_as_long_as_its_stage_is_told():
    told = joint_idle(warm_start_steps=10)
    assert "joint.steps is 10 and joint_loss.warm_start_steps 10, so that L_D" in told
    assert not joint_idle(warm_start_steps=9)
    assert not joint_idle(PLAIN, warm_start_steps=10)
    warm = replace(RECIPE, align_loss=AlignLossSettings(warm_start_steps=4))
    (told,) = idle_parts(warm, ("align",))
    assert "align_loss.warm_start_steps 4, so that mirror never counts" in told
    only = replace(RECIPE, align_loss=AlignLossSettings(mirror=0.0, warm_start_steps=4))
    assert not list(idle_parts(only, ("align",)))


def test_a_warm_start_that_teaches_p_nothing_is_told():
    told = joint_idle(**NONE, focal_tversky=1.0)
    assert "cross_entropy and generalised_dice, which teach P" in told
    assert not joint_idle(**NONE, focal_tversky=1.0, warm_start_steps=0)


@pytest.mark.parametrize("term", ["size", "size_by_volume"])
def test_that_a_part_of_a_cannot_be_as_large_as_the_infarct_is_told(term):
    weights = {"size": 0.0, term: 1.0}
    recipe = RECIPE.with_fields(asymmetry=AsymmetrySettings(pathological="part"))
    told = joint_idle(recipe, **weights)
    assert f"joint_loss.{term} asks of P" in told
    assert "--joint-loss.size-in-asymmetry 1" in told
    assert not joint_idle(**weights)


@pytest.mark.parametrize("channels", ["salient", "salient_triple"])
def test_f_is_not_shown_z_scores_of_what_p_leaves(channels):
    recipe = RECIPE.with_fields(segment_input=channels, zscore_in_brain=True)
    check_recipe(recipe)
    with pytest.raises(UserError, match=f"is '{channels}', .* --no-zscore-in-brain"):
        check_losses(recipe, ("joint",))
    check_losses(PLAIN.with_fields(zscore_in_brain=True), ("joint",))


def test_both_are_asked_before_anything_is_written(tmp_path, capsys):
    run = tmp_path / "run"
    short = replace(RECIPE.joint_loss, warm_start_steps=10)
    assert train(replace(RECIPE, joint_loss=short), None, run, dry_run=True) == 0
    assert "adn: joint.steps is 10 and joint_loss" in capsys.readouterr().err
    nothing = replace(RECIPE.joint_loss, regularisation=0.0, **NONE)
    with pytest.raises(UserError, match="every weight of joint_loss is 0"):
        train(replace(RECIPE, joint_loss=nothing), None, run, dry_run=True)
    assert not run.exists()
