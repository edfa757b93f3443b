"""What is scored: a run alone, with dropout samples, or together with other runs."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import NamedTuple

import jax

from adn_jax.config import Recipe, SystemSettings, TtaSettings, UNetSettings
from adn_jax.config.validation import check_recipe
from adn_jax.data.cases import PreparedCase
from adn_jax.errors import UserError
from adn_jax.inference.chain import (
    abstract_inputs,
    as_batch,
    as_map,
    infer_case,
    onto_aligned,
    run_chain,
)
from adn_jax.inference.maps import CaseMaps, Map
from adn_jax.inference.thresholds import Thresholds, threshold_for
from adn_jax.inference.uncertainty import Doubt, doubt_of
from adn_jax.io.paths import Place
from adn_jax.pipeline.adn import apply_adn
from adn_jax.pipeline.tta import averaged_prediction, further_poses
from adn_jax.runtime.platform import return_freed_memory
from adn_jax.training.runs import TrainedModel, load_run
from adn_jax.types import AdnOutputs, AdnParams, Key, Volume


@dataclass(frozen=True)
class Averaging:
    """The poses that are asked for instead of a recipe's; None: the recipe's."""

    mirrored: bool | None = None
    copies: int | None = None


AS_TRAINED = Averaging()
"""The recipe's poses."""


@dataclass(frozen=True)
class System:
    """A run, where its doubt comes from, and from which probability it calls infarct.

    With dropout samples, what is scored stays the prediction without dropout. With
    further members, the mean of all members' predictions is scored; alignment and
    asymmetry are those of the first.
    """

    members: tuple[TrainedModel, ...]
    names: tuple[str, ...]
    """Names of the members' runs."""
    samples: int = 0
    """Passes with dropout, of the scan as it lies; 0: none."""
    thresholds: Thresholds | None = None
    """Chosen ones; None: the threshold of the run's recipe."""

    @property
    def averaging(self) -> tuple[TtaSettings | None, ...] | None:
        """Poses that each member averages over (`averaging_of`)."""
        return averaging_of([member.recipe for member in self.members])

    @property
    def model(self) -> TrainedModel:
        """The run itself."""
        return self.members[0]

    @property
    def doubts(self) -> str:
        """Where the doubt comes from, in words; empty where there is none."""
        if self.samples:
            return f"{self.samples} dropout samples"
        if len(self.members) > 1:
            return f"ensemble of {len(self.members)} runs: {', '.join(self.names)}"
        return ""


class Inferred(NamedTuple):
    """What a system says of one case."""

    maps: CaseMaps
    outputs: AdnOutputs
    """Of the run itself, still on the device."""
    doubt: Doubt | None
    """None where it was not asked for."""


def load_system(
    run: Place,
    samples: int = 0,
    ensemble: Sequence[Place] = (),
    averaging: Averaging = AS_TRAINED,
) -> System:
    """Read a run, and the further members of its ensemble; `averaging` is for each.

    Raises:
        UserError: no such run, one named twice, no dropout to sample, members of
            different grids, a number of poses below 0.
    """
    if samples < 0:
        raise UserError(f"samples is {samples}; give 0 for none, or a positive number.")
    if samples and ensemble:
        raise UserError(
            "both dropout samples and an ensemble were asked for; choose one of "
            "--samples and --ensemble."
        )
    runs = (run, *ensemble)
    twice = [member for member, times in Counter(runs).items() if times > 1]
    if twice:
        raise UserError(
            f"{twice[0]} is in the ensemble twice, so it would count twice; name each "
            "run once."
        )
    system = System(
        tuple(_with_averaging(load_run(member), averaging) for member in runs),
        tuple(member.name for member in runs),
        samples,
    )
    if samples and not has_dropout(system.model.recipe):
        raise UserError(
            f"the recipe of {run} has no dropout that works on whole scans, so its "
            "samples would be all the same; use evaluate --ensemble with further runs."
        )
    _check_members(system, runs)
    return system


