"""Loss recipes: named terms times their weights.

Each recipe returns the total and the plain value of every term by its name in the
settings. A term of weight 0 is not computed. A schedule multiplies its term's weight.
"""

import hashlib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from adn_jax.config import AlignLossSettings, JointLossSettings
from adn_jax.config.schedules import Schedule, parse_schedule
from adn_jax.errors import UserError, typed_line
from adn_jax.geometry.rigid import Pose
from adn_jax.losses import alignment, disentanglement
from adn_jax.losses.segmentation import (
    boundary,
    cross_entropy,
    focal_tversky,
    generalised_dice,
)
from adn_jax.pipeline.adn import AdnOutputs, Targets
from adn_jax.runtime.named import named_function
from adn_jax.types import Step, Volume

TermValues = dict[str, Float[Array, ""]]

VoxelSize = tuple[float, float, float] | None
"""In mm (z y x); None: not known, where no term measures distances."""

LossAndTerms = tuple[Float[Array, ""], TermValues]

ALIGNMENT = {
    "mirror": alignment.mirror_loss,
    "mirror_in_view": alignment.mirror_in_view,
    "reconstruction": alignment.reconstruction,
    "pose_regression": alignment.pose_regression,
}
"""Terms of L_T, from `AlignOutputs`."""

WARM_START = {
    "cross_entropy": cross_entropy,
    "generalised_dice": generalised_dice,
}
"""Terms of L_F that also teach D's output in the warm start."""

SEGMENTATION = WARM_START | {
    "focal_tversky": focal_tversky,
    "boundary": boundary,
}
"""Terms of L_F, from a probability map and its label."""

DISENTANGLEMENT = {
    "tissue": disentanglement.tissue,
    "tissue_one_way": disentanglement.tissue_one_way,
    "size": disentanglement.lesion_size,
    "size_in_asymmetry": disentanglement.size_in_asymmetry,
    "size_by_volume": disentanglement.size_by_volume,
    "pathology_supervision": disentanglement.pathology_supervision,
    "pathology_cross_entropy": disentanglement.pathology_cross_entropy,
    "symmetric": disentanglement.symmetric,
    "symmetric_voxels": disentanglement.symmetric_voxels,
    "intrinsic": disentanglement.intrinsic,
    "intrinsic_positive": disentanglement.intrinsic_positive,
}
"""Terms of L_D, from `AdnOutputs` and `Targets`."""

Factor = Float[Array, ""] | float


@dataclass(frozen=True)
class Terms:
    """Terms that count: value and weight of each by its name, and the weighted sum."""

    values: TermValues
    weights: dict[str, Factor]
    total: Float[Array, ""]

    def weighted(self) -> TermValues:
        """Each value times its weight."""
        return {name: self.weights[name] * value for name, value in self.values.items()}


@dataclass(frozen=True)
class JointTerms:
    """The terms of the joint loss in one update.

    `warm_start` is L_F of D's output, and `warm` whether it takes the place of L_D now;
    both are None if there is no warm start. Without L_D `disentanglement` is empty.
    """

    segmentation: Terms
    disentanglement: Terms
    regularisation: Factor
    warm_start: Float[Array, ""] | None
    warm: Bool[Array, ""] | bool | None
    extra: Terms


def segmentation_loss(
    probability: Volume,
    label: Volume,
    settings: JointLossSettings,
    step: Step | int,
    spacing_mm: VoxelSize = None,
) -> LossAndTerms:
    """L_F alone, of any probabilities and labels: what networks of patches lower."""
    terms = segmentation_terms(probability, label, settings, step, spacing_mm)
    return terms.total, terms.values


def segmentation_terms(
    probability: Volume,
    label: Volume,
    settings: JointLossSettings,
    step: Step | int,
    spacing_mm: VoxelSize = None,
) -> Terms:
    """Every term of L_F that has a weight, computed once."""
    table = SEGMENTATION
    if settings.boundary:
        if spacing_mm is None:
            raise UserError(
                "joint_loss.boundary has a weight and measures distances in mm, but no "
                "voxel size is given; give spacing_mm, the recipe's "
                "system.prepare.spacing_mm."
            )
        table = SEGMENTATION | {"boundary": partial(boundary, spacing_mm=spacing_mm)}
    return _terms(table, settings, step, probability, label)


