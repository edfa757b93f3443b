"""One update of T, or of D and F, in PyTorch."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from adn_jax.config import Recipe, StageSettings
from benchmarks.torch_reference.cases import Cases, augment, draw, pose_of_upright
from benchmarks.torch_reference.chain import (
    Adn,
    Map,
    Outputs,
    estimate_pose,
    matrices,
    mirror,
    run,
    sample,
    to_box,
)
from benchmarks.torch_reference.losses import (
    AlignOutputs,
    Targets,
    align_loss,
    joint_loss,
)

Values = dict[str, Tensor]

TISSUES = (1, 2, 3)
"""Label values of grey matter, white matter and CSF."""


class Trainer:
    """AdamW with poly decay and optional clipping over some parameters."""

    def __init__(self, parameters: Iterable[nn.Parameter], settings: StageSettings):
        """Start at step 0."""
        self.parameters = list(parameters)
        self.clip_norm = settings.optimizer.clip_norm
        self.step = 0
        optimizer, steps = settings.optimizer, max(settings.steps, 1)
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=optimizer.learning_rate,
            betas=optimizer.betas,
            eps=1e-8,
            weight_decay=optimizer.weight_decay,
            fused=True,
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer,
            lambda step: (1 - min(step / steps, 1)) ** optimizer.decay_power,
        )

    def update(self, loss: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """Follow the gradient of a loss; gives its norm before clipping."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = self.clip()
        self.optimizer.step()
        self.schedule.step()
        self.step += 1
        return norm

    def clip(self) -> Float[Tensor, ""]:
        """Shorten the gradient to the largest norm allowed; gives its norm."""
        if self.clip_norm is not None:
            return nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        return nn.utils.get_total_norm([p.grad for p in self.parameters])


def align_step(
    alignment_net: nn.Module, trainer: Trainer, cases: Cases, recipe: Recipe
) -> Values:
    """Update T; the coarse search is taken to have found every head upright."""
    prepare, settings = recipe.system.prepare, recipe.align.augment
    draws = draw(cases, settings)
    volume = augment(cases, draws, settings, prepare.spacing_mm).volume
    pose = estimate_pose(alignment_net, volume, recipe.system)
    matrix, inverse = matrices(pose, recipe.system)
    aligned = sample(volume, matrix, recipe.system)
    mirrored = mirror(aligned)
    outputs = AlignOutputs(
        volume=volume,
        aligned=aligned,
        mirrored=mirrored,
        reconstruction=sample(mirrored, inverse, recipe.system),
        pose=pose,
        search_pose=pose_of_upright(draws, prepare.shape, prepare.spacing_mm),
    )
    total, values = align_loss(outputs, recipe.align_loss, trainer.step)
    norm = trainer.update(total)
    return detached({"loss": total, **values, "gradient_norm": norm})


def joint_step(
    adn: Adn,
    tissue_net: nn.Module | None,
    trainer: Trainer,
    cases: Cases,
    recipe: Recipe,
) -> Values:
    """Update D and F with T and the tissue net fixed."""
    cases = training_cases(cases, recipe)
    outputs = adn(cases.volume)
    targets = make_targets(outputs, cases.labels, tissue_net, recipe)
    total, values = joint_loss(outputs, targets, recipe.joint_loss, trainer.step)
    dice = hard_dice(outputs.prediction, targets.lesion, recipe.threshold).mean()
    norm = trainer.update(total)
    return detached({"loss": total, **values, "gradient_norm": norm, "dice": dice})


def training_cases(cases: Cases, recipe: Recipe) -> Cases:
    """The augmented cases, their lesion partial or cut at one half."""
    if not recipe.soft_labels:
        cases = Cases(cases.volume, cases.labels.round())
    settings = recipe.joint.augment
    return augment(
        cases, draw(cases, settings), settings, recipe.system.prepare.spacing_mm
    )


@torch.no_grad()
def make_targets(
    outputs: Outputs,
    labels: Float[Tensor, "b n z y x"],
    tissue_net: nn.Module | None,
    recipe: Recipe,
) -> Targets:
    """G on both grids and the tissue on X's."""
    system = recipe.system
    aligned = to_box(sample(labels, outputs.matrix, system, "nearest"), system)
    if recipe.tissue_source == "network":
        logits = run(tissue_net, outputs.aligned, system)
        tissue = one_hot_tissue(logits.argmax(dim=1, keepdim=True))
    elif recipe.tissue_source == "maps":
        tissue = one_hot_tissue(aligned[:, 1:])
    else:
        tissue = torch.zeros_like(aligned).expand(-1, len(TISSUES), -1, -1, -1)
    return Targets(labels[:, :1], aligned[:, :1], tissue)


def one_hot_tissue(labels: Tensor) -> Float[Tensor, "b 3 z y x"]:
    """Channels grey, white, CSF from labels 1, 2, 3 (b 1 z y x)."""
    return torch.cat([labels == tissue for tissue in TISSUES], dim=1).float()


@torch.no_grad()
def hard_dice(prediction: Map, lesion: Map, threshold: float) -> Float[Tensor, " b"]:
    """2 |O and G| / (|O| + |G|) of each case; 1 where both are empty."""
    axes = (1, 2, 3, 4)
    found, label = prediction >= threshold, lesion >= 0.5
    both, sizes = (found & label).sum(axes), found.sum(axes) + label.sum(axes)
    return torch.where(sizes > 0, 2 * both / sizes.clamp(min=1), 1.0)


def detached(values: Values) -> Values:
    """Values without their graph, which would keep the step's memory."""
    return {name: value.detach() for name, value in values.items()}
