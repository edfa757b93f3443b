"""Trains every stage of a recipe that is not finished yet."""

import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
from jax.sharding import Mesh
from rich.console import Console

from adn_jax.config import ReadSettings, Recipe, StageSettings, UNetSettings
from adn_jax.config.serialization import differing_fields
from adn_jax.config.validation import check_recipe
from adn_jax.data.batches import Split, check_infarcts, open_split, with_infarct
from adn_jax.data.manifest import Manifest, cases_digest, fold_manifest, read_manifest
from adn_jax.data.splits import Fold
from adn_jax.distributed.hosts import is_first, sync_errors
from adn_jax.distributed.mesh import check_batch, check_rows, device_mesh
from adn_jax.errors import UserError, counted
from adn_jax.io.files import check_fetched, is_there, only_one
from adn_jax.io.paths import Place, as_place, is_remote, spelled_out
from adn_jax.losses.extra import resolve_term
from adn_jax.models import check_shape, deepest_rows
from adn_jax.prepare.dataset import log_manifest, prepare_dataset
from adn_jax.runtime.platform import check_cudnn, return_freed_memory
from adn_jax.training.loop import train_stage
from adn_jax.training.pretrained import Pretrained, copy_stage, find_pretrained
from adn_jax.training.runs import (
    changed_settings,
    check_same_recipe,
    config_recipe,
    has_checkpoints,
    initial_params,
    listed,
    load_stage,
    read_config,
    read_finished,
    set_stage_aside,
    stages_of,
    write_config,
)
from adn_jax.training.stages import make_stage, needs_search
from adn_jax.training.updates import Update, compile_update
from adn_jax.training.validation import search_table


def train(
    recipe: Recipe,
    data: Place | str,
    run: Place | str,
    workers: int | None = None,
    pretrained: Pretrained = MappingProxyType({}),
    spatial_shards: int = 1,
    fold: Fold | None = None,
    dry_run: bool = False,
    reading: ReadSettings | None = None,
) -> int:
    """Train what is left of a recipe in the folder `run`.

    Args:
      recipe: where a stage is finished, the one it was trained with, apart from what
        the stage does not depend on.
      data: a prepared data set, or a raw one, which is prepared into `run/prepared`.
      run: folder of the run; made where it is absent.
      workers: processes that prepare; None takes one a core.
      pretrained: stages that are taken from other runs instead of training them, with
        those runs; those that the folder was begun with are known.
      spatial_shards: devices that share the rows of each case.
      fold: which part of the training and validation cases validates, the others
        train; None: the data set's own splits. With a finished stage the folder keeps
        to its fold.
      dry_run: check all that can be checked, and neither train nor write; the cases of
        a raw data set cannot be before it is prepared.
      reading: how a raw data set is found and read; None: the defaults.

    Returns:
      0 when every stage is finished, else the number of the signal that stopped it.

    Raises:
      UserError: the recipe cannot work, the data does not fit it, or the folder
        belongs to another run.
    """
    data, run = as_place(data), as_place(run)
    check_recipe(recipe)
    check_cudnn(recipe.system.precision)
    mesh = device_mesh(spatial_shards=spatial_shards)
    prepared = partial(_prepared_cases, recipe, data, run, workers, reading, fold)
    with sync_errors():
        pretrained = find_pretrained(recipe, run, pretrained)
        pending = _check_stages(recipe, mesh, pretrained)
        _check_places(data, run)
        _check_run(recipe, run, fold)
        unfinished = [name for name in pending if name not in read_finished(run)]
        if dry_run and is_there(data / "manifest.json"):
            _check_cases(recipe, run, prepared(), unfinished, mesh)
    if dry_run:
        return 0
    with writing(run), ExitStack() as claim:
        with sync_errors():
            if is_first():
                claim.enter_context(only_one(run))
                manifest = prepared()
                _check_cases(recipe, run, manifest, unfinished, mesh)
                _begin(recipe, run, manifest, pretrained, fold)
        return _train_stages(unfinished, recipe, data, run, fold, mesh)


