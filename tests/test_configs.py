"""Every file in configs/ builds a recipe that traces, from the volume to the loss."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from adn_jax.config import Recipe
from adn_jax.config.recipe_file import load_recipe
from adn_jax.config.validation import check_recipe
from adn_jax.models import init_unet
from adn_jax.pipeline.adn import apply_adn, init_adn
from adn_jax.training.runs import joint_params
from adn_jax.training.stages import make_stage
from adn_jax.types import Batch

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.py"))


def test_the_promised_recipes_are_there():
    names = {path.stem for path in CONFIGS}
    adn = {"adn_paper", "adn_reference", "adn", "adn_no_tissue", "demo"}
    plain = {"deepmedic", "deepmedic_2017", "unet", "resunet", "resunet_aligned"}
    assert adn | plain | {"clerigues", "sean"} <= names


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_recipe_builds_and_traces(path):
    recipe = load_recipe(path)
    assert isinstance(recipe, Recipe)
    assert recipe.name == path.stem
    check_recipe(recipe)
    hash(recipe)
    shape = (2, *recipe.system.prepare.shape)

    def one_loss(key):
        volume = jnp.zeros((*shape, 1))
        labels = jnp.zeros(shape, jnp.int32)
        batch = Batch(volume, volume, labels, jnp.arange(2))
        params = init_adn(key, recipe.system)
        frozen = {"align": params.align, "tissue": init_unet(key, recipe.tissue_net)}
        loss = make_stage("joint", recipe).loss
        total, _ = loss(joint_params(params), frozen, batch, key, jnp.int32(0))
        return apply_adn(params, volume, recipe.system, key=key).prediction, total

    prediction, total = jax.eval_shape(one_loss, jax.random.key(0))
    assert prediction.shape == (*shape, 1)
    assert total.shape == ()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_docstring_says_command_and_hardware(path):
    text = path.read_text()
    assert "Command:" in text
    assert "Hardware:" in text


@pytest.mark.parametrize(
    ("part", "changed"),
    [
        ("augmentation", {"joint"}),
        ("averaged_weights", {"joint"}),
        ("deep_supervision", {"segment_net"}),
        ("levels", {"segment_net"}),
    ],
)
def test_each_part_of_adn_strong_is_taken_alone(part, changed):
    def fields_of(folder, name):
        recipe = load_recipe(ROOT / folder / f"{name}.py")
        own = {key: value for key, value in vars(recipe).items() if key != "system"}
        return own | vars(recipe.system)

    plain, strong = (fields_of("configs", name) for name in ("clerigues", "adn_strong"))
    recipe = fields_of("examples/strong_parts", part)
    assert recipe["name"] == f"clerigues_{part}"
    assert {key for key in plain if recipe[key] != plain[key]} == changed | {"name"}
    assert all(recipe[key] != strong[key] for key in changed)
