"""What is checked before a training, and what its run begins with.

`train` calls these in their order; each raises `UserError` with what to do.
"""

import sys
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from jax.sharding import AbstractMesh, Mesh

from adn_jax.config import PrepareSettings, ReadSettings, Recipe
from adn_jax.config.serialization import differing_fields
from adn_jax.data.manifest import Fold, Manifest, has_manifest, read_manifest
from adn_jax.data.stream import DrawnHeads
from adn_jax.distributed.mesh import check_batch, check_rows
from adn_jax.errors import UserError, few_of
from adn_jax.io.files import check_fetched
from adn_jax.io.paths import Place, check_apart, is_remote
from adn_jax.losses.recipes import resolve_term
from adn_jax.models import network
from adn_jax.training.differences import listed, own_terms
from adn_jax.training.learnt import learnt_cases, not_known
from adn_jax.training.runs import (
    TAKEN_STAGES,
    Run,
    params_shapes,
    run_name,
    run_place,
    stages_of,
)

Pretrained = Mapping[str, Place]
"""Stage -> the run that it is taken from instead of training it; of the joint stage,
the run with whose weights its training begins."""

RUN_OPTIONS = {
    "align": "--align-run",
    "tissue": "--tissue-run",
    "joint": "--pretrained",
}
"""How each is given on the command line."""

FORM_OF_JOINT = (
    *("disentangle_net", "segment_net"),
    *("disentangle_input", "segment_input", "asymmetry.pathological"),
)
"""Settings that D and F of two recipes have in common if one begins with the other's
weights."""


def find_pretrained(
    recipe: Recipe, folder: Place, run: Run | None, given: Pretrained
) -> dict[str, Place]:
    """The runs that stages are taken from: those given, or that `run` was begun with.

    Raises `UserError` if the two differ and a stage of `run` is finished, or if a
    network cannot be used.
    """
    known = dict(run.pretrained) if run else {}
    finished = run.finished if run else {}
    for stage, source in given.items():
        if finished and known.get(stage) != run_name(source):
            before = (
                f"with {_option(stage, known)} {known[stage]}"
                if stage in known
                else f"without {_option(stage, given)}"
            )
            raise UserError(
                f"{folder} was begun {before}, not with {source}; choose another --run "
                "folder."
            )
    begun_with = {stage: run_place(text) for stage, text in known.items()}
    pretrained = {**begun_with, **given}
    for stage in pretrained.keys() - finished.keys():
        same = known.get(stage) == run_name(pretrained[stage])
        if run is None or not same or not goes_on(run, stage, recipe):
            _check_pretrained(stage, recipe, pretrained[stage])
    return pretrained


def _option(stage: str, sources: Mapping[str, Place | str]) -> str:
    """The option by which the source of a stage was given: --pretrained names all."""
    alike = sources.get(stage) == sources.get("joint")
    return RUN_OPTIONS["joint" if alike else stage]


def goes_on(run: Run, stage: str, recipe: Recipe) -> bool:
    """Whether a stage goes on from what it saved, by the recipe alone."""
    return run.has_checkpoints(stage) and not run.changed_settings(stage, recipe)


def _check_pretrained(stage: str, recipe: Recipe, folder: Place) -> None:
    """Raise `UserError` unless the run in `folder` has a network that fits a recipe.

    It has to be finished, of the same settings, and trained on volumes with the same
    HU window and voxel size; T also on the same grid.
    """
    network, needed = {
        "align": ("T", ("alignment_net", "alignment.centre", "prepare.shape")),
        "tissue": ("tissue net", ("tissue_net",)),
        "joint": ("pair of D and F", FORM_OF_JOINT),
    }[stage]
    if stage not in stages_of(recipe):  # every recipe has the joint stage
        remedy = {
            "align": "choose a recipe with --alignment.network",
            "tissue": "set --tissue-source network",
        }[stage]
        raise UserError(
            f"{RUN_OPTIONS[stage]} is given, but the recipe {recipe.name!r} uses no "
            f"{network} that is trained; {remedy}, or leave it out."
        )
    source = Run.open(folder)
    if stage not in source.finished:
        raise UserError(
            f"the run {folder} has no finished {stage} stage; train one there, or give "
            "another run."
        )
    needed = (*needed, "prepare.spacing_mm", "prepare.window_hu")
    lines = differing_fields(source.recipe, recipe)
    if differing := [line for line in lines if line.startswith(needed)]:
        raise UserError(
            f"the {network} of {folder} does not fit this recipe "
            f"({'; '.join(differing)}); set these fields as they are there, or give "
            "another run."
        )