def _train_stages(
    names: Sequence[str],
    recipe: Recipe,
    data: Place,
    run: Place,
    fold: Fold | None,
    mesh: Mesh,
) -> int:
    """Train those stages that no other run has given; returns what `train` does."""
    with sync_errors():
        manifest = fold_manifest(read_manifest(_prepared_folder(data, run)), fold)
        finished = read_finished(run)
        names = [name for name in names if name not in finished]
        splits = {name: _open_splits(name, recipe, manifest, mesh) for name in names}
    with sync_errors():
        updates = _compile_updates(names, recipe, mesh, len(manifest.cases))
    for name in names:
        with jax.set_mesh(mesh):
            signal = _train_next(
                name, recipe, run, *splits.pop(name), mesh, updates.pop(name)
            )
        if signal:
            return signal
    return 0


def _check_places(data: Place, run: Place) -> None:
    """Raise `UserError` where data cannot be read from or a run not be written to."""
    check_fetched(data)
    if not data.is_dir():
        raise UserError(f"the data folder {data} does not exist; check --data.")
    if is_remote(run) and not str(run).startswith("gs://"):
        raise UserError(
            f"--run is {run}, but of the object stores checkpoints can be written to "
            "gs:// alone; give such a folder, or one on a disk."
        )
    if (is_remote(data) or is_remote(run)) and not is_there(data / "manifest.json"):
        raise UserError(
            f"{data} is no prepared data set (it has no manifest.json), and raw data "
            "is prepared from disk to disk only; run `adn prepare` first."
        )


def _check_stages(
    recipe: Recipe, mesh: Mesh, pretrained: Pretrained = MappingProxyType({})
) -> tuple[str, ...]:
    """The stages to train, after a check that each can be; pretrained ones are not."""
    names = tuple(name for name in stages_of(recipe) if name not in pretrained)
    for name in names:
        settings = getattr(recipe, name)
        if settings.steps == 0:
            raise UserError(
                f"{name}.steps is 0, but this recipe needs its weights; set "
                f"--{name}.steps."
            )
        check_batch(settings.batch, mesh, f"{name}.batch", settings.micro_batches)
    for name in stages_of(recipe):
        _check_networks(name, recipe, mesh)
    needs_maps = recipe.tissue_source == "maps" or "tissue" in names
    if needs_maps and recipe.system.prepare.tissue == "none":
        raise UserError(
            f"prepare.tissue is none, but tissue_source {recipe.tissue_source} needs "
            "tissue maps; set --prepare.tissue auto or --tissue-source none."
        )
    for term in (*recipe.align_loss.extra, *recipe.joint_loss.extra):
        resolve_term(term)
    return names


def _check_networks(name: str, recipe: Recipe, mesh: Mesh) -> None:
    """Raise `UserError` where a stage's networks do not suit grid or devices."""
    networks = {
        "align": (recipe.system.alignment_net,),
        "tissue": (recipe.tissue_net,),
        "joint": (recipe.system.disentangle_net, recipe.system.segment_net)
        if recipe.system.disentangles
        else (recipe.system.segment_net,),
    }[name]
    for network in networks:
        check_shape(recipe.system.prepare.shape, network)
        if isinstance(network, UNetSettings):
            check_rows(deepest_rows(recipe.system.prepare.shape, network), mesh)
    build = partial(initial_params, recipe=recipe, stage=name)
    jax.eval_shape(build, jax.random.key(0))


def _begin(
    recipe: Recipe,
    run: Place,
    manifest: Manifest,
    pretrained: Pretrained,
    fold: Fold | None,
) -> None:
    """Write `config.json` and copy the stages of other runs, where not done yet."""
    note(run, recipe, manifest, pretrained, fold)
    for stage in pretrained.keys() - read_finished(run).keys():
        copy_stage(stage, run, recipe, pretrained[stage])


