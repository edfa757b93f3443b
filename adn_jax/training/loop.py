"""Runs one stage: resume, update, validate, save, and stop when it is time."""

import math
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
from jax.sharding import Mesh, Sharding
from orbax.checkpoint import CheckpointManager

from adn_jax.config import Recipe
from adn_jax.config.validation import recipe_from_json
from adn_jax.data.batches import Split, case_names, train_batches
from adn_jax.distributed.hosts import catch_stop_of_any, wait_for_all
from adn_jax.distributed.mesh import check_batch, place_cases, replicate, replicated
from adn_jax.errors import UserError
from adn_jax.io.paths import Place
from adn_jax.runtime import checkpoints
from adn_jax.runtime.logbook import open_logbook
from adn_jax.training.history import DiceHistory
from adn_jax.training.passes import make_validation
from adn_jax.training.runs import STAGE_MODES, checkpoint_folder, refuse_other_settings
from adn_jax.training.session import (
    MOST_SKIPPED,
    Session,
    case_absent,
    fetch,
    finish,
    save,
    save_last,
    saved_items,
    state_from_items,
    too_many_skipped,
)
from adn_jax.training.stages import Stage
from adn_jax.training.steps import TrainState, Values
from adn_jax.training.term_gradients import make_term_gradients
from adn_jax.training.updates import Update, make_update, stage_seed
from adn_jax.types import Batch, Key

FETCH_SECONDS = 1.0
"""Values of updates are fetched from the device about this often."""

IN_FLIGHT = 2
"""Updates handed to the device ahead of time: it never waits, and a stop comes soon."""

LOOK_EVERY = 16
"""Updates after which it looks whether to stop, so that all processes do it alike."""


def train_stage(
    stage: Stage,
    recipe: Recipe,
    run: Place,
    train: Split,
    validation: Split,
    frozen: Any,
    mesh: Mesh,
    update: Update | None = None,
) -> int:
    """Train a stage to its end, from its latest checkpoint if there is one.

    Args:
      stage: loss, validation and settings.
      recipe: the whole recipe.
      run: folder of the run.
      train: cases to learn from.
      validation: held-out cases that choose the best weights.
      frozen: what the stage's functions need besides the trained parameters.
      mesh: devices; the batch is split over them.
      update: the stage's compiled step; None: it is compiled at its first call.

    Returns:
      0 when the stage is finished, else the number of the signal that stopped it;
      its last state is saved then.
    """
    settings, mode = stage.settings, STAGE_MODES[stage.name]
    parts = settings.micro_batches
    check_batch(settings.batch, mesh, f"{stage.name}.batch", parts)
    everywhere, place = replicated(mesh), partial(place_cases, mesh=mesh)
    frozen = replicate(frozen, mesh)
    seed = stage_seed(stage, recipe)
    update = update or make_update(stage, recipe, mesh)
    term_gradients = watch_terms(stage, recipe, frozen, update.key, everywhere)
    folder = checkpoint_folder(run, stage.name)
    with (
        catch_stop_of_any() as stop,
        checkpoints.open_checkpoints(folder, mode) as manager,
    ):
        state, progress = resume(manager, update.fresh, everywhere)
        check_progress(progress, folder, stage.name, recipe)
        step = int(state.step)
        sums = progress.get("dice_sums", [])
        history = DiceHistory(math.ceil(len(train) / settings.batch), sums)
        validate = make_validation(stage, frozen, validation, place, everywhere)
        with open_logbook(run, stage.name, step, settings.steps) as log:
            names = partial(names_of_update, train, settings.batch, seed)
            session = Session(stage, recipe, manager, log, history, validate, names)
            batches = train_batches(train, settings.batch, seed, step, place)
            while not is_finished(session, step):
                batch = next_batch(session, state, batches)
                # before the update, which takes the state's memory
                gradients = term_gradients(step + 1, state, batch)
                state, values = update.step(state, frozen, batch)
                step += 1
                session.waiting.append((step, {**values, **gradients}))
                after_step(session, step, state)
                if signal := stop.after_update():
                    saved = save_last(session, state)
                    log.say(f"{stage.name}: stopped and saved at step {saved}.")
                    return signal
        checkpoints.wait(manager)
        finish(run, session, step)
    wait_for_all(f"{stage.name} is finished")
    return 0


