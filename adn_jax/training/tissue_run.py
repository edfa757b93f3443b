"""A tissue net trained elsewhere, on phantoms for instance, takes the stage's place."""

from dataclasses import replace

from adn_jax.config import Recipe
from adn_jax.config_checks import differing_fields
from adn_jax.errors import UserError
from adn_jax.runtime.places import Place, spelled_out, to_place
from adn_jax.training.runs import (
    config_recipe,
    load_stage,
    read_config,
    read_finished,
    write_stage,
)


def find_tissue_run(recipe: Recipe, run: Place, given: Place | None) -> Place | None:
    """The run whose tissue net is used: the given one, or that `run` was begun with.

    Raises `UserError` where the two differ, or the net cannot be used.
    """
    begun = (run / "config.json").exists()
    known = read_config(run).get("tissue_run") if begun else None
    if given is not None and begun and known != spelled_out(given):
        before = f"with --tissue-run {known}" if known else "without --tissue-run"
        raise UserError(
            f"{run} was begun {before}, not with {given}; choose another --run folder."
        )
    source = given if known is None else to_place(known)
    if source is not None and "tissue" not in read_finished(run):
        check_tissue(recipe, source)
    return source


def check_tissue(recipe: Recipe, source: Place) -> None:
    """Raise `UserError` unless the run `source` has a tissue net that fits a recipe.

    It has to be finished, of the same settings, and trained on volumes with the same
    HU window and voxel size.
    """
    if recipe.tissue_source != "network":
        raise UserError(
            f"--tissue-run is given, but tissue_source is {recipe.tissue_source!r}; "
            "set --tissue-source network."
        )
    theirs = config_recipe(source, read_config(source))
    if "tissue" not in read_finished(source):
        raise UserError(
            f"the run {source} has no finished tissue stage; train one there with "
            "--tissue-source network, or give another run."
        )
    seen = {name: getattr(recipe.prepare, name) for name in ("window_hu", "spacing_mm")}
    differing = [
        *differing_fields(theirs.tissue_net, recipe.tissue_net, "tissue_net."),
        *differing_fields(theirs.prepare, replace(theirs.prepare, **seen), "prepare."),
    ]
    if differing:
        raise UserError(
            f"the tissue net of {source} does not fit this recipe "
            f"({'; '.join(differing)}); set these fields as they are there, or give "
            "another run."
        )


def take_tissue(run: Place, recipe: Recipe, source: Place) -> None:
    """Copy the tissue net of the run `source` as the finished tissue stage of `run`."""
    step = read_finished(source)["tissue"]["best_step"]
    params = load_stage(source, recipe, "tissue")
    taken = {"taken_from": spelled_out(source), "step_there": step}
    write_stage(run, "tissue", params, **taken)