def check_held_out(
    run: Run | None, recipe: Recipe, pretrained: Place, data: Manifest | DrawnHeads
) -> None:
    """Raise `UserError` if the run with whose weights D and F begin has learnt from
    cases that are held out now; tell it if that is not known, and if the heads that
    are drawn have been its own.

    D and F of a `run` that goes on have begun already.
    """
    if run is not None and goes_on(run, "joint", recipe):
        same = run.pretrained.get("joint") == run_name(pretrained)
        if same and not run.other_cases(data):
            return
    source = Run.open(pretrained)
    if isinstance(data, DrawnHeads):
        if source.cases_sha256 == data.digest and source.recipe.seed == recipe.seed:
            again = "the same ones come again"
            if source.recipe.stream != recipe.stream:
                again = "those of now differ from them by the stream's settings alone"
            print(
                f"adn: {pretrained} has learnt from heads drawn with seed "
                f"{recipe.seed}, and {again}; give another --seed.",
                file=sys.stderr,
            )
        return
    held_out = [
        name for split in ("validation", "test") for name in data.splits.get(split, ())
    ]
    seen = learnt_cases(source, data, held_out)
    if seen is None:
        print(f"adn: {not_known(source, data)}", file=sys.stderr)
    elif seen:
        raise UserError(
            f"--pretrained is {pretrained}, which has learnt from {few_of(seen)}, held "
            "out now to validate or test; give a run that has not, or the same splits "
            "as there."
        )


def check_same_work(
    run: Run, recipe: Recipe, data: Manifest | DrawnHeads, fold: Fold | None
) -> None:
    """Raise `UserError` if this process, of several, was given something else than the
    one that began the run."""
    differing = [*differing_fields(run.recipe, recipe), *_other_cases(run, data, fold)]
    if run.terms_sha256 != own_terms(recipe):
        differing.append("the code of a loss term")
    if differing:
        raise UserError(
            f"this process was called otherwise than the one that began {run.folder} "
            f"({listed(differing)}); call all with the same recipe, options and data."
        )


def _other_cases(run: Run, data: Manifest | DrawnHeads, fold: Fold | None) -> list[str]:
    """How the cases, and the fold, differ from those that a run was begun with."""
    others = run.other_cases(data)
    folds = f"fold {run.fold} -> {fold}" if run.fold != fold else ""
    return [each for each in (others, folds) if each]


def check_no_fold(fold: Fold | None) -> None:
    """Raise `UserError` if there is a fold: drawn heads have no parts."""
    if fold is not None:
        raise UserError(
            f"--fold is {fold}, but without --data heads are drawn, which have no "
            "splits to divide; leave --fold out, or give --data."
        )


def check_paths(data: Place | None, folder: Place) -> None:
    """Raise `UserError` if data cannot be read from or a run not be written to."""
    if data is not None:
        check_apart(folder, data)
        check_fetched(data)
        if not data.is_dir():
            raise UserError(f"the data folder {data} does not exist; check --data.")
    if is_remote(folder) and not str(folder).startswith("gs://"):
        raise UserError(
            f"--run is {folder}, but of the object stores checkpoints can be written "
            "to gs:// alone; give such a folder, or one on a disk."
        )
    if data is None or has_manifest(data):
        return
    check_on_disk(data, folder)


def check_on_disk(data: Place, *others: Place) -> None:
    """Raise `UserError` unless raw data lies on a disk, and the other folders, too."""
    if any(is_remote(place) for place in (data, *others)):
        raise UserError(
            f"{data} is no prepared data set (it has no manifest.json), and raw data "
            "is prepared from disk to disk only; run `adn prepare` first."
        )


def check_stages(
    recipe: Recipe, mesh: Mesh | AbstractMesh, trained: Collection[str]
) -> None:
    """Raise `UserError` if a stage of those to train cannot be trained so, or not on
    these devices, or a network of any stage does not fit."""
    for name in trained:
        settings = getattr(recipe, name)
        if settings.steps == 0:
            raise UserError(
                f"{name}.steps is 0, but this recipe needs its weights; set "
                f"--{name}.steps."
            )
        check_batch(settings.batch, mesh, f"{name}.batch", settings.micro_batches)
    system = recipe.system
    for name in stages_of(recipe):
        networks = {
            "align": (),  # `params_shapes` looks at its sizes
            "tissue": (recipe.tissue_net,),
            "joint": (system.disentangle_net, system.segment_net)
            if system.disentangles
            else (system.segment_net,),
        }[name]
        for settings in networks:
            net = network(settings)
            # a head that the box does not hold is seen whole
            for shape in {system.prepare.shape, system.aligned_shape}:
                net.check_shape(shape)
            if not net.sees_patches:
                check_rows(net.deepest_rows(system.aligned_shape), mesh)
        params_shapes(recipe, name)
    needs_maps = recipe.tissue_source == "maps" or "tissue" in trained
    if needs_maps and system.prepare.tissue == "none":
        raise UserError(
            f"prepare.tissue is none, but tissue_source {recipe.tissue_source} needs "
            "tissue maps; set --prepare.tissue auto or --tissue-source none."
        )
    for term in (*recipe.align_loss.extra, *recipe.joint_loss.extra):
        resolve_term(term)


