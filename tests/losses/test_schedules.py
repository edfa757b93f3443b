from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from adn_jax.config import AlignLossSettings, JointLossSettings, Recipe
from adn_jax.config.schedules import Schedule, parse_schedule
from adn_jax.config.validation import check_recipe
from adn_jax.errors import UserError
from adn_jax.losses.recipes import factor_at, factor_of


def in_plain_python(step, start, end, first, last):
    if step <= start:
        return first
    if step >= end:
        return last
    return first + (last - first) * (step - start) / (end - start)


@pytest.mark.parametrize(
    ("text", "term", "numbers"),
    [
        ("tissue:0:200", "tissue", (0, 200, 0.0, 1.0)),
        ("regularisation:100:300:1:0", "regularisation", (100, 300, 1.0, 0.0)),
        ("my.terms:charge:7:8:0.5:2e1", "my.terms:charge", (7, 8, 0.5, 20.0)),
    ],
)
def test_factor_follows_the_line_under_jit(text, term, numbers):
    schedule = parse_schedule(text)
    assert schedule == Schedule(term, *numbers)
    compiled = jax.jit(lambda step: factor_at(schedule, step))
    for step in (0, 1, 7, 8, 50, 100, 150, 200, 299, 300, 5000):
        expected = in_plain_python(step, *numbers)
        assert compiled(jnp.int32(step)) == pytest.approx(expected, rel=1e-6, abs=1e-7)
        assert factor_at(schedule, step) == pytest.approx(expected, rel=1e-6, abs=1e-7)


def test_several_schedules_of_a_term_multiply_and_none_is_the_number_one():
    texts = ("tissue:0:10", "size:0:10", "tissue:20:30:1:0.5")
    for step, expected in ((5, 0.5), (15, 1.0), (25, 0.75), (40, 0.5)):
        assert factor_of("tissue", texts, step) == pytest.approx(expected)
    assert type(factor_of("symmetric", texts, 5)) is float


@pytest.mark.parametrize(
    "text",
    [
        *("tissue", "tissue:0", ":0:200", "tissue:0:200:1", "tissue:0:200:1:0:1"),
        *("tissue:200:100", "tissue:5:5", "tissue:-5:200", "tissue:0.5:200"),
        *("tissue:0:200:1:-1", "tissue:0:200:0:nan", "tissue:0:200:much:1", ""),
    ],
)
def test_other_forms_are_the_users_error(text):
    with pytest.raises(UserError, match=r"has another form than term:FROM:TO"):
        parse_schedule(text)
    joint = JointLossSettings(schedules=(text,))
    with pytest.raises(UserError, match=r"write for example tissue:0:200"):
        check_recipe(Recipe(name="wrong", joint_loss=joint))


@pytest.mark.parametrize(
    ("loss", "text", "message"),
    [
        ("joint_loss", "tisue:0:200", "no term 'tisue'; perhaps 'tissue' is meant"),
        ("joint_loss", "grid:0:200", "no term 'grid'"),
        ("joint_loss", "gradient_norms_every:0:200", "no term 'gradient_norms_every'"),
        ("joint_loss", "mine:charg:0:9", "perhaps 'mine:charge' is meant"),
        ("align_loss", "tissue:0:200", r"align_loss\.schedules has 'tissue:0:200'"),
    ],
)
def test_unknown_terms_are_the_users_error(loss, text, message):
    recipe = Recipe(name="wrong")
    extra = ("mine:charge:0.5",) if loss == "joint_loss" else ()
    settings = replace(getattr(recipe, loss), schedules=(text,), extra=extra)
    with pytest.raises(UserError, match=message):
        check_recipe(recipe.with_fields(**{loss: settings}))


def test_schedules_of_known_terms_pass():
    joint = JointLossSettings(
        boundary=0.1,
        extra=("mine:charge:0.5", "mine:other"),
        schedules=(
            *("tissue:0:200", "regularisation:0:9:1:0", "boundary:0:9"),
            *("mine:charge:0:9", "mine:other:0:9:1:2"),
        ),
    )
    align = AlignLossSettings(
        reconstruction=1.0, schedules=("reconstruction:0:9", "mirror:0:9:1:0")
    )
    check_recipe(Recipe(name="right", joint_loss=joint, align_loss=align))


def test_a_schedule_of_a_term_that_does_not_count_is_refused():
    joint = JointLossSettings(schedules=("boundary:0:9",))
    with pytest.raises(UserError, match=r"the weight of boundary is 0, .*; set joint_"):
        check_recipe(Recipe(name="wrong", joint_loss=joint))
