"""`adn_parts`, small enough for two CPU cores: the recipe of `make demo`.

Command:  make demo
Hardware: 2 CPU cores.
"""

from dataclasses import replace
from pathlib import Path

from adn_jax.config import Recipe
from adn_jax.config.recipe_file import load_recipe
from adn_jax.config.sizes import demo_size


def get_config() -> Recipe:
    """`adn_parts` on a 16 x 64 x 64 grid with 8 base maps."""
    parts = load_recipe(Path(__file__).with_name("adn_parts.py"))
    return replace(demo_size(parts), name="demo")
