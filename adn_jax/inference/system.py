"""Prepared cases through the jitted chain of a run, alone or together with others.

What is scored may be a run alone, with dropout samples, or an ensemble of runs; maps
come back as NumPy arrays.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float

from adn_jax.config import (
    Recipe,
    SystemSettings,
    TtaSettings,
)
from adn_jax.config.validation import check_recipe
from adn_jax.data.cases import PreparedCase
from adn_jax.data.known_lesions import KnownLesions
from adn_jax.errors import UserError
from adn_jax.geometry.rigid import half_extents_mm, mid_plane
from adn_jax.inference.chain import (
    Inference,
    as_batch,
    as_map,
    as_seen,
    compiled_sampler,
    in_whole,
    infer_scan,
    nets_of,
    run_chain,
    warp,
    warp_labels,
)
from adn_jax.inference.maps import (
    CaseMaps,
    Map,
    Thresholds,
    Uncertainty,
    judge_midline,
)
from adn_jax.io.paths import Place, spelled_out
from adn_jax.metrics.alignment import Plane
from adn_jax.metrics.disentanglement import PATHOLOGY_THRESHOLD
from adn_jax.metrics.overlap import Mask
from adn_jax.models import network
from adn_jax.pipeline.adn import (
    AdnOutputs,
    AdnParams,
)
from adn_jax.pipeline.align import (
    Alignment,
)
from adn_jax.pipeline.tta import averaged_prediction, further_copies
from adn_jax.training.runs import TrainedModel, load_run
from adn_jax.types import Volume

CHAIN_MAPS = (
    "prediction",
    "aligned",
    "asymmetry",
    "pathological",
    "anatomical",
    "salient",
    "compensated",
    "aligned_prediction",
)
"""Those of `AdnOutputs` that `CaseMaps` has too."""


class Inferred(NamedTuple):
    """What a system says of one case."""

    maps: CaseMaps
    outputs: AdnOutputs
    """Of the run itself, still on the device."""
    uncertainty: Uncertainty | None
    """None if it was not asked for."""


@dataclass(frozen=True)
class System:
    """A run, its source of uncertainty, and from which probability it calls infarct.

    With dropout samples, what is scored stays the prediction without dropout. With
    further members, the mean of all members' predictions is scored; alignment and
    asymmetry are those of the first.
    """

    members: tuple[TrainedModel, ...]
    samples: int = 0
    """Passes with dropout, of the scan itself; 0: none."""
    thresholds: Thresholds | None = None
    """Chosen ones; None: the threshold of the run's recipe."""

    @property
    def tta(self) -> tuple[TtaSettings | None, ...] | None:
        """Test-time augmentation of each member (`tta_of`)."""
        return tta_of([member.recipe for member in self.members])

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the members' runs."""
        return tuple(member.run.folder.name for member in self.members)

    @property
    def model(self) -> TrainedModel:
        """The run itself."""
        return self.members[0]

    @property
    def uncertainty_source(self) -> str:
        """Source of the uncertainty, in words; empty if there is none."""
        if self.samples:
            return f"{self.samples} dropout samples"
        if len(self.members) > 1:
            return f"ensemble of {len(self.members)} runs: {', '.join(self.names)}"
        return ""

    @property
    def known_lesions(self) -> KnownLesions | None:
        """How often its lesions are true; None if nobody measured it.

        That holds for a run alone, its own threshold and test-time augmentation.
        """
        alone = len(self.members) == 1 and self.thresholds is None
        as_measured = alone and not _averages_anew(self.model)
        return self.model.lesions if as_measured else None

    def counts(
        self,
        volume_ml: Float[np.ndarray, " n"],
        probability: Float[np.ndarray, " n"],
    ) -> Bool[np.ndarray, " n"]:
        """Which predicted lesions are neither too small nor too rarely true.

        Nobody measured how often those are true that are smaller than the run counts.
        """
        large = volume_ml >= self.model.recipe.least_lesion_ml
        known = self.known_lesions
        if known is None:
            return large
        measured = volume_ml >= self.model.run.recipe.least_lesion_ml
        rare = measured & (known.ppv(volume_ml, probability) < known.least_ppv)
        return large & ~rare

    def infer(self, case: PreparedCase) -> Inferred:
        """Run one case through every member, choose its threshold, and leave out
        lesions that do not count.

        Dropout samples are the same for the same case and count.
        """
        model, uncertainty = self.model, None
        system, volume = model.recipe.system, as_batch(case.volume)
        maps, outputs = infer_case(model.params, case, model.recipe)
        if self.samples:
            sampled = compiled_sampler(as_seen(system, outputs))
            keys = jax.random.split(jax.random.key(model.recipe.seed), self.samples)
            uncertainty = Uncertainty.of(
                as_map(sampled(model.params, volume, key)) for key in keys
            )
        elif len(self.members) > 1:
            others = (
                averaged_prediction(
                    member.params,
                    volume,
                    member.recipe.system,
                    member.recipe.tta,
                    predict=run_chain,
                )
                for member in self.members[1:]
            )
            uncertainty = Uncertainty.of([maps.prediction, *map(as_map, others)])
            mean = uncertainty.probability
            _check_finite(mean, case.name)
            aligned = warp(outputs.alignment.whole, as_batch(mean))
            maps = replace(maps, prediction=mean, aligned_prediction=as_map(aligned))
        if self.thresholds is not None:
            chosen = self.thresholds.of(maps.prediction, maps.spacing_mm)
            maps = replace(maps, threshold=chosen)
        known = self.known_lesions
        if model.recipe.least_lesion_ml > 0 or known is not None:
            maps = maps.counting(self.counts)
        if known is not None and not maps.midline_missed:  # else it is like none known
            maps = maps.telling(known, model.run.recipe.least_lesion_ml)
        if model.heads is not None:
            unlike = model.heads.flags(case, system.prepare)
            maps = replace(maps, flags=(*maps.flags, *unlike))
        return Inferred(maps, outputs, uncertainty)


