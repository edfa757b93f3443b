"""The smallest recipe of every network, for tests that compile whole programs."""

from dataclasses import replace

from adn_jax.config import Recipe
from tests.training.tiny import NET, tiny_recipe


def small_recipe(**changes) -> Recipe:
    """The tiny recipe with networks of one level."""
    tiny, net = tiny_recipe(), replace(NET, widths=(2,))
    small = tiny.with_fields(
        tissue_net=replace(tiny.tissue_net, widths=(2,)),
        alignment_net=replace(tiny.system.alignment_net, widths=(2,)),
        disentangle_net=net,
        segment_net=net,
    )
    return small.with_fields(**changes)
