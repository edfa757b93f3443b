"""`clerigues` with one part of `adn_strong`: two decoder levels learn beside the last.

Command:  python -m adn_jax table DIR OUT --size demo --reference clerigues \
              --recipes configs/clerigues.py examples/strong_parts/deep_supervision.py
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
    levels = strong.segment_net.deep_supervision
    net = replace(plain.segment_net, deep_supervision=levels)
    return replace(plain, name="clerigues_deep_supervision", segment_net=net)