def load_system(
    run: Place,
    samples: int = 0,
    ensemble: Sequence[Place] = (),
    tta: Mapping[str, Any] | None = None,
    least_lesion_ml: float | None = None,
    least_ppv: float | None = None,
) -> System:
    """Read a run, and the further members of its ensemble.

    `tta` replaces fields of `TtaSettings` in the recipe of each, `{"copies": 4}`,
    `least_lesion_ml` that field, and `least_ppv` that of the run's known lesions.

    Raises:
        UserError: no such run, one named twice, no dropout to sample, members of
            different grids, a number of copies below 0, a turn or shift of copies that
            there are not, a PPV of lesions of which nothing is known.
    """
    if samples < 0:
        raise UserError(f"samples is {samples}; give 0 for none, or a positive number.")
    if samples and ensemble:
        raise UserError(
            "both dropout samples and an ensemble were asked for; choose one of "
            "--samples and --ensemble."
        )
    runs = (run, *ensemble)
    spelled = [spelled_out(member) for member in runs]
    for member, name in zip(runs, spelled, strict=True):
        if spelled.count(name) > 1:
            raise UserError(
                f"{member} is in the ensemble twice, so it would count twice; name "
                "each run once."
            )
    members = []
    for member in runs:
        model = load_run(member)
        recipe = replace(model.recipe, tta=replace(model.recipe.tta, **tta or {}))
        if least_lesion_ml is not None:
            recipe = replace(recipe, least_lesion_ml=least_lesion_ml)
        check_recipe(recipe)
        members.append(replace(model, recipe=recipe))
    _check_copies(tta or {}, members)
    if least_ppv is not None:
        members[0] = _with_least_ppv(members[0], least_ppv, not ensemble)
    first = members[0].recipe
    if samples and not has_dropout(first):
        raise UserError(
            f"the recipe of {run} has no dropout that works on whole scans, so its "
            "samples would be all the same; use evaluate --ensemble with further runs."
        )
    for other, member in zip(runs, members, strict=True):
        for name in ("shape", "spacing_mm", "window_hu"):
            here, wanted = (
                getattr(recipe.system.prepare, name)
                for recipe in (member.recipe, first)
            )
            if here != wanted:
                raise UserError(
                    f"{other} works on {name} {here}, {run} on {wanted}; an ensemble "
                    "needs runs of one prepared grid."
                )
    return System(tuple(members), samples)


def _check_copies(tta: Mapping[str, Any], members: Sequence[TrainedModel]) -> None:
    """Raise `UserError` where a turn or shift of copies is given, but no member
    averages over copies."""
    given = [name for name in ("turn_deg", "shift") if name in tta]
    if given and not any(member.recipe.tta.copies for member in members):
        raise UserError(
            f"tta.{given[0]} is given, but {members[0].run.folder} averages over no "
            "turned copies; add --tta.copies, or leave it out."
        )


def _with_least_ppv(model: TrainedModel, least_ppv: float, alone: bool) -> TrainedModel:
    """The model with another bound on how often its lesions have to be true.

    Raises `UserError` where that was not measured as the model predicts here.
    """
    if not alone:
        raise UserError(
            "least_ppv is given with an ensemble, but how often lesions are true was "
            "measured for a run alone; leave one of the two out."
        )
    if _averages_anew(model):
        raise UserError(
            "least_ppv is given with another test-time augmentation than the run's "
            "own, with which it was measured how often lesions are true; leave one of "
            "the two out."
        )
    if not 0.0 <= least_ppv <= 1.0:
        raise UserError(f"least_ppv is {least_ppv}; give a fraction from 0 to 1.")
    if model.lesions is None:
        raise UserError(
            f"least_ppv is given, but nobody measured how often lesions of "
            f"{model.run.folder} are true; leave it out, or measure it with adn "
            "export-model RUN OUT --format weights --heads DIR."
        )
    return replace(model, lesions=replace(model.lesions, least_ppv=least_ppv))


