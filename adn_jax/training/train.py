"""Trains every stage of a recipe that is not finished yet."""

import math
import sys
from contextlib import ExitStack
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from rich.console import Console
from rich.progress import track

from adn_jax.config import ReadSettings, Recipe
from adn_jax.config.validation import check_recipe
from adn_jax.data.batches import Cases, Split, open_split
from adn_jax.data.manifest import Fold, Manifest, has_manifest, read_manifest
from adn_jax.data.stream import DrawnHeads
from adn_jax.distributed.hosts import is_first, sync_errors
from adn_jax.distributed.mesh import device_mesh, place_cases, replicated
from adn_jax.errors import UserError, counted
from adn_jax.geometry.rigid import Pose
from adn_jax.io.files import only_one
from adn_jax.io.paths import Place, as_place
from adn_jax.pipeline.align import search_pose
from adn_jax.runtime.platform import check_cudnn, return_freed_memory
from adn_jax.training.begin import (
    Pretrained,
    begin_run,
    check_held_out,
    check_no_fold,
    check_paths,
    check_raw_options,
    check_run,
    check_same_work,
    check_stages,
    find_pretrained,
    goes_on,
    prepared_cases,
)
from adn_jax.training.loop import train_stage
from adn_jax.training.runs import (
    TAKEN_STAGES,
    Run,
    former_stages,
    run_place,
    stages_of,
)
from adn_jax.training.stages import make_stage, needs_search
from adn_jax.training.teaching import check_losses, idle_parts
from adn_jax.training.updates import begin_with, compile_update
from adn_jax.types import Batch