def _check_run(recipe: Recipe, run: Place, fold: Fold | None) -> None:
    """Raise `UserError` where a stage is finished in `run`, and was trained with other
    settings or cases; a run of which none is may change."""
    if read_finished(run):
        check_same_recipe(run, recipe)
        _check_same_fold(run, fold)


def _check_cases(
    recipe: Recipe,
    run: Place,
    manifest: Manifest,
    unfinished: Sequence[str],
    mesh: Mesh,
) -> None:
    """Raise `UserError` unless the cases suffice for the stages to train, and are those
    that the finished ones in `run` were trained on."""
    if read_finished(run):
        check_same_cases(run, manifest)
    for name in unfinished:
        _open_splits(name, recipe, manifest, mesh)


def _check_same_fold(run: Place, fold: Fold | None) -> None:
    """Raise `UserError` where `run` was begun with another fold, or one of the two has
    none."""
    begun = read_config(run).get("fold")
    asked = None if fold is None else str(fold)
    if begun != asked:
        raise UserError(
            f"{run} was begun {f'with --fold {begun}' if begun else 'without --fold'}, "
            f"now {f'it is {asked}' if asked else 'there is none'}; give the same "
            "again, or choose another --run folder."
        )


@contextmanager
def writing(run: Place) -> Generator[None]:
    """What the file system refuses in the block becomes a `UserError`."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"writing to {run} failed ({error.strerror or error}); free space, "
            "then run the same command again: it continues."
        ) from error


def _prepared_folder(data: Place, run: Place) -> Place:
    """Where the prepared data is, or will be: `data` itself, or in the run."""
    return data if is_there(data / "manifest.json") else run / "prepared"


def _prepared_cases(
    recipe: Recipe,
    data: Place,
    run: Place,
    workers: int | None,
    reading: ReadSettings | None,
    fold: Fold | None,
) -> Manifest:
    """The prepared data set with its fold; a raw one is prepared first."""
    folder = _prepared_folder(data, run)
    if folder == data:
        manifest = read_manifest(data)
        _check_prepared(manifest, recipe)
    else:
        manifest = prepare_dataset(
            Path(data), Path(folder), recipe.system.prepare, workers, reading
        )
        log_manifest(manifest)
    return fold_manifest(manifest, fold)


def _check_prepared(manifest: Manifest, recipe: Recipe) -> None:
    """Raise `UserError` where data was prepared unlike the recipe wants it."""
    wanted = recipe.system.prepare
    if wanted.tissue == "auto":
        wanted = replace(wanted, tissue=manifest.settings.tissue)
    differing = list(differing_fields(manifest.settings, wanted))
    if differing:
        raise UserError(
            f"{manifest.folder} was prepared with other settings than this recipe "
            f"wants ({'; '.join(differing)}); give the raw data set as --data, or "
            "prepare it again."
        )


def check_same_cases(run: Place, manifest: Manifest) -> None:
    """Raise `UserError` where `run` was begun with other cases or splits."""
    digest = cases_digest(manifest)
    if read_config(run).get("cases_sha256", digest) != digest:
        raise UserError(
            f"{run} was begun with other cases or splits than {manifest.folder} "
            "has now; restore the data set or choose another --run folder."
        )


def note(
    run: Place,
    recipe: Recipe,
    manifest: Manifest,
    pretrained: Pretrained = MappingProxyType({}),
    fold: Fold | None = None,
) -> None:
    """Write `config.json`, unless it says the same already.

    Where it says something else, what an unfinished stage has saved is set aside.
    """
    if (run / "config.json").exists():
        known = read_config(run)
        old = config_recipe(run, known)
        differing = differences(known, manifest, fold)
        if old == recipe and not differing:
            return
        _set_aside_stages(run, old, recipe, differing)
    digest = cases_digest(manifest)
    more = {f"{stage}_run": spelled_out(pretrained[stage]) for stage in pretrained}
    if fold is not None:
        more["fold"] = str(fold)
    write_config(run, recipe, manifest.folder, cases_sha256=digest, **more)


def differences(
    known: Mapping[str, Any], manifest: Manifest, fold: Fold | None
) -> list[str]:
    """What the content of a `config.json` says of cases and fold that is no longer."""
    digest, begun = cases_digest(manifest), known.get("fold")
    asked = None if fold is None else str(fold)
    cases = ["other cases or splits"]
    return [
        *cases * (known.get("cases_sha256", digest) != digest),
        *[f"fold {begun} -> {asked}"] * (begun != asked),
    ]


def _set_aside_stages(
    run: Place, old: Recipe, recipe: Recipe, differing: Sequence[str]
) -> None:
    """Set aside what unfinished stages have saved, where they were begun otherwise."""
    for stage in set(stages_of(old)) - read_finished(run).keys():
        changed = [*changed_settings(stage, old, recipe), *differing]
        if changed and has_checkpoints(run, stage):
            aside = set_stage_aside(run, stage)
            print(
                f"adn: the unfinished stage {stage!r} of {run} was begun otherwise "
                f"({listed(changed)}) and begins anew; what it saved is now {aside}.",
                file=sys.stderr,
            )


def _open_splits(
    name: str, recipe: Recipe, manifest: Manifest, mesh: Mesh
) -> tuple[Split, Split]:
    """Training and validation cases, after a check that they are enough for a batch and
    have a stage's labels.

    A case without infarct trains, but does not help to choose the joint stage's
    weights: its Dice is 1 or 0 by convention.
    """
    needs = {
        "align": (),
        "tissue": ("lesion", "tissue"),
        "joint": ("lesion", "tissue")
        if recipe.tissue_source == "maps"
        else ("lesion",),
    }[name]
    training = open_split(manifest, "train", needs)
    _check_enough(len(training), name, getattr(recipe, name), manifest, mesh)
    validation = open_split(manifest, "validation", needs)
    if name != "joint":
        return training, validation
    for split in (training, validation):
        check_infarcts(split)
    return training, with_infarct(validation)


def _check_enough(
    cases: int, stage: str, settings: StageSettings, manifest: Manifest, mesh: Mesh
) -> None:
    """Raise `UserError`, naming the option, where a batch needs more cases."""
    if cases >= settings.batch:
        return
    side_by_side = settings.micro_batches * mesh.shape["data"]
    if fitting := cases // side_by_side * side_by_side:
        advice = f"set --{stage}.batch {fitting}"
    else:
        advice = f"set --{stage}.batch 1 and --{stage}.micro-batches 1, on one device"
    raise UserError(
        f"{stage}.batch is {settings.batch}, but the split 'train' of "
        f"{manifest.folder} has {counted(cases, 'case')}; {advice}, or name more in "
        "splits.json and prepare the data set again."
    )


def _compile_updates(
    names: Sequence[str], recipe: Recipe, mesh: Mesh, cases: int
) -> dict[str, Update]:
    """The compiled updates of stages: none trains before all are known to fit.

    On a CPU the memory that compiling took is given back.
    """
    updates = {}
    with Console().status("compile") as status:
        for name in names:
            status.update(f"compile {name}")
            updates[name] = compile_update(
                make_stage(name, recipe), recipe, mesh, cases
            )
    return_freed_memory()
    return updates


def _train_next(
    name: str,
    recipe: Recipe,
    run: Place,
    training: Split,
    validation: Split,
    mesh: Mesh,
    update: Update,
) -> int:
    """Train one stage on top of the finished ones."""
    stage = make_stage(name, recipe)
    frozen: dict[str, Any] = {
        former: load_stage(run, recipe, former) for former in read_finished(run)
    }
    if name == "align" and needs_search(recipe):
        frozen["search"] = search_table(recipe, training, stage.settings.batch, mesh)
    return train_stage(stage, recipe, run, training, validation, frozen, mesh, update)