def tta_of(recipes: Sequence[Recipe]) -> tuple[TtaSettings | None, ...] | None:
    """Test-time augmentation of each recipe, None if it takes the scan itself alone;
    None: no recipe has any."""
    each = tuple(
        settings if further_copies(settings) else None
        for settings in (recipe.tta for recipe in recipes)
    )
    return each if any(each) else None


def _averages_anew(model: TrainedModel) -> bool:
    """Whether its test-time augmentation is another than its run's own."""
    return tta_of([model.recipe]) != tta_of([model.run.recipe])


def has_dropout(recipe: Recipe) -> bool:
    """Whether D or F, as far as the recipe has them, can drop anything of a scan.

    Networks that see patches go over a scan without dropout.
    """
    return any(network(net).has_dropout for net in nets_of(recipe.system))


def infer_case(
    params: AdnParams, case: PreparedCase, recipe: Recipe
) -> tuple[CaseMaps, AdnOutputs]:
    """Run one case; the maps as NumPy, and the outputs still on the device.

    With test-time augmentation the predictions among the maps are the mean over all
    copies. The outputs are those of the scan itself. Raises `UserError` if the
    prediction is not finite.
    """
    volume, system = as_batch(case.volume), recipe.system
    inference, flags = infer_scan(params, volume, system)
    outputs = inference.outputs
    alignment = outputs.alignment.whole
    volumes = {name: getattr(outputs, name) for name in CHAIN_MAPS}
    volumes = {name: one for name, one in volumes.items() if one is not None}
    on_x = volumes.keys() - {"prediction"}
    volumes |= {name: in_whole(outputs.alignment, volumes[name]) for name in on_x}
    if further_copies(recipe.tta):
        mean = averaged_prediction(
            params,
            volume,
            as_seen(system, outputs),
            recipe.tta,
            predict=run_chain,
            first=outputs.prediction,
        )
        volumes["prediction"] = mean
        volumes["aligned_prediction"] = warp(alignment, mean)
    _check_finite(volumes["prediction"], case.name)
    midline, midline_flags = _midline(inference, case, system)
    found: dict[str, Any] = {
        **{name: as_map(one) for name, one in volumes.items()},
        **midline,
        **_truth_maps(case, alignment),
    }
    maps = CaseMaps(
        name=case.name,
        spacing_mm=case.spacing_mm,
        window_hu=system.prepare.window_hu,
        threshold=recipe.threshold,
        volume=np.asarray(case.volume),
        adds_up=system.asymmetry.adds_up,
        flags=(*midline_flags, *flags),
        **found,
    )
    return maps, outputs


def _check_finite(prediction: Volume | Map, case: str) -> None:
    """Raise `UserError` if a prediction has values that are no numbers, which would
    count as no infarct."""
    if not np.isfinite(prediction).all():
        raise UserError(
            f"the networks give values that are no numbers for {case}; their weights "
            "are not usable (a training that diverged, a damaged file?)."
        )


def _midline(
    inference: Inference, case: PreparedCase, system: SystemSettings
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The mid-sagittal plane at the end and after T alone, what is known of it, and
    flags; nothing if none is looked for."""
    fit = inference.fit
    if fit is None:
        return {}, ()
    extents = half_extents_mm(system.prepare.shape, system.prepare.spacing_mm)
    plane, first_plane = (  # in mm of I's grid, from its centre
        Plane(*(np.asarray(one[0], float) for one in mid_plane(matrix, extents)))
        for matrix in (inference.outputs.alignment.matrix, inference.first_matrix)
    )
    sides_told = case.source.get("sides_known", True)
    judged = judge_midline(plane, fit, case.affine, sides_told)
    found = {
        "plane": plane if judged.found else None,
        "first_plane": first_plane if judged.found else None,
        "midline_missed": not judged.found,
        "knows_sides": judged.knows_sides,
    }
    return found, judged.flags


def _truth_maps(case: PreparedCase, alignment: Alignment) -> dict[str, Mask]:
    """The label and, for phantoms, the truly pathological voxels, as far as known."""
    if case.lesion is None:
        return {}
    lesion = warp_labels(alignment, as_batch(case.lesion))
    truth = {
        "lesion": np.asarray(case.lesion) >= 0.5,
        "aligned_lesion": as_map(lesion) >= 0.5,
    }
    if case.pathological is not None:
        darkening = warp(alignment, as_batch(case.pathological))
        truth["aligned_truth"] = as_map(darkening) > PATHOLOGY_THRESHOLD
    return truth