def joint_loss(
    outputs: AdnOutputs,
    targets: Targets,
    settings: JointLossSettings,
    step: Step | int,
    spacing_mm: VoxelSize = None,
) -> LossAndTerms:
    """L_F + lambda L_D + extra terms, which train D and F together (equation 6).

    In the first `warm_start_steps` steps L_F of D's output against T(G), named
    "warm_start", takes the place of L_D; lambda weighs it, too, as in the authors'
    code. It has the cross-entropy and the generalised Dice loss alone, with their
    weights and without their schedules: it brings P near the infarct, whatever L_F asks
    of F's edges.

    `spacing_mm`, the size of a voxel, is needed where `boundary` has a weight. A system
    without D has no P; its lambda is 0. Side predictions are part of L_F
    (`_deeply_supervised`) and compared with T(G) whatever the grid.
    """
    terms = _joint_terms(outputs, targets, settings, step, spacing_mm)
    total, values = terms.segmentation.total, terms.segmentation.values
    if settings.regularisation:
        regularisation = terms.disentanglement.total
        values = values | terms.disentanglement.values
        if terms.warm_start is not None and terms.warm is not None:
            regularisation = jnp.where(terms.warm, terms.warm_start, regularisation)
            values["warm_start"] = terms.warm_start
        total = total + terms.regularisation * regularisation
    return total + terms.extra.total, values | terms.extra.values


def weighted_joint_terms(
    outputs: AdnOutputs,
    targets: Targets,
    settings: JointLossSettings,
    step: Step | int,
    spacing_mm: VoxelSize = None,
) -> TermValues:
    """What each term adds to the total of `joint_loss` in this update, by its name.

    A term of L_D counts with its own weight times lambda. In the warm start the terms
    of L_D add 0, after it "warm_start" does.
    """
    terms = _joint_terms(outputs, targets, settings, step, spacing_mm)
    charged = {
        name: terms.regularisation * value
        for name, value in terms.disentanglement.weighted().items()
    }
    if terms.warm_start is not None and terms.warm is not None:
        charged = {
            name: jnp.where(terms.warm, 0, value) for name, value in charged.items()
        }
        warm_start = terms.regularisation * terms.warm_start
        charged["warm_start"] = jnp.where(terms.warm, warm_start, 0)
    return terms.segmentation.weighted() | charged | terms.extra.weighted()


def _joint_terms(
    outputs: AdnOutputs,
    targets: Targets,
    settings: JointLossSettings,
    step: Step | int,
    spacing_mm: VoxelSize,
) -> JointTerms:
    """Every term of the joint loss that has a weight, computed once."""
    pair = _prediction(outputs, targets, settings)
    segmentation = _deeply_supervised(
        segmentation_terms(*pair, settings, step, spacing_mm),
        [
            segmentation_terms(side, targets.aligned_lesion, settings, step, spacing_mm)
            for side in outputs.auxiliary_predictions
        ],
    )
    disentanglement, warm_start, warm = _weigh({}, {}), None, None
    if settings.regularisation:
        disentanglement = _terms(DISENTANGLEMENT, settings, step, outputs, targets)
        if settings.warm_start_steps:
            plain = replace(settings, schedules=())
            pair = outputs.pathological_probability, targets.aligned_lesion
            warm_start = _terms(WARM_START, plain, step, *pair).total
            warm = step < settings.warm_start_steps
    return JointTerms(
        segmentation=segmentation,
        disentanglement=disentanglement,
        regularisation=_weight("regularisation", settings, step),
        warm_start=warm_start,
        warm=warm,
        extra=_extra(settings, step, outputs, targets),
    )


def _deeply_supervised(terms: Terms, sides: Sequence[Terms]) -> Terms:
    """L_F of the prediction and of the side predictions, the finest first.

    They count as 1, 1/2, 1/4, ..., divided by the sum of these (as in nnU-Net, Isensee
    et al. 2021), so that the size of L_F stays what it was. The sides' weighted mean is
    one more term, "deep_supervision", whose weight is what they count together.
    """
    if not sides:
        return terms
    parts = [0.5**level for level in range(1, len(sides) + 1)]
    own = 1 / (1 + sum(parts))
    weighted = [part * side.total for part, side in zip(parts, sides, strict=True)]
    mean = jnp.asarray(sum(weighted)) / sum(parts)
    values = terms.values | {"deep_supervision": mean}
    weights = {name: own * weight for name, weight in terms.weights.items()}
    return _weigh(values, weights | {"deep_supervision": 1 - own})


def align_loss(
    aligned: Volume,
    mirrored: Volume,
    volume: Volume,
    reconstruction: Volume,
    pose: Pose,
    search_pose: Pose,
    settings: AlignLossSettings,
    step: Step | int,
) -> LossAndTerms:
    """L_T of X, X', I, X' warped back to I's grid, T's pose and the search's.

    In the first `warm_start_steps` steps the pose regression takes the place of the
    other terms, with the weight 1 where its own is 0 and without its schedule. Extra
    terms take the `AlignOutputs` and count from the first step on.
    """
    outputs = alignment.AlignOutputs(
        volume, aligned, mirrored, reconstruction, pose, search_pose
    )
    terms = _terms(ALIGNMENT, settings, step, outputs)
    extra = _extra(settings, step, outputs)
    total, values = terms.total, terms.values | extra.values
    if settings.warm_start_steps:
        regression = alignment.pose_regression(outputs)
        weight = settings.pose_regression or 1.0
        total = jnp.where(step < settings.warm_start_steps, weight * regression, total)
        values["pose_regression"] = regression
    return total + extra.total, values


