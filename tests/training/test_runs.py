import json
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest

from adn_jax.config import JointLossSettings, UNetSettings
from adn_jax.errors import UserError
from adn_jax.pipeline.adn import AdnParams
from adn_jax.training.differences import changed_settings
from adn_jax.training.runs import (
    Run,
    initial_params,
    load_run,
    stages_of,
    write_run,
    write_small_run,
)
from tests.training.tiny import tiny_recipe

RECIPE = tiny_recipe()


def some_params(stage, recipe=RECIPE):
    """Random numbers in the shape of a stage's parameters."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(
        lambda key: initial_params(key, recipe, stage), jax.random.key(0)
    )
    return jax.tree.map(lambda leaf: rng.random(leaf.shape, np.float32), shapes)


def some_adn(recipe=RECIPE):
    align = some_params("align", recipe) if recipe.system.alignment.network else None
    return AdnParams(align=align, **some_params("joint", recipe))


@pytest.fixture
def run(tmp_path):
    write_run(tmp_path / "run", RECIPE, some_adn())
    return tmp_path / "run"


def assert_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_written_weights_come_back(run):
    model = load_run(run)
    assert model.recipe == RECIPE
    assert model.run.steps == {"align": 0, "joint": 0}
    assert model.tissue is None
    assert model.run.data is None
    for part in ("align", "disentangle", "segment"):
        assert_equal(getattr(model.params, part), getattr(some_adn(), part))


def test_recipe_without_t_and_with_tissue_net(tmp_path):
    alignment = replace(RECIPE.system.alignment, network=False)
    recipe = RECIPE.with_fields(tissue_source="network", alignment=alignment)
    tissue = some_params("tissue", recipe)
    write_run(tmp_path / "run", recipe, some_adn(recipe), tissue)
    model = load_run(tmp_path / "run")
    assert stages_of(recipe) == ("tissue", "joint")
    assert model.params.align is None
    assert_equal(model.tissue, tissue)


def test_an_existing_run_is_not_overwritten(run):
    with pytest.raises(UserError, match="already holds a run or other files"):
        write_run(run, RECIPE, some_adn())


def test_no_run(tmp_path):
    with pytest.raises(UserError, match=r"is no run \(it has no config\.json\)"):
        load_run(tmp_path)


def test_unfinished_run_names_the_stage(tmp_path):
    Run.create(tmp_path, RECIPE).mark_finished("align", {"steps": 4, "best_step": 2})
    with pytest.raises(UserError, match="not finished: stage 'joint' has to be train"):
        load_run(tmp_path)


def test_missing_weights_are_named(run):
    (run / "checkpoints" / "joint" / "0").rename(run / "elsewhere")
    with pytest.raises(UserError, match="joint/0 is missing, the weights of stage"):
        load_run(run)


def edit_config(run, change):
    path = run / "config.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_another_architecture(run):
    def widen(content):
        content["recipe"]["system"]["segment_net"].update(widths=[2, 8])

    edit_config(run, widen)
    with pytest.raises(UserError, match=r"another architecture: segment\..*instead of"):
        load_run(run)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("recipe"), "holds no recipe"),
        (lambda c: c["recipe"].update(sead=1), "unknown field 'sead'; perhaps 'seed'"),
        (lambda c: c["recipe"].update(threshold=7), "threshold is 7.0"),
    ],
)
def test_spoilt_config(run, change, message):
    edit_config(run, change)
    with pytest.raises(UserError, match=message):
        load_run(run)


def test_same_recipe_and_another(run):
    Run.open(run).check_same_recipe(RECIPE)
    other = RECIPE.with_fields(seed=3, segment_net=UNetSettings())
    with pytest.raises(UserError) as error:
        Run.open(run).check_same_recipe(other)
    assert "seed 0 -> 3; segment_net.widths (2, 4) -> (32, 64" in str(error.value)
    assert "and more" not in str(error.value)


def test_a_small_run_is_the_run_in_half_precision(run, tmp_path):
    write_small_run(Run.open(run), tmp_path / "small")
    model, small = load_run(run), load_run(tmp_path / "small")
    assert {each.name for each in (tmp_path / "small").iterdir()} == {
        "config.json",
        "stages.json",
        "weights.npz",
    }
    assert small.recipe == model.recipe
    assert small.run.steps == model.run.steps
    for part in ("align", "disentangle", "segment"):
        found, wanted = getattr(small.params, part), getattr(model.params, part)
        jax.tree.map(
            partial(np.testing.assert_allclose, rtol=1 / 2048, atol=1e-7), found, wanted
        )
    with pytest.raises(UserError, match="already holds a run"):
        write_small_run(Run.open(run), tmp_path / "small")


def test_no_small_run_of_an_unfinished_one(run, tmp_path):
    opened = Run.open(run)
    del opened.finished["joint"]
    with pytest.raises(UserError, match="stage 'joint' has to be trained"):
        write_small_run(opened, tmp_path / "small")
    assert not (tmp_path / "small").exists()


def test_weights_beyond_half_precision_are_refused(tmp_path):
    params = some_params("joint")
    params["segment"] = jax.tree.map(lambda leaf: 1e6 * leaf, params["segment"])
    align = some_params("align")
    write_run(tmp_path / "run", RECIPE, AdnParams(align=align, **params))
    with pytest.raises(UserError, match="half precision cannot hold"):
        write_small_run(Run.open(tmp_path / "run"), tmp_path / "small")
    assert not (tmp_path / "small").exists()


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:100]), "no readable"),
        (lambda path: path.write_bytes(b""), "no readable"),
        (lambda path: np.savez(path, nothing=np.ones(1)), "no such array"),
    ],
)
def test_damaged_small_weights_are_refused(run, tmp_path, damage, sentence):
    write_small_run(Run.open(run), tmp_path / "small")
    damage(tmp_path / "small" / "weights.npz")
    with pytest.raises(UserError, match=sentence):
        load_run(tmp_path / "small")


def test_the_tissue_net_depends_on_the_box():
    recipe = tiny_recipe(tissue_source="network")
    boxed = recipe.with_fields(box=(8, 12, 12))
    (changed,) = changed_settings("tissue", recipe, boxed)
    assert changed.startswith("box")
    assert changed_settings("align", recipe, boxed) == []


def test_without_lambda_the_terms_of_l_d_change_nothing():
    recipe = tiny_recipe(joint_loss=JointLossSettings(regularisation=0.0))
    idle = JointLossSettings(regularisation=0.0, tissue=0.0, warm_start_steps=0)
    assert changed_settings("joint", recipe, tiny_recipe(joint_loss=idle)) == []
    (changed,) = changed_settings(
        "joint", recipe, tiny_recipe(joint_loss=replace(idle, boundary=1.0))
    )
    assert changed.startswith("joint_loss.boundary")


def test_the_rim_counts_without_d_where_a_term_of_the_users_own_may_see_a():
    plain = tiny_recipe().with_fields(segment_input="aligned")
    wider = replace(plain.system.asymmetry, rim_mm=9.0)
    loss = replace(plain.joint_loss, extra=("tests.training.made_up:term",))
    for recipe, counts in ((plain, 0), (plain.with_fields(joint_loss=loss), 1)):
        other = recipe.with_fields(asymmetry=wider)
        assert len(changed_settings("joint", recipe, other)) == counts
