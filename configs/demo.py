"""`adn`, small enough for two CPU cores: the recipe of `make demo`.

Command:  make demo
Hardware: 2 CPU cores.
"""

from dataclasses import replace
from pathlib import Path

from adn_jax.config import Recipe
from adn_jax.config.recipe_file import load_recipe
from adn_jax.config.sizes import demo_size


def get_config() -> Recipe:
    """`adn` on a 16 x 64 x 64 grid with 8 base maps."""
    adn = load_recipe(Path(__file__).with_name("adn.py"))
    return replace(demo_size(adn), name="demo")
