"""Stages trained in another run, T or the tissue net, that take a stage's place."""

from collections.abc import Iterator, Mapping

from adn_jax.config import Recipe
from adn_jax.config.serialization import differing_fields
from adn_jax.errors import UserError
from adn_jax.io.paths import Place, spelled_out, to_place
from adn_jax.training.runs import (
    config_recipe,
    load_stage,
    read_config,
    read_finished,
    stages_of,
    write_stage,
)

Pretrained = Mapping[str, Place]
"""Stage -> the run that it is taken from."""

NETWORKS = {"align": "T", "tissue": "tissue net"}
"""Stages that another run can give, and what they train."""

REMEDIES = {
    "align": "choose a recipe with --alignment.network",
    "tissue": "set --tissue-source network",
}
"""What to do where a recipe does not have the stage."""


def find_pretrained(recipe: Recipe, run: Place, given: Pretrained) -> dict[str, Place]:
    """The runs that stages are taken from: those given, or that `run` was begun with.

    Raises `UserError` where the two differ and a stage of `run` is finished, or where a
    network cannot be used.
    """
    config = read_config(run) if (run / "config.json").exists() else {}
    finished = read_finished(run)
    known = {stage: config.get(f"{stage}_run") for stage in NETWORKS}
    for stage, source in given.items():
        if finished and known[stage] != spelled_out(source):
            option = f"--{stage}-run"
            before = (
                f"with {option} {known[stage]}" if known[stage] else f"without {option}"
            )
            raise UserError(
                f"{run} was begun {before}, not with {source}; choose another --run "
                "folder."
            )
    begun_with = {stage: to_place(text) for stage, text in known.items() if text}
    pretrained = {**begun_with, **given}
    for stage in pretrained.keys() - finished.keys():
        _check_pretrained(stage, recipe, pretrained[stage])
    return pretrained


def _check_pretrained(stage: str, recipe: Recipe, source: Place) -> None:
    """Raise `UserError` unless the run `source` has a network that fits a recipe.

    It has to be finished, of the same settings, and trained on volumes with the same
    HU window and voxel size; T also on the same grid.
    """
    network = NETWORKS[stage]
    if stage not in stages_of(recipe):
        raise UserError(
            f"--{stage}-run is given, but the recipe {recipe.name!r} uses no {network} "
            f"that is trained; {REMEDIES[stage]}, or leave it out."
        )
    theirs = config_recipe(source, read_config(source))
    if stage not in read_finished(source):
        raise UserError(
            f"the run {source} has no finished {stage} stage; train one there, or give "
            "another run."
        )
    differing = list(_differing_needs(stage, theirs, recipe))
    if differing:
        raise UserError(
            f"the {network} of {source} does not fit this recipe "
            f"({'; '.join(differing)}); set these fields as they are there, or give "
            "another run."
        )


def _differing_needs(stage: str, theirs: Recipe, ours: Recipe) -> Iterator[str]:
    """The fields in which two recipes differ among those that a network depends on."""
    network, prepare = {
        "align": ("alignment_net", ("shape", "spacing_mm", "window_hu")),
        "tissue": ("tissue_net", ("spacing_mm", "window_hu")),
    }[stage]
    needed = (network, *(f"prepare.{name}" for name in prepare))
    if stage == "align":
        needed = (*needed, "alignment.centre")
    for line in differing_fields(theirs, ours):
        if line.startswith(needed):
            yield line


def copy_stage(stage: str, run: Place, recipe: Recipe, source: Place) -> None:
    """Copy the best weights of a stage of the run `source` as that of `run`."""
    step = read_finished(source)[stage]["best_step"]
    params = load_stage(source, recipe, stage)
    taken = {"taken_from": spelled_out(source), "step_there": step}
    write_stage(run, stage, params, **taken)
