"""Loss terms of one's own (docs/loss-variants.md): functions that give one number.

Each is named on the command line, --joint-loss.extra examples.loss_terms:NAME:WEIGHT;
those of T with --align-loss.extra.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from adn_jax.losses.alignment import AlignOutputs
from adn_jax.pipeline.adn import AdnOutputs, Targets


def boundary_charge(outputs: AdnOutputs, targets: Targets) -> Float[Array, ""]:
    """Charge P for its slopes outside the infarct: ragged maps cost more."""
    slope = jnp.abs(jnp.diff(outputs.pathological, axis=3))
    return jnp.mean(slope * (1 - targets.aligned_lesion[:, :, :, 1:]))


def two_sided(
    outputs: AdnOutputs,
    targets: Targets,  # noqa: ARG001
) -> Float[Array, ""]:
    """Charge P that faces P: an infarct is seldom on both sides at the same place."""
    facing = jnp.flip(outputs.pathological, axis=3)
    return jnp.mean(outputs.pathological * facing)


def agreement(
    outputs: AdnOutputs,
    targets: Targets,  # noqa: ARG001
) -> Float[Array, ""]:
    """Charge the difference between P and F's own prediction on the same grid."""
    difference = outputs.pathological - outputs.aligned_prediction
    return jnp.mean(jnp.square(difference))


def small_turns(outputs: AlignOutputs) -> Float[Array, ""]:
    """Charge the squared angles (radians) of T's rotation."""
    return jnp.mean(jnp.square(outputs.pose.rotation))
