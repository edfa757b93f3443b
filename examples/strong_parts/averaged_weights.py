"""`clerigues` with averaged weights."""

from adn_jax.config import Recipe
from examples.strong_parts import clerigues_with


def get_config() -> Recipe:
    """The recipe."""
    return clerigues_with("averaged_weights", optimizer=("ema_decay",))
