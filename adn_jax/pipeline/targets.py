"""What the joint loss compares with: labels and tissue on X's grid."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from adn_jax.config import Recipe
from adn_jax.models import apply_unet
from adn_jax.pipeline.adn import realign_labels
from adn_jax.types import AdnOutputs, Batch, Params, Targets, Volume

TISSUES = (1, 2, 3)
"""Label values of grey matter, white matter and CSF."""


def make_targets(
    outputs: AdnOutputs, batch: Batch, recipe: Recipe, tissue_params: Params = None
) -> Targets:
    """G on both grids and the tissue on X's; the loss terms leave lesion voxels out."""
    aligned_lesion = realign_labels(batch.lesion, outputs.matrix, recipe.system)
    if recipe.tissue_source == "network":
        with jax.named_scope("tissue"):
            tissue = _segment_tissue(tissue_params, outputs.aligned, recipe)
    elif recipe.tissue_source == "maps":
        moved = realign_labels(batch.tissue[..., None], outputs.matrix, recipe.system)
        with jax.named_scope("tissue"):
            tissue = one_hot_tissue(moved[..., 0])
    else:
        tissue = jnp.zeros((*batch.tissue.shape, len(TISSUES)), jnp.float32)
    return Targets(lesion=batch.lesion, aligned_lesion=aligned_lesion, tissue=tissue)


def _segment_tissue(
    params: Params, aligned: Volume, recipe: Recipe
) -> Float[Array, "b z y x 3"]:
    """Grey, white, CSF as the frozen tissue net sees them on X."""
    logits = apply_unet(
        params,
        jax.lax.stop_gradient(aligned),
        recipe.tissue_net,
        precision=recipe.system.precision,
    )
    return one_hot_tissue(jnp.argmax(logits, axis=-1))


def one_hot_tissue(
    labels: Integer[Array, "b z y x"] | Float[Array, "b z y x"],
) -> Float[Array, "b z y x 3"]:
    """Channels grey, white, CSF from labels 1, 2, 3."""
    channels = jnp.stack([labels == tissue for tissue in TISSUES], axis=-1)
    return jax.lax.stop_gradient(channels.astype(jnp.float32))