def watch_terms(
    stage: Stage, recipe: Recipe, frozen: Any, key: Key, sharding: Sharding
) -> Callable[[int, TrainState, Batch], Values]:
    """What measures each term's gradient before an update (from 1); nothing where the
    stage has no terms or the update is not one that the recipe watches."""
    every = recipe.joint_loss.gradient_norms_every if stage.terms else 0
    if not every:
        return lambda *_: {}
    measure = make_term_gradients(stage.terms, sharding, stage.settings.micro_batches)

    def watch(update: int, state: TrainState, batch: Batch) -> Values:
        if update % every:
            return {}
        return measure(state.params, frozen, batch, key, state.step)

    return watch


def names_of_update(
    split: Split, batch: int, seed: int, update: int
) -> tuple[str, ...]:
    """Names of the cases of an update (from 1)."""
    return case_names(split, batch, seed, update - 1)


def next_batch(session: Session, state: TrainState, batches: Iterator[Batch]) -> Batch:
    """The next batch; where a case cannot be read, the state is saved first."""
    try:
        return next(batches)
    except UserError:
        save_last(session, state)
        raise


def is_finished(session: Session, step: int) -> bool:
    """Whether all steps are done, or the stop rule holds."""
    settings = session.stage.settings
    warm_start = session.recipe.joint_loss.warm_start_steps
    settled = session.history.has_settled(step, settings, warm_start)
    return step >= settings.steps or settled


def after_step(session: Session, step: int, state: TrainState) -> None:
    """Fetch values, and validate and save where it is due.

    Raises `UserError` after too many skipped updates, or where a process could not read
    a case, once the state is saved.
    """
    settings = session.stage.settings
    if len(session.waiting) > IN_FLIGHT:
        jax.block_until_ready(session.waiting[-1 - IN_FLIGHT])
    if settings.patience_epochs and step % session.history.steps_per_epoch == 0:
        fetch(session, leave=0)
    elif time.monotonic() - session.last_fetch > FETCH_SECONDS:
        fetch(session, leave=1)
    due = step % settings.validate_every == 0 or is_finished(session, step)
    looked = 0
    if due:
        fetch(session, leave=0)
        looked = step
    elif step % LOOK_EVERY == 0:
        fetch(session, leave=IN_FLIGHT)
        looked = step - IN_FLIGHT
    if 0 < session.absent <= looked:
        save_last(session, state)
        raise case_absent(session)
    if due:
        save(session, state, with_score=True)
    row = session.skipped[:MOST_SKIPPED]
    if len(row) == MOST_SKIPPED and row[-1] <= looked:
        save_last(session, state)
        raise too_many_skipped(session)


def resume(
    manager: CheckpointManager, fresh: Callable[[], TrainState], sharding: Sharding
) -> tuple[TrainState, dict[str, Any]]:
    """The latest state that can be read and what was noted with it, or a fresh start.

    Damaged checkpoints are named and set aside. Raises `UserError` where all are.
    """
    steps = sorted(manager.all_steps(), reverse=True)
    if not steps:
        return jax.jit(fresh, out_shardings=sharding)(), {}
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        jax.eval_shape(lambda: saved_items(fresh())),
    )
    for step in steps:
        try:
            params, optimizer, progress = checkpoints.restore_training(
                manager, step, **like
            )
        except checkpoints.DamagedCheckpointError:
            if step == steps[-1]:
                raise
            aside = checkpoints.set_aside(manager, step)
            print(
                f"adn: checkpoint {step} of {manager.directory} is damaged; it is now "
                f"{aside}, and an earlier one is used.",
                file=sys.stderr,
            )
        else:
            break
    return state_from_items(params, optimizer), progress


def check_progress(
    progress: dict[str, Any], folder: Place, stage: str, recipe: Recipe
) -> None:
    """Raise `UserError` where a stage's checkpoint in `folder` is of another recipe.

    One that was brought here from another run is: `config.json` cannot tell.
    """
    if "recipe" in progress:
        saved = recipe_from_json(progress["recipe"], f"{folder}: recipe")
        refuse_other_settings(folder, stage, saved, recipe)
