"""The networks as pure functions of parameters: `network(settings)`, and T's.

Other parts ask `network(settings)`; only benchmarks, the counts of cost and memory and
the import of PyTorch weights look inside.
"""

from adn_jax.models.alignment_net import apply_alignment_net, init_alignment_net
from adn_jax.models.network import Network, PatchForm, network, probability_of
from adn_jax.models.unets import (
    apply_unet,
    apply_unet_levels,
    init_unet,
)

__all__ = [
    "Network",
    "PatchForm",
    "apply_alignment_net",
    "apply_unet",
    "apply_unet_levels",
    "init_alignment_net",
    "init_unet",
    "network",
    "probability_of",
]