def _prediction(
    outputs: AdnOutputs, targets: Targets, settings: JointLossSettings
) -> tuple[Volume, Volume]:
    """O and G on I's grid (paper), or Y and T(G) on X's (authors' code)."""
    if settings.grid == "scan":
        return outputs.prediction, targets.lesion
    return outputs.aligned_prediction, targets.aligned_lesion


def _terms(
    table: Mapping[str, Callable[..., Float[Array, ""]]],
    settings: AlignLossSettings | JointLossSettings,
    step: Step | int,
    *inputs: Any,
) -> Terms:
    """The terms of a table that have a weight in `settings`."""
    counted = [name for name in table if getattr(settings, name)]
    values = {name: table[name](*inputs) for name in counted}
    return _weigh(values, {name: _weight(name, settings, step) for name in counted})


def _weigh(values: TermValues, weights: dict[str, Factor]) -> Terms:
    total = jnp.zeros((), jnp.float32)
    for name, value in values.items():
        total = total + weights[name] * value
    return Terms(values, weights, total)


def _weight(
    name: str, settings: AlignLossSettings | JointLossSettings, step: Step | int
) -> Factor:
    return getattr(settings, name) * factor_of(name, settings.schedules, step)


def _extra(
    settings: AlignLossSettings | JointLossSettings, step: Step | int, *inputs: Any
) -> Terms:
    """The user's terms; one that is named twice counts with the sum of its weights."""
    terms = [term for text in settings.extra if (term := resolve_term(text)).weight]
    weights: dict[str, Factor] = {term.name: 0.0 for term in terms}
    for term in terms:
        weights[term.name] += term.weight
    for name in weights:
        weights[name] *= factor_of(name, settings.schedules, step)
    return _weigh({term.name: term(*inputs) for term in terms}, weights)


def factor_at(schedule: Schedule, step: Step | int) -> Float[Array, ""]:
    """Factor of a weight in an update (`step` updates are done before it).

    It is the first factor up to the first step, the second from the second step on,
    and linear between.
    """
    done = jnp.asarray(step).astype(jnp.float32) - schedule.from_step
    share = jnp.clip(done / (schedule.to_step - schedule.from_step), 0, 1)
    change = schedule.to_factor - schedule.from_factor
    return schedule.from_factor + change * share


def factor_of(name: str, schedules: tuple[str, ...], step: Step | int) -> Factor:
    """Product of all schedules of a term; the plain number 1 where it has none."""
    factor: Factor = 1.0
    for schedule in map(parse_schedule, schedules):
        if schedule.term == name:
            factor = factor * factor_at(schedule, step)
    return factor


@dataclass(frozen=True)
class ExtraTerm:
    """A term found by name, and its weight in the total loss."""

    name: str
    function: Callable[..., Any]
    weight: float

    @property
    def code_sha256(self) -> str | None:
        """A checksum of the function's own lines; None if they cannot be read."""
        try:
            code = inspect.getsource(self.function)
        except (OSError, TypeError):
            return None
        return hashlib.sha256(code.encode()).hexdigest()

    def __call__(self, *inputs: Any) -> Float[Array, ""]:
        """Value of the term; `UserError` if it fails or is not one number."""
        try:
            value = self.function(*inputs)
        except Exception as error:
            raise UserError(
                f"the loss term {self.name} failed with {typed_line(error)}; correct "
                "it (in a system without D, P and what follows from it are None)."
            ) from error
        if found := _instead_of_number(value):
            raise UserError(
                f"the loss term {self.name} gives {found}; one number is wanted, so "
                "take a mean or a sum."
            )
        return jnp.asarray(value, jnp.float32)


def _instead_of_number(value: Any) -> str:
    """What a value is that is not one real number; empty if it is."""
    if not isinstance(value, int | float | np.generic | np.ndarray | jax.Array):
        return f"a {type(value).__name__}"
    if shape := np.shape(value):
        return f"an array of shape {shape}"
    kind = getattr(value, "dtype", type(value))
    real = any(jnp.issubdtype(kind, each) for each in (jnp.floating, jnp.integer))
    return "" if real else f"a number of type {jnp.dtype(kind)}"


def resolve_term(text: str) -> ExtraTerm:
    """Import the function of `module:function` or `module:function:weight`.

    The weight is 1 if none is given. A module that was loaded again gives its present
    function. Raises `UserError` if the text has another
    form, or the module or function cannot be had.
    """
    parts = text.split(":")
    if len(parts) not in (2, 3) or not all(parts):
        raise UserError(
            f"the loss term {text!r} has another form than module:function or "
            "module:function:weight; write for example my_terms:boundary_charge:0.5."
        )
    module, function = parts[:2]
    try:
        weight = float(parts[2]) if len(parts) == 3 else 1.0
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        raise UserError(
            f"the loss term {text!r} has the weight {parts[2]!r}; a number is wanted."
        )
    found = named_function(module, function, "loss term")
    return ExtraTerm(f"{module}:{function}", found, weight)
