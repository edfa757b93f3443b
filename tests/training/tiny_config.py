"""The tiny recipe as a config file."""

from adn_jax.config import Recipe
from tests.training.tiny import tiny_recipe


def get_config() -> Recipe:
    return tiny_recipe()
