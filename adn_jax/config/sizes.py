"""Smaller forms of a recipe, for machines without an accelerator."""

from dataclasses import replace
from typing import Literal

from adn_jax.config import (
    DeepMedicSettings,
    OptimizerSettings,
    Recipe,
    SegmentNetSettings,
    SymmetryNetSettings,
    UNetSettings,
)

Size = Literal["full", "demo"]
"""A recipe as its file says, or small enough for two CPU cores."""


def at_size(recipe: Recipe, size: Size) -> Recipe:
    """The recipe in the form that is asked for."""
    return demo_size(recipe) if size == "demo" else recipe


def demo_size(recipe: Recipe) -> Recipe:
    """The same system on a grid of 16 x 64 x 64 voxels with few maps and steps.

    Two CPU cores train it in minutes. Batches have the size and stages the number of
    steps with which `configs/demo.py` learns the easy phantoms.
    """
    system, loss = recipe.system, recipe.joint_loss
    grid = {"shape": (16, 64, 64), "spacing_mm": (9.0, 3.0, 3.0)}
    t_widths = quarter(system.alignment_net.widths)
    return replace(
        recipe,
        system=replace(
            system,
            prepare=replace(system.prepare, **grid),
            box=None,  # a brain fills this grid
            alignment_net=replace(system.alignment_net, widths=t_widths),
            disentangle_net=_demo_net(system.disentangle_net),
            segment_net=_demo_net(system.segment_net),
        ),
        tissue_net=_demo_net(recipe.tissue_net),
        align_loss=replace(
            recipe.align_loss,
            warm_start_steps=70 if recipe.align_loss.warm_start_steps else 0,
        ),
        joint_loss=replace(loss, warm_start_steps=100 if loss.warm_start_steps else 0),
        align=replace(
            recipe.align,
            steps=100,
            batch=16,
            micro_batches=1,
            validate_every=50,
            augment=replace(
                recipe.align.augment,
                translation=min(recipe.align.augment.translation, 0.05),
            ),
        ),
        tissue=replace(
            recipe.tissue,
            steps=min(recipe.tissue.steps, 300),
            batch=2,
            micro_batches=1,
            validate_every=75,
            optimizer=_demo_optimizer(recipe.tissue.optimizer),
        ),
        joint=replace(
            recipe.joint,
            steps=300,
            batch=2,
            micro_batches=1,
            validate_every=75,
            optimizer=_demo_optimizer(recipe.joint.optimizer),
        ),
    )


def _demo_net(settings: SegmentNetSettings) -> SegmentNetSettings:
    """A network with a quarter of the maps. U-Nets lose their dropout, which few maps
    cannot bear, DeepMedic most of its patches, each as costly as a whole head."""
    match settings:
        case UNetSettings():
            return replace(settings, widths=quarter(settings.widths), dropout=0.0)
        case DeepMedicSettings():
            return replace(
                settings,
                widths=quarter(settings.widths),
                joined_widths=quarter(settings.joined_widths),
                samples=2,
                side=15,
                tile=75,
            )
        case SymmetryNetSettings():
            return replace(settings, widths=quarter(settings.widths))


def quarter(widths: tuple[int, ...]) -> tuple[int, ...]:
    """A quarter of the maps of each layer, rounded up to an even number."""
    return tuple(2 * -(-width // 8) for width in widths)


def _demo_optimizer(settings: OptimizerSettings) -> OptimizerSettings:
    """AdamW at twice the rate, for the few steps; another optimizer as it is. An
    average of weights forgets within them."""
    settings = replace(settings, ema_decay=min(settings.ema_decay, 0.98))
    if settings.kind != "adamw":
        return settings
    return replace(settings, learning_rate=2 * settings.learning_rate)
