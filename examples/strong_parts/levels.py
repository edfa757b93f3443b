"""`clerigues` with five levels; the first pooling leaves thick slices alone."""

from adn_jax.config import Recipe
from examples.strong_parts import clerigues_with


def get_config() -> Recipe:
    """The recipe."""
    return clerigues_with("levels", net=("widths", "in_plane_levels"))
