"""Loss recipes: named terms times their weights.

Each recipe returns the total and the plain value of every term by its name in the
settings. A term of weight 0 is not computed.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from adn_jax.config import AlignLossSettings, JointLossSettings
from adn_jax.losses import alignment, disentanglement
from adn_jax.losses.extra import resolve_term
from adn_jax.losses.segmentation import cross_entropy, generalised_dice
from adn_jax.types import AdnOutputs, Targets, View, Volume

Step = Integer[Array, ""] | int
Values = dict[str, Float[Array, ""]]
Loss = tuple[Float[Array, ""], Values]

ALIGNMENT = {
    "mirror": alignment.mirror,
    "mirror_in_view": alignment.mirror_in_view,
    "reconstruction": alignment.reconstruction,
    "view_regression": alignment.view_regression,
}
"""Terms of L_T, from `AlignOutputs`."""

SEGMENTATION = {
    "cross_entropy": cross_entropy,
    "generalised_dice": generalised_dice,
}
"""Terms of L_F, from a probability map and its label."""

DISENTANGLEMENT = {
    "tissue": disentanglement.tissue,
    "tissue_one_way": disentanglement.tissue_one_way,
    "size": disentanglement.size,
    "size_in_asymmetry": disentanglement.size_in_asymmetry,
    "symmetric": disentanglement.symmetric,
    "symmetric_voxels": disentanglement.symmetric_voxels,
    "intrinsic": disentanglement.intrinsic,
    "intrinsic_positive": disentanglement.intrinsic_positive,
}
"""Terms of L_D, from `AdnOutputs` and `Targets`."""


def joint_loss(
    outputs: AdnOutputs, targets: Targets, settings: JointLossSettings, step: Step
) -> Loss:
    """L_F + lambda L_D + extra terms, which train D and F together (equation 6).

    In the first `warm_start_steps` steps L_F of P against T(G), named "warm_start",
    takes the place of L_D; lambda weighs it, too, as in the authors' code.
    """
    total, values = _weighted(
        SEGMENTATION, settings, *_prediction(outputs, targets, settings)
    )
    if settings.regularisation:
        regularisation, terms = _weighted(DISENTANGLEMENT, settings, outputs, targets)
        if settings.warm_start_steps:
            warm_start, _ = _weighted(
                SEGMENTATION, settings, outputs.pathological, targets.aligned_lesion
            )
            terms["warm_start"] = warm_start
            warm = step < settings.warm_start_steps
            regularisation = jnp.where(warm, warm_start, regularisation)
        total = total + settings.regularisation * regularisation
        values = values | terms
    extra, terms = _extra(settings.extra, outputs, targets)
    return total + extra, values | terms


def align_loss(
    aligned: Volume,
    mirrored: Volume,
    volume: Volume,
    reconstruction: Volume,
    view: View,
    search_view: View,
    settings: AlignLossSettings,
    step: Step,
) -> Loss:
    """L_T of X, X', I, X' warped back to I's grid, T's view and the search's.

    In the first `warm_start_steps` steps the view regression stands alone, with the
    weight 1 where its own is 0. Extra terms take the `AlignOutputs`.
    """
    outputs = alignment.AlignOutputs(
        volume, aligned, mirrored, reconstruction, view, search_view
    )
    total, values = _weighted(ALIGNMENT, settings, outputs)
    extra, terms = _extra(settings.extra, outputs)
    total, values = total + extra, values | terms
    if settings.warm_start_steps:
        regression = alignment.view_regression(outputs)
        weight = settings.view_regression or 1.0
        total = jnp.where(step < settings.warm_start_steps, weight * regression, total)
        values["view_regression"] = regression
    return total, values


def _prediction(
    outputs: AdnOutputs, targets: Targets, settings: JointLossSettings
) -> tuple[Volume, Volume]:
    """O and G on I's grid (paper), or Y and T(G) on X's (authors' code)."""
    if settings.grid == "scan":
        return outputs.prediction, targets.lesion
    return outputs.aligned_prediction, targets.aligned_lesion


def _weighted(
    terms: Mapping[str, Callable[..., Float[Array, ""]]],
    settings: AlignLossSettings | JointLossSettings,
    *inputs: Any,
) -> Loss:
    """Sum of the terms times their weights in `settings`, and each one's value."""
    weights = {name: getattr(settings, name) for name in terms}
    values = {name: terms[name](*inputs) for name in terms if weights[name]}
    total = jnp.zeros((), jnp.float32)
    for name, value in values.items():
        total = total + weights[name] * value
    return total, values


def _extra(names: tuple[str, ...], *inputs: Any) -> Loss:
    """Sum of the user's terms times their weights, and each one's value."""
    terms = [resolve_term(name) for name in names]
    values = {term.name: term(*inputs) for term in terms if term.weight}
    total = jnp.zeros((), jnp.float32)
    for term in terms:
        if term.weight:
            total = total + term.weight * values[term.name]
    return total, values
