"""The small recipe as a config file."""

from adn_jax.config import Recipe
from tests.training.tiny import small_recipe


def get_config() -> Recipe:
    return small_recipe()