def check_run(run: Run | None, recipe: Recipe, fold: Fold | None) -> None:
    """Raise `UserError` if a stage is finished and was trained with other settings or
    in another fold; a run of which none is may change."""
    if run is None or not run.finished:
        return
    run.check_same_recipe(recipe)
    if run.fold != fold:
        begun = f"with --fold {run.fold}" if run.fold else "without --fold"
        asked = f"it is {fold}" if fold else "there is none"
        raise UserError(
            f"{run.folder} was begun {begun}, now {asked}; give the same again, or "
            "choose another --run folder."
        )


def check_raw_options(reading: ReadSettings | None, workers: int | None) -> None:
    """Raise `UserError` for an option that only preparing raw data heeds."""
    hu_range = None if reading is None else reading.hu_range
    for option, value in (("--hu-range", hu_range), ("--workers", workers)):
        if value is not None:
            raise UserError(
                f"{option} is of raw data, but the data is prepared already, or heads "
                "are drawn; leave it out, or give it to `adn prepare`."
            )


def prepared_cases(
    data: Place,
    folder: Place,
    recipe: Recipe,
    fold: Fold | None,
    workers: int | None,
    reading: ReadSettings | None,
) -> Manifest:
    """The prepared data set with its fold; a raw one is prepared into the run first."""
    wanted = recipe.system.prepare
    if not has_manifest(data):
        run = Run.find(folder)
        learnt_by = folder if run is not None and run.has_learnt else None
        found = prepare_into(folder, data, wanted, workers, reading, learnt_by)
        return found.with_fold(fold)
    manifest = read_manifest(data)
    if wanted.tissue == "auto":
        wanted = replace(wanted, tissue=manifest.settings.tissue)
    if differing := list(differing_fields(manifest.settings, wanted)):
        raise UserError(
            f"{manifest.folder} was prepared with other settings than this recipe "
            f"wants ({'; '.join(differing)}); give the raw data set as --data, or "
            "prepare it again."
        )
    return manifest.with_fold(fold)


def prepare_into(
    folder: Place,
    data: Place,
    settings: PrepareSettings,
    workers: int | None,
    reading: ReadSettings | None,
    learnt_by: Place | None = None,
) -> Manifest:
    """Prepare a raw data set into `folder/prepared`, and say what came of it.

    `learnt_by`, a run, has learnt from what is there (`prepare_dataset`).
    """
    # readers of scans take half a second that prepared data never need
    from adn_jax.prepare.dataset import log_manifest, prepare_dataset

    manifest = prepare_dataset(
        Path(data),
        Path(folder / "prepared"),
        settings,
        workers,
        reading,
        learnt_by="" if learnt_by is None else str(learnt_by),
    )
    log_manifest(manifest)
    return manifest


def begin_run(
    run: Run | None,
    folder: Place,
    recipe: Recipe,
    manifest: Manifest | DrawnHeads,
    fold: Fold | None,
    pretrained: Pretrained,
) -> Run:
    """Write `config.json` unless it says the same, and copy the stages of other runs.

    What unfinished stages have saved is set aside if they were begun otherwise.
    """
    sources = {stage: run_name(source) for stage, source in pretrained.items()}
    differing = []
    if run is not None:
        differing = _other_cases(run, manifest, fold)
        for stage in [each for each in run.stages if each not in run.finished]:
            changed = [*run.changed_settings(stage, recipe), *differing]
            before, now = run.pretrained.get(stage), sources.get(stage)
            if before != now:
                changed.append(f"{RUN_OPTIONS[stage]} {before} -> {now}")
            if changed and run.has_checkpoints(stage):
                aside = run.set_aside(stage)
                is_taken = stage in TAKEN_STAGES and now is not None
                fate = f"is taken from {now}" if is_taken else "begins anew"
                print(
                    f"adn: the unfinished stage {stage!r} of {folder} was begun "
                    f"otherwise ({listed(changed)}) and {fate}; what it saved is now "
                    f"{aside}.",
                    file=sys.stderr,
                )
    terms = own_terms(recipe)
    begun = run and (run.recipe, run.pretrained, run.terms_sha256)
    if run is None or begun != (recipe, sources, terms) or differing:
        run = Run.create(
            folder,
            recipe,
            manifest.folder,
            manifest.digest,
            manifest.learnt_sha256,
            fold,
            sources,
            terms,
        )
    for stage in pretrained.keys() & TAKEN_STAGES - run.finished.keys():
        copy_stage(stage, run, pretrained[stage])
    return run


def copy_stage(stage: str, run: Run, folder: Place) -> None:
    """Copy the best weights of a stage of the run in `folder` as that of `run`."""
    source = Run.open(folder)
    run.write_stage(
        stage,
        source.params(stage),
        taken_from=run_name(folder),
        step_there=source.finished[stage]["best_step"],
    )
