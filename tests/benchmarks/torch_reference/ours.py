"""Our arrays and parameters handed to the peer, and the tiny system they come from."""

from dataclasses import fields

import jax
import numpy as np

from adn_jax.config import (
    AlignmentNetSettings,
    PrepareSettings,
    Recipe,
    SystemSettings,
    UNetSettings,
)

SHAPE = (4, 8, 12)

NET = UNetSettings("unet", widths=(2,), groups=2, dropout=0.0)

RECIPE = Recipe(
    name="tiny",
    system=SystemSettings(
        prepare=PrepareSettings(shape=SHAPE, spacing_mm=(5.0, 1.2, 1.5)),
        alignment_net=AlignmentNetSettings(widths=(2,)),
        disentangle_net=NET,
        segment_net=NET,
    ),
    tissue_net=UNetSettings("unet", widths=(2,), groups=2, outputs=5),
)


def draw_params(init):
    """Parameters in the shapes of `init`'s, none of them 0 or 1; nothing compiles."""
    shapes = jax.eval_shape(init, jax.random.key(0))
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        scale = {"kernel": np.prod(leaf.shape[:-1]) ** -0.5}.get(path[-1].key, 0.2)
        values = scale * rng.normal(size=leaf.shape) + (path[-1].key == "scale")
        return values.astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def by_name(record):
    """The fields of a record of ours; those of an alignment stand among them."""
    found = {field.name: getattr(record, field.name) for field in fields(record)}
    alignment = found.pop("alignment", None)
    if alignment is not None:
        names = ("pose", "matrix", "inverse")
        found |= {name: getattr(alignment, name) for name in names}
    return found


def channels_first(array):
    """A map of ours in the peer's layout; everything else as it is."""
    array = np.asarray(array)
    return np.moveaxis(array, -1, 1) if array.ndim == 5 else array
