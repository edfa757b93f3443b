"""`clerigues` with one part of `adn_strong`: stronger augmentation.

Command:  python -m adn_jax table DIR OUT --size demo --reference clerigues \
              --recipes configs/clerigues.py examples/strong_parts/augmentation.py
Hardware: 2 CPU cores.
Result:   docs/results.md.
"""

from dataclasses import replace
from pathlib import Path

from adn_jax.cli.arguments import load_recipe
from adn_jax.config import Recipe

CONFIGS = Path(__file__).parents[2] / "configs"


def get_config() -> Recipe:
    """The recipe."""
    plain = load_recipe(CONFIGS / "clerigues.py")
    strong = load_recipe(CONFIGS / "adn_strong.py")
    joint = replace(plain.joint, augment=strong.joint.augment)
    return replace(plain, name="clerigues_augmentation", joint=joint)
