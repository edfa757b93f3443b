"""Whether the losses of a recipe teach, and all that it sets counts at some step.

Asked before a stage begins and not where a run is read, so that runs of older versions
stay readable and go on.
"""

from collections.abc import Collection, Iterable, Iterator

from adn_jax.config import AlignLossSettings, JointLossSettings, Recipe, SystemSettings
from adn_jax.config.schedules import parse_schedule
from adn_jax.errors import UserError
from adn_jax.losses.recipes import (
    ALIGNMENT,
    DISENTANGLEMENT,
    SEGMENTATION,
    WARM_START,
    resolve_term,
)

OF_ANOTHER_UNIT = ("size", "size_by_volume")
"""Terms that compare P with shares of voxels, which parts of A cannot reach."""


def check_losses(recipe: Recipe, stages: Collection[str]) -> None:
    """Raise `UserError` if a loss of these stages teaches nothing, or has a schedule of
    what does not count, or if F is shown no head."""
    if "align" in stages:
        _check_align_loss(recipe)
    if "joint" in stages:
        _check_shown(recipe.system)
        _check_joint_loss(recipe)


def idle_parts(recipe: Recipe, stages: Collection[str]) -> Iterator[str]:
    """Sentences on parts of the losses of these stages that never count, as in a short
    trial, or that cannot be met."""
    if "align" in stages:
        loss = recipe.align_loss
        others = [
            name for name in _with_weight(ALIGNMENT, loss) if name != "pose_regression"
        ]
        if others and loss.warm_start_steps >= recipe.align.steps:
            yield _all_warm("align", loss.warm_start_steps, recipe, ", ".join(others))
    if "joint" in stages:
        yield from _idle_parts_of_joint(recipe)


def _idle_parts_of_joint(recipe: Recipe) -> Iterator[str]:
    loss = recipe.joint_loss
    charged = _charged(loss)
    if charged and loss.warm_steps >= recipe.joint.steps:
        yield _all_warm("joint", loss.warm_steps, recipe, "L_D")
    if loss.warm_steps and not _with_weight(WARM_START, loss):
        yield (
            f"joint_loss.warm_start_steps is {loss.warm_start_steps}, but "
            f"{' and '.join(WARM_START)}, which teach P in them, have the weight 0, so "
            "that P learns nothing until then; --joint-loss.warm-start-steps 0 leaves "
            "the warm start out."
        )
    unmet = [name for name in charged if name in OF_ANOTHER_UNIT]
    if unmet and recipe.system.asymmetry.adds_up:
        yield (
            f"asymmetry.pathological is 'part', but joint_loss.{unmet[0]} asks of P "
            "to be as large as the infarct, which a part of A cannot be; "
            f"--joint-loss.{unmet[0].replace('_', '-')} 0 and "
            "--joint-loss.size-in-asymmetry 1 ask for what it can be."
        )


def _check_shown(system: SystemSettings) -> None:
    """Refuse z-scores of X_hat; runs trained with them predict as they did."""
    if system.zscore_in_brain and system.disentangles:
        raise UserError(
            f"zscore_in_brain is set and segment_input is {system.segment_input!r}, "
            "but where P is large X_hat is below 0 and counts as no brain, so that F "
            "sees none; set --no-zscore-in-brain."
        )


def _check_align_loss(recipe: Recipe) -> None:
    loss = recipe.align_loss
    counted = _with_weight(ALIGNMENT, loss)
    if not counted and not _own_terms(loss) and not loss.warm_start_steps:
        raise UserError(
            "every weight of align_loss is 0, so that T learns nothing; set one, "
            "--align-loss.mirror 1 for instance."
        )
    _check_schedules_count(loss, "align_loss")


def _check_joint_loss(recipe: Recipe) -> None:
    loss = recipe.joint_loss
    if (
        not _charged(loss)
        and not _with_weight(SEGMENTATION, loss)
        and not _own_terms(loss)
    ):
        raise UserError(
            "every weight of joint_loss is 0, so that nothing is learnt; set one, "
            "--joint-loss.cross-entropy 1 for instance."
        )
    _check_schedules_count(
        loss, "joint_loss", () if loss.regularisation else DISENTANGLEMENT
    )


def _charged(loss: JointLossSettings) -> list[str]:
    """The terms of L_D that have a weight; none without lambda."""
    return _with_weight(DISENTANGLEMENT, loss) if loss.regularisation else []


def _all_warm(stage: str, warm: int, recipe: Recipe, never: str) -> str:
    """What is missed by a stage whose steps are all of its warm start."""
    steps = getattr(recipe, stage).steps
    return (
        f"{stage}.steps is {steps} and {stage}_loss.warm_start_steps {warm}, so that "
        f"{never} never counts; with fewer --{stage}-loss.warm-start-steps than steps "
        "it does."
    )


def _check_schedules_count(
    loss: AlignLossSettings | JointLossSettings, where: str, off: Collection[str] = ()
) -> None:
    """Refuse schedules of terms that do not count: those that are `off` without lambda,
    and the user's own of weight 0."""
    own = _own_terms(loss)
    for text in loss.schedules:
        term = parse_schedule(text).term
        if term in off:
            raise UserError(
                f"{where}.schedules has {text!r}, but without lambda {term} does not "
                f"count; leave it out, or set {where}.regularisation."
            )
        if ":" in term and term not in own:
            raise UserError(
                f"{where}.schedules has {text!r}, but the weight of {term} is 0; leave "
                f"both out, or give it a weight in {where}.extra."
            )


def _with_weight(
    terms: Iterable[str], loss: AlignLossSettings | JointLossSettings
) -> list[str]:
    """Those of the terms that have a weight."""
    return [name for name in terms if getattr(loss, name)]


def _own_terms(loss: AlignLossSettings | JointLossSettings) -> set[str]:
    """The user's own terms that have a weight."""
    return {term.name for term in map(resolve_term, loss.extra) if term.weight}
