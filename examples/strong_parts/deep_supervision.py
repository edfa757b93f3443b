"""`clerigues` with two decoder levels that learn beside the last."""

from adn_jax.config import Recipe
from examples.strong_parts import clerigues_with


def get_config() -> Recipe:
    """The recipe."""
    return clerigues_with("deep_supervision", net=("deep_supervision",))