def averaging_of(
    recipes: Sequence[Recipe],
) -> tuple[TtaSettings | None, ...] | None:
    """Poses that each recipe averages over, None where it takes the scan as it lies
    alone; None: no recipe averages."""
    each = tuple(
        settings if further_poses(settings) else None
        for settings in (recipe.tta for recipe in recipes)
    )
    return each if any(each) else None


def _with_averaging(model: TrainedModel, asked: Averaging) -> TrainedModel:
    """The run, averaging over the poses asked for."""
    changes = {name: value for name, value in vars(asked).items() if value is not None}
    tta = replace(model.recipe.tta, **changes)
    recipe = replace(model.recipe, tta=tta)
    check_recipe(recipe)
    return replace(model, recipe=recipe)


def has_dropout(recipe: Recipe) -> bool:
    """Whether D or F, as far as the recipe has them, can drop anything of a scan.

    Networks that see windows go over a scan without dropout.
    """
    system = recipe.system
    nets = [system.segment_net] + [system.disentangle_net] * system.disentangles
    return any(isinstance(net, UNetSettings) and net.dropout > 0 for net in nets)


def _check_members(system: System, runs: Sequence[Place]) -> None:
    """Raise `UserError` where the members do not work on one prepared grid."""
    first = system.model.recipe.system.prepare
    for run, member in zip(runs, system.members, strict=True):
        for name in ("shape", "spacing_mm", "window_hu"):
            here, wanted = (
                getattr(member.recipe.system.prepare, name),
                getattr(first, name),
            )
            if here != wanted:
                raise UserError(
                    f"{run} works on {name} {here}, {runs[0]} on {wanted}; an ensemble "
                    "needs runs of one prepared grid."
                )


def infer_system(system: System, case: PreparedCase) -> Inferred:
    """Run one case through the system, and choose its threshold."""
    inferred = _run_members(system, case)
    if system.thresholds is None:
        return inferred
    maps = inferred.maps
    chosen = threshold_for(maps.prediction, maps.spacing_mm, system.thresholds)
    return inferred._replace(maps=replace(maps, threshold=chosen))


def _run_members(system: System, case: PreparedCase) -> Inferred:
    """One case through every member of the system, at the recipe's threshold."""
    model = system.model
    maps, outputs = infer_case(model.params, case, model.recipe)
    if system.samples:
        samples = _dropout_samples(model, case, system.samples)
        return Inferred(maps, outputs, doubt_of(samples))
    if len(system.members) == 1:
        return Inferred(maps, outputs, None)
    others = (_prediction_of(member, case) for member in system.members[1:])
    doubt = doubt_of([maps.prediction, *others])
    mean = as_batch(doubt.probability)
    aligned = as_map(onto_aligned(mean, outputs.matrix, model.recipe.system))
    maps = replace(maps, prediction=doubt.probability, aligned_prediction=aligned)
    return Inferred(maps, outputs, doubt)


def _prediction_of(model: TrainedModel, case: PreparedCase) -> Map:
    """O of one case, averaged over poses where the recipe does."""
    recipe, volume = model.recipe, as_batch(case.volume)
    mean = averaged_prediction(
        model.params, volume, recipe.system, recipe.tta, predict=run_chain
    )
    return as_map(mean)


def _dropout_samples(
    model: TrainedModel, case: PreparedCase, count: int
) -> Iterator[Map]:
    """O of several passes with dropout; the same for the same case and count."""
    program, volume = _compiled_sampler(model.recipe.system), as_batch(case.volume)
    for key in jax.random.split(jax.random.key(model.recipe.seed), count):
        yield as_map(program(model.params, volume, key))


@partial(jax.jit, static_argnames="system")
def _sample_prediction(
    params: AdnParams, volume: Volume, key: Key, system: SystemSettings
) -> Volume:
    """O of one pass with dropout."""
    return apply_adn(params, volume, system, key=key).prediction


@cache
def _compiled_sampler(system: SystemSettings) -> jax.stages.Compiled:
    """The pass with dropout for one scan, compiled once (as `compiled_chain`)."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    program = _sample_prediction.lower(*abstract_inputs(system), key, system).compile()
    return_freed_memory()
    return program
