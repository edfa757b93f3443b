"""Losses that teach nothing, or in part, are refused before a stage begins."""

from dataclasses import replace

import pytest

from adn_jax.config import AlignLossSettings, AsymmetrySettings, JointLossSettings
from adn_jax.config.recipe_file import load_recipe
from adn_jax.config.validation import check_recipe
from adn_jax.errors import UserError
from adn_jax.training.teaching import check_losses
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
    check_losses(load_recipe(path), ("align", "joint"))


@pytest.mark.parametrize(
    ("recipe", "changes", "message"),
    [
        (PLAIN, NONE, "every weight of joint_loss is 0"),
        (PLAIN, {**NONE, "extra": (f"{OWN}:0",)}, "every weight of joint_loss is 0"),
        (
            RECIPE,
            {**NONE, "focal_tversky": 1.0},
            "cross_entropy and generalised_dice, which teach P",
        ),
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
        (
            RECIPE,
            {"warm_start_steps": 10},
            r"joint.steps is 10 and joint_loss.warm_start_steps 10, .* L_D never count",
        ),
    ],
)
def test_a_joint_loss_that_teaches_nothing_is_refused(recipe, changes, message):
    wrong = replace(recipe, joint_loss=replace(recipe.joint_loss, **changes))
    check_recipe(wrong)  # a run of it stays readable
    check_losses(wrong, ("align", "tissue"))
    with pytest.raises(UserError, match=message):
        check_losses(wrong, ("joint",))


def test_a_warm_start_of_any_length_passes_where_there_is_none():
    check_losses(
        replace(PLAIN, joint_loss=JointLossSettings(regularisation=0.0)), ("joint",)
    )


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (AlignLossSettings(mirror=0.0), "every weight of align_loss is 0"),
        (
            AlignLossSettings(warm_start_steps=4),
            "align.steps is 4 and align_loss.warm_start_steps 4, so that mirror never",
        ),
    ],
)
def test_a_loss_of_t_that_teaches_nothing_is_refused(loss, message):
    with pytest.raises(UserError, match=message):
        check_losses(replace(RECIPE, align_loss=loss), ("align",))
    check_losses(
        replace(RECIPE, align_loss=AlignLossSettings(mirror=0.0, warm_start_steps=4)),
        ("align",),
    )


@pytest.mark.parametrize("term", ["size", "size_by_volume"])
def test_a_part_of_a_is_not_asked_to_be_as_large_as_the_infarct(term):
    weights = {"size": 0.0, term: 1.0}
    recipe = RECIPE.with_fields(
        asymmetry=AsymmetrySettings(pathological="part"),
        joint_loss=replace(RECIPE.joint_loss, **weights),
    )
    with pytest.raises(
        UserError, match=f"joint_loss.{term} asks .*size-in-asymmetry 1"
    ):
        check_losses(recipe, ("joint",))


@pytest.mark.parametrize("channels", ["salient", "salient_triple"])
def test_f_is_not_shown_z_scores_of_what_p_leaves(channels):
    recipe = RECIPE.with_fields(segment_input=channels, zscore_in_brain=True)
    check_recipe(recipe)
    with pytest.raises(UserError, match=f"is '{channels}', .* --no-zscore-in-brain"):
        check_losses(recipe, ("joint",))
    check_losses(PLAIN.with_fields(zscore_in_brain=True), ("joint",))


def test_it_is_asked_before_anything_is_written(tmp_path):
    loss = replace(RECIPE.joint_loss, warm_start_steps=10)
    with pytest.raises(UserError, match="L_D never counts"):
        train(replace(RECIPE, joint_loss=loss), None, tmp_path / "run", dry_run=True)
    assert not (tmp_path / "run").exists()
