"""Every named term of `adn_jax.losses` in PyTorch, and their weighted sums."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor

from adn_jax.config import AlignLossSettings, JointLossSettings
from adn_jax.errors import UserError
from benchmarks.torch_reference.chain import Map, Outputs, Pose, mirror

Scalar = Float[Tensor, ""]

Loss = tuple[Scalar, dict[str, Scalar]]

LEAST_IN_VIEW = 0.01
"""Share of the head below which `mirror_in_view` stops rising."""

ONLY_OURS = ("focal_tversky", "boundary", "size_by_volume")
"""Terms that the reference does not have."""

SMALLEST_WEIGHT = 1e-6
"""Lower bound in the generalised Dice loss."""


@dataclass(frozen=True)
class Targets:
    """G on I's grid and on X's; grey matter, white matter and CSF on X's."""

    lesion: Map
    aligned_lesion: Map
    tissue: Float[Tensor, "b 3 z y x"]


@dataclass(frozen=True)
class AlignOutputs:
    """I, X, X', X' warped back, the pose and the one that it is led to."""

    volume: Map
    aligned: Map
    mirrored: Map
    reconstruction: Map
    pose: Pose
    search_pose: Pose


def generalised_dice(probability: Map, label: Map) -> Scalar:
    """1 - 2 sum_c w_c sum(p_c G_c) / sum_c max(w_c sum(p_c + G_c), 1e-6)."""
    overlap = total = probability.new_zeros(())
    for predicted, true in ((probability, label), (1 - probability, 1 - label)):
        size = true.sum()
        weight = 1 / size.square().clamp(min=SMALLEST_WEIGHT)
        overlap = overlap + weight * (predicted * true).sum()
        total = total + (weight * (predicted.sum() + size)).clamp(min=SMALLEST_WEIGHT)
    return 1 - 2 * overlap / total


def tissue(outputs: Outputs, targets: Targets) -> Scalar:
    """Mean of P where normal grey faces normal white, or white grey, and in CSF."""
    normal = targets.tissue * (1 - targets.aligned_lesion)
    grey, white, csf = normal.split(1, dim=1)
    unlike = mirror(grey) * white + mirror(white) * grey
    return (outputs.pathological * (unlike + csf)).mean()


def tissue_one_way(outputs: Outputs, targets: Targets) -> Scalar:
    """Mean of P on normal white voxels whose mirror image is grey, and in CSF."""
    grey, white, csf = targets.tissue.split(1, dim=1)
    charged = (mirror(grey) * white + csf) * (1 - targets.aligned_lesion)
    return (outputs.pathological * charged).mean()


def size(outputs: Outputs, targets: Targets) -> Scalar:
    """|mean P - mean T(G)|."""
    return (outputs.pathological.mean() - targets.aligned_lesion.mean()).abs()


def size_in_asymmetry(outputs: Outputs, targets: Targets) -> Scalar:
    """|mean P - mean(A T(G))|."""
    within = (outputs.asymmetry * targets.aligned_lesion).mean()
    return (outputs.pathological.mean() - within).abs()


def symmetric(outputs: Outputs, _: Targets) -> Scalar:
    """mean(P (1 - A))."""
    return (outputs.pathological * (1 - outputs.asymmetry)).mean()


def symmetric_voxels(outputs: Outputs, _: Targets) -> Scalar:
    """mean(P [A = 0])."""
    return (outputs.pathological * (outputs.asymmetry == 0)).mean()


def pathology_supervision(outputs: Outputs, targets: Targets) -> Scalar:
    """Cross-entropy and generalised Dice of D's output against T(G)."""
    pair = (outputs.pathological_probability, targets.aligned_lesion)
    return F.binary_cross_entropy(*pair) + generalised_dice(*pair)


def pathology_cross_entropy(outputs: Outputs, targets: Targets) -> Scalar:
    """Cross-entropy of D's output against T(G)."""
    return F.binary_cross_entropy(
        outputs.pathological_probability, targets.aligned_lesion
    )


def intrinsic(outputs: Outputs, _: Targets) -> Scalar:
    """-|mean(A - P)|."""
    return -(outputs.asymmetry - outputs.pathological).mean().abs()


def intrinsic_positive(outputs: Outputs, _: Targets) -> Scalar:
    """-mean max(A - P, 0)."""
    return -F.relu(outputs.asymmetry - outputs.pathological).mean()