def train(
    recipe: Recipe,
    data: Place | str | None,
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
        recipe: if a stage is finished, the one it was trained with, apart from what the
            stage does not depend on.
        data: a prepared data set, or a raw one, which is prepared into `run/prepared`;
            None: heads are drawn on the device, by the recipe's `stream`.
        run: folder of the run; made if it is absent.
        workers: processes that prepare; None takes one a core.
        pretrained: stages that are taken from other runs instead of training them, with
            those runs, and the run with whose weights `joint` begins; those that the
            folder was begun with are known.
        spatial_shards: devices that share the rows of each case.
        fold: which part of the training and validation cases validates, the others
            train; None: the data set's own splits. With a finished stage the folder
            keeps to its fold.
        dry_run: check all that can be checked, and neither train nor write; the cases
            of a raw data set cannot be before it is prepared.
        reading: how a raw data set is found and read; None: the defaults.

    Returns:
        0 when every stage is finished, else the number of the signal that stopped it.

    Raises:
        UserError: the recipe cannot work, the data does not fit it, or the folder
            belongs to another run.
    """
    data, folder = None if data is None else as_place(data), as_place(run)
    check_recipe(recipe)
    check_cudnn(recipe.system.precision)
    mesh = device_mesh(spatial_shards=spatial_shards)
    if data is None:
        check_no_fold(fold)
        cases = partial(DrawnHeads.of, recipe)
    else:
        cases = partial(prepared_cases, data, folder, recipe, fold, workers, reading)
    plan = partial(_plan, recipe, folder, fold, pretrained, mesh)
    with sync_errors():
        check_paths(data, folder)
        if data is None or has_manifest(data):
            check_raw_options(reading, workers)
        planned = plan()
        if is_first():
            for sentence in idle_parts(recipe, planned.fresh):
                print(f"adn: {sentence}", file=sys.stderr)
        if dry_run and (data is None or has_manifest(data)):
            _check_manifest(planned, recipe, cases(), mesh)
    if dry_run:
        return 0
    begun = None
    try:
        with ExitStack() as claim:
            with sync_errors():
                if is_first():
                    claim.enter_context(only_one(folder))
                    # another process may have had the folder until now
                    planned = plan()
                    manifest = cases()
                    _check_manifest(planned, recipe, manifest, mesh)
                    begun = begin_run(
                        planned.run, folder, recipe, manifest, fold, planned.pretrained
                    )
            return _train_stages(begun, data, folder, recipe, fold, mesh)
    except OSError as error:
        raise UserError(
            f"{error.filename or folder} could not be read or written "
            f"({error.strerror or error}); free space or see to your rights there, "
            "then run the same command again: it continues."
        ) from error


class _Plan(NamedTuple):
    """What is left to train in a folder."""

    run: Run | None
    """The one that was begun there."""
    pretrained: dict[str, Place]
    """Stages taken from other runs, and the run with whose weights `joint` begins."""
    left: list[str]
    """Stages to train."""
    fresh: list[str]
    """Those of them that begin now."""


def _plan(
    recipe: Recipe, folder: Place, fold: Fold | None, given: Pretrained, mesh: Mesh
) -> _Plan:
    """Read the folder; `UserError` if what it holds and the recipe do not go together,
    or the recipe cannot be trained on these devices."""
    run = Run.find(folder)
    pretrained = find_pretrained(recipe, folder, run, given)
    taken = pretrained.keys() & TAKEN_STAGES
    trained = [name for name in stages_of(recipe) if name not in taken]
    check_stages(recipe, mesh, trained)
    check_run(run, recipe, fold)
    finished = run.finished if run else {}
    left = [name for name in trained if name not in finished]
    fresh = [name for name in left if run is None or not goes_on(run, name, recipe)]
    check_losses(recipe, fresh)
    return _Plan(run, pretrained, left, fresh)


def _check_manifest(
    plan: _Plan, recipe: Recipe, manifest: Manifest | DrawnHeads, mesh: Mesh
) -> None:
    """Raise `UserError` unless the cases suffice for the stages to train, and are those
    that the finished ones were trained on."""
    run = plan.run
    if run is not None and run.finished and (others := run.other_cases(manifest)):
        now = manifest.folder or "drawn heads"
        raise UserError(
            f"{run.folder} was begun with {others} than {now} has now; restore the "
            "data set or choose another --run folder."
        )
    for name in plan.left:
        _open_cases(name, recipe, manifest, mesh)
    source = plan.pretrained.get("joint")
    if source is not None and "joint" in plan.left:
        check_held_out(run, recipe, source, manifest)


def _open_cases(
    name: str, recipe: Recipe, source: Manifest | DrawnHeads, mesh: Mesh
) -> tuple[Cases, Cases]:
    """What a stage learns from and is validated on."""
    if isinstance(source, DrawnHeads):
        return source.splits()
    return _open_splits(name, recipe, source, mesh)


def _open_splits(
    name: str, recipe: Recipe, manifest: Manifest, mesh: Mesh
) -> tuple[Split, Split]:
    """Training and validation cases of a stage, which have the labels it needs.

    A case without infarct trains, but helps to choose the joint stage's weights only
    with `score_healthy`: its Dice is 1 or 0 by convention. Raises `UserError` if the
    cases are too few for a batch, or lack a label.
    """
    from_maps = recipe.tissue_source == "maps"
    needs = {
        "align": (),
        "tissue": ("lesion", "tissue"),
        "joint": ("lesion", "tissue") if from_maps else ("lesion",),
    }[name]
    training = open_split(manifest, "train", needs)
    settings, cases = getattr(recipe, name), len(training)
    if cases < settings.batch:
        side_by_side = settings.micro_batches * mesh.shape["data"]
        if fitting := cases // side_by_side * side_by_side:
            advice = f"set --{name}.batch {fitting}"
        else:
            advice = f"set --{name}.batch 1 and --{name}.micro-batches 1, on one device"
        raise UserError(
            f"{name}.batch is {settings.batch}, but the split 'train' of "
            f"{manifest.folder} has {counted(cases, 'case')}; {advice}, or name more "
            "in splits.json and prepare the data set again."
        )
    validation = open_split(manifest, "validation", needs)
    if name != "joint":
        return training, validation
    for split in (training, validation):
        split.check_infarcts()
    return training, validation if recipe.score_healthy else validation.with_infarct()


def _train_stages(
    begun: Run | None,
    data: Place | None,
    folder: Place,
    recipe: Recipe,
    fold: Fold | None,
    mesh: Mesh,
) -> int:
    """Train those stages that are not finished; returns what `train` does.

    `begun` is the run in the process that wrote it; the others open it. All stages are
    compiled before the first begins: none trains before all are known to fit.
    """
    with sync_errors():
        run = begun or Run.open(folder)
        if data is None:
            source = DrawnHeads.of(recipe)
        else:
            prepared = data if has_manifest(data) else folder / "prepared"
            source = read_manifest(prepared).with_fold(fold)
        check_same_work(run, recipe, source, fold)
        left = [name for name in run.stages if name not in run.finished]
        stages = {name: make_stage(name, run.recipe) for name in left}
        splits = {name: _open_cases(name, run.recipe, source, mesh) for name in left}
    with sync_errors(), Console().status("compile") as status:
        updates = {}
        cases = len(source.cases) if isinstance(source, Manifest) else None
        for name, stage in stages.items():
            status.update(f"compile {name}")
            updates[name] = compile_update(stage, run.recipe, mesh, cases)
    return_freed_memory()  # which compiling took, on a CPU
    for name, stage in stages.items():
        training, validation = splits.pop(name)
        with jax.set_mesh(mesh):
            former = run.finished.keys() & former_stages(run.recipe, name)
            frozen: dict[str, Any] = {each: run.params(each) for each in former}
            searched = name == "align" and needs_search(run.recipe)
            if searched and isinstance(training, Split):
                batch = stage.settings.batch
                frozen["search"] = search_table(run.recipe, training, batch, mesh)
            update, begun_from = updates.pop(name), run.pretrained.get(name)
            if begun_from and not run.has_checkpoints(name):
                params = Run.open(run_place(begun_from)).params(name)
                update = begin_with(update, params)
            signal = train_stage(stage, run, training, validation, frozen, mesh, update)
        if signal:
            return signal
    return 0


def search_table(recipe: Recipe, split: Split, batch: int, mesh: Mesh) -> Pose:
    """Answer of the coarse search for every case of a split, by index in the data set.

    It looks as far as T can turn.
    """
    limit = recipe.system.alignment_net.rotation_limit_deg[2]

    def search_cases(batch: Batch) -> tuple[jax.Array, Pose]:
        return batch.case, search_pose(batch.volume, recipe.system, limit_deg=limit)

    search = jax.jit(search_cases, out_shardings=replicated(mesh))
    shape = (2, len(split.manifest.cases), 3)
    rotation, translation = np.zeros(shape, np.float32)
    batches = split.once(batch, partial(place_cases, mesh=mesh))
    total = math.ceil(len(split) / batch)
    for cases, count in track(batches, "search", total, transient=True):
        case, pose = jax.device_get(search(cases))
        split.check_present(case)
        rotation[case[:count]] = pose.rotation[:count]
        translation[case[:count]] = pose.translation[:count]
    return Pose(jnp.asarray(rotation), jnp.asarray(translation))
