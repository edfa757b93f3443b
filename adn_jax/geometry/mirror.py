"""Left and right exchanged."""

import jax.numpy as jnp
from jaxtyping import Array, Shaped


def mirror(volume: Shaped[Array, "b z y x c"]) -> Shaped[Array, "b z y x c"]:
    """Flip x, the left-right axis: X' of X."""
    return jnp.flip(volume, axis=3)