def mirror_distance(outputs: AlignOutputs) -> Scalar:
    """mean |X - X'|."""
    return F.l1_loss(outputs.aligned, outputs.mirrored)


def mirror_in_view(outputs: AlignOutputs) -> Scalar:
    """mean |X - X'| of each head over the share of its intensity still in view."""
    axes = (1, 2, 3, 4)
    distance = (outputs.aligned - outputs.mirrored).abs().mean(axes)
    brightness = outputs.volume.mean(axes).clamp(min=1e-6)
    in_view = outputs.aligned.mean(axes) / brightness
    return (distance / in_view.clamp(min=LEAST_IN_VIEW)).mean()


def reconstruction(outputs: AlignOutputs) -> Scalar:
    """mean |I - sample(X', M^-1)|."""
    return F.l1_loss(outputs.reconstruction, outputs.volume)


def pose_regression(outputs: AlignOutputs) -> Scalar:
    """Squared distance of the pose's six numbers to the search's, mean of heads."""
    pairs = zip(outputs.pose, outputs.search_pose, strict=True)
    return (
        torch.cat([one - other for one, other in pairs], dim=1).square().sum(1).mean()
    )


ALIGNMENT = {
    "mirror": mirror_distance,
    "mirror_in_view": mirror_in_view,
    "reconstruction": reconstruction,
    "pose_regression": pose_regression,
}

SEGMENTATION = {
    "cross_entropy": F.binary_cross_entropy,
    "generalised_dice": generalised_dice,
}

DISENTANGLEMENT = {
    "tissue": tissue,
    "tissue_one_way": tissue_one_way,
    "size": size,
    "size_in_asymmetry": size_in_asymmetry,
    "pathology_supervision": pathology_supervision,
    "pathology_cross_entropy": pathology_cross_entropy,
    "symmetric": symmetric,
    "symmetric_voxels": symmetric_voxels,
    "intrinsic": intrinsic,
    "intrinsic_positive": intrinsic_positive,
}


def joint_loss(
    outputs: Outputs, targets: Targets, settings: JointLossSettings, step: int
) -> Loss:
    """L_F + lambda L_D; L_F of D's output takes the place of L_D in the warm start."""
    pair = (outputs.prediction, targets.lesion)
    if settings.grid == "aligned":
        pair = (outputs.aligned_prediction, targets.aligned_lesion)
    total, values = weighted(SEGMENTATION, settings, *pair)
    if settings.regularisation:
        regularisation, terms = weighted(DISENTANGLEMENT, settings, outputs, targets)
        if settings.warm_start_steps:
            pair = (outputs.pathological_probability, targets.aligned_lesion)
            terms["warm_start"], _ = weighted(SEGMENTATION, settings, *pair)
            if step < settings.warm_start_steps:
                regularisation = terms["warm_start"]
        total = total + settings.regularisation * regularisation
        values |= terms
    return total, values


def align_loss(outputs: AlignOutputs, settings: AlignLossSettings, step: int) -> Loss:
    """L_T; the pose regression stands alone in the warm start."""
    total, values = weighted(ALIGNMENT, settings, outputs)
    if settings.warm_start_steps:
        values["pose_regression"] = pose_regression(outputs)
        if step < settings.warm_start_steps:
            total = (settings.pose_regression or 1.0) * values["pose_regression"]
    return total, values


def weighted(
    terms: Mapping[str, Callable[..., Tensor]],
    settings: AlignLossSettings | JointLossSettings,
    *inputs: Any,
) -> Loss:
    """Sum of the terms times their weights, and each one's value."""
    weights = {name: getattr(settings, name) for name in terms}
    values = {name: terms[name](*inputs) for name in terms if weights[name]}
    parts = [weights[name] * value for name, value in values.items()]
    return torch.stack(parts).sum() if parts else torch.zeros(()), values


def refuse_extra(settings: AlignLossSettings | JointLossSettings) -> None:
    """Refuse terms that are written for jax, and weights that change."""
    only_ours = [name for name in ONLY_OURS if getattr(settings, name, 0)]
    if only_ours or settings.schedules:
        raise UserError(
            "the PyTorch peer computes the terms of the recipes that are shipped, not "
            f"{', '.join(only_ours or ['schedules'])}; leave them out for both sides."
        )
    if settings.extra:
        raise UserError(
            f"the PyTorch peer cannot compute the extra loss terms "
            f"{', '.join(settings.extra)}; leave them out for both sides."
        )
