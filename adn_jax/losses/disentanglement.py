"""The terms of L_D, which make P pathological and Q anatomical (equation 5).

Each takes the outputs of the chain and what they are compared with, and gives one
number for the batch. Means run over all voxels of the batch. Where the paper and the
authors' code (train.py) differ, each reading is a term of its own.
"""

import jax
import jax.numpy as jnp

from adn_jax.geometry.sampler import mirror
from adn_jax.losses.segmentation import cross_entropy, generalised_dice
from adn_jax.pipeline.adn import AdnOutputs, Targets
from adn_jax.types import Scalar, Volume

LEAST_INFARCT_SHARE = 1e-4
"""Share of the grid that `size_by_volume` takes for the volume of smaller infarcts."""


def _pathological(outputs: AdnOutputs) -> Volume:
    """P: L_D is of systems alone that have it."""
    assert outputs.pathological is not None
    return outputs.pathological


def tissue(outputs: AdnOutputs, targets: Targets) -> Scalar:
    """L_tissue: mean of P where grey matter faces white, or white grey, and in CSF.

    There the two sides differ because their tissue does. Only normal tissue counts, on
    both sides: infarcted voxels belong to none.
    """
    normal = targets.tissue * (1 - targets.aligned_lesion)
    grey, white, csf = jnp.split(normal, 3, axis=-1)
    unlike = mirror(grey) * white + mirror(white) * grey
    return jnp.mean(_pathological(outputs) * (unlike + csf))


def tissue_one_way(outputs: AdnOutputs, targets: Targets) -> Scalar:
    """L_tissue of the authors' code: only white voxels whose mirror image is grey.

    The voxel itself must be normal; its mirror image may be infarcted.
    """
    grey, white, csf = jnp.split(targets.tissue, 3, axis=-1)
    charged = (mirror(grey) * white + csf) * (1 - targets.aligned_lesion)
    return jnp.mean(_pathological(outputs) * charged)


def lesion_size(outputs: AdnOutputs, targets: Targets) -> Scalar:
    """L_size = |mean P - mean T(G)|: P is about as large as the infarct."""
    return jnp.abs(jnp.mean(_pathological(outputs)) - jnp.mean(targets.aligned_lesion))


def size_in_asymmetry(outputs: AdnOutputs, targets: Targets) -> Scalar:
    """L_size of the authors' code, |mean P - mean(A T(G))|."""
    within = jnp.mean(outputs.asymmetry * targets.aligned_lesion)
    return jnp.abs(jnp.mean(_pathological(outputs)) - within)


def size_by_volume(outputs: AdnOutputs, targets: Targets) -> Scalar:
    """|volume of P - volume of T(G)| / volume of T(G), mean of the cases (ours).

    Each case counts alike, so that a large infarct does not make up for a small one.
    The divisor is no less than 0.0001 of the grid (1.9 ml of the paper's), which also
    stands for the volume of a case without infarct.
    """
    axes = (1, 2, 3, 4)
    found = jnp.mean(_pathological(outputs), axes)
    true = jnp.mean(targets.aligned_lesion, axes)
    return jnp.mean(jnp.abs(found - true) / jnp.maximum(true, LEAST_INFARCT_SHARE))


def symmetric(
    outputs: AdnOutputs,
    targets: Targets,  # noqa: ARG001
) -> Scalar:
    """L_asymmetry = mean(P (1 - A)): no P where the sides are alike."""
    return jnp.mean(_pathological(outputs) * (1 - outputs.asymmetry))


def symmetric_voxels(
    outputs: AdnOutputs,
    targets: Targets,  # noqa: ARG001
) -> Scalar:
    """L_asymmetry of the authors' code, mean(P [A = 0])."""
    return jnp.mean(jnp.where(outputs.asymmetry == 0, _pathological(outputs), 0))


def pathology_supervision(outputs: AdnOutputs, targets: Targets) -> Scalar:
    """Cross-entropy and generalised Dice of D's output against T(G) (ours).

    The paper's terms ask for no P: as long as mean P is below mean T(G) and mean A,
    their sum grows by 1 - A and L_tissue with P, wherever it is.
    """
    assert outputs.pathological_probability is not None
    pair = outputs.pathological_probability, targets.aligned_lesion
    return cross_entropy(*pair) + generalised_dice(*pair)


def pathology_cross_entropy(outputs: AdnOutputs, targets: Targets) -> Scalar:
    """Cross-entropy of D's output against T(G) by itself (ours).

    Where D is sure and wrong, and in heads without infarct, it still has a slope, which
    the generalised Dice of `pathology_supervision` has not.
    """
    assert outputs.pathological_probability is not None
    return cross_entropy(outputs.pathological_probability, targets.aligned_lesion)


def intrinsic(
    outputs: AdnOutputs,
    targets: Targets,  # noqa: ARG001
) -> Scalar:
    """L_intrinsic = -|mean(A - P)|: all that is not pathological is anatomical."""
    return -jnp.abs(jnp.mean(outputs.asymmetry - _pathological(outputs)))


def intrinsic_positive(
    outputs: AdnOutputs,
    targets: Targets,  # noqa: ARG001
) -> Scalar:
    """L_intrinsic of the authors' code, -mean max(A - P, 0)."""
    return -jnp.mean(jax.nn.relu(outputs.asymmetry - _pathological(outputs)))
