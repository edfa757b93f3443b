"""What two recipes train differently: settings of a stage, and terms of one's own."""

import re
from dataclasses import replace

from adn_jax.config import (
    AlignLossSettings,
    AlignmentNetSettings,
    AsymmetrySettings,
    JointLossSettings,
    Recipe,
    StageSettings,
    SystemSettings,
    UNetSettings,
)
from adn_jax.config.serialization import differing_fields
from adn_jax.losses.recipes import DISENTANGLEMENT, resolve_term

NEEDS_OF_T = (
    *("prepare", "precision", "seed"),
    *("alignment", "alignment_net", "align_loss", "align", "stream"),
)
"""Fields of a recipe on which a trained T depends."""

STAGE_NEEDS = {
    "align": NEEDS_OF_T,
    "tissue": (
        *NEEDS_OF_T,
        *("soft_labels", "tissue_source", "tissue_net", "tissue", "box"),
    ),
}
"""Fields on which what a stage trains depends; the joint stage depends on all."""


def changed_settings(stage: str, old: Recipe, recipe: Recipe) -> list[str]:
    """A line for each setting that a stage depends on and two recipes differ in."""
    needs = STAGE_NEEDS.get(stage)
    return [
        line
        for line in differing_fields(used_settings(old), used_settings(recipe))
        if needs is None or re.split(r"[. ]", line)[0] in needs
    ]


def used_settings(recipe: Recipe) -> Recipe:
    """The recipe with settings on which nothing depends at their defaults.

    Those are what is computed again to save memory, which changes rounding alone, and
    those of parts that the system lacks: without T those of its training and of its
    network, but for the limits that tell whether heads turn in plane alone; without a
    tissue net and without D likewise, but for the rim of A, which terms of the user's
    own may see; and without lambda L_D's weights and its warm start.
    """
    recipe = recipe.with_fields(remat=SystemSettings().remat)
    system = recipe.system
    if not system.alignment.network:
        limits = AlignmentNetSettings(
            rotation_limit_deg=system.alignment_net.rotation_limit_deg,
            translation_limit=system.alignment_net.translation_limit,
        )
        recipe = recipe.with_fields(
            align_loss=AlignLossSettings(), align=StageSettings(), alignment_net=limits
        )
    if recipe.tissue_source != "network":
        recipe = replace(recipe, tissue_net=UNetSettings(), tissue=StageSettings())
    if not system.disentangles:
        seen = bool(recipe.joint_loss.extra)
        rim_mm = (system.asymmetry if seen else AsymmetrySettings()).rim_mm
        recipe = recipe.with_fields(
            disentangle_net=UNetSettings(),
            disentangle_input=SystemSettings().disentangle_input,
            asymmetry=AsymmetrySettings(rim_mm=rim_mm),
        )
    if not recipe.joint_loss.regularisation:
        plain = JointLossSettings()
        idle = (*DISENTANGLEMENT, "warm_start_steps")
        usual = {name: getattr(plain, name) for name in idle}
        recipe = replace(recipe, joint_loss=replace(recipe.joint_loss, **usual))
    return recipe


def own_terms(recipe: Recipe, stage: str | None = None) -> dict[str, str | None]:
    """The loss terms of the user's own that a stage (None: any) adds, with the checksum
    of their code."""
    losses = {"align": recipe.align_loss, "joint": recipe.joint_loss}
    named = [
        resolve_term(text)
        for each, loss in losses.items()
        for text in loss.extra
        if stage in {None, each}
    ]
    return {term.name: term.code_sha256 for term in named}


def listed(changed: list[str]) -> str:
    """The first few of these lines."""
    return "; ".join([*changed[:5], *["and more"] * (len(changed) > 5)])
