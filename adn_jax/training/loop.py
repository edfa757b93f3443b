"""Runs one stage: resume, update, validate, save, and stop when it is time."""

import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, Sharding
from orbax.checkpoint import CheckpointManager
from rich.progress import track

from adn_jax.config import Recipe
from adn_jax.data.batches import Split, case_names, epoch_batches, train_batches
from adn_jax.errors import UserError
from adn_jax.pipeline.align import search_view
from adn_jax.runtime import checkpoints
from adn_jax.runtime.hosts import is_first, wait_for_all
from adn_jax.runtime.logbook import Logbook, open_logbook
from adn_jax.runtime.mesh import check_batch, place_cases, replicate, replicated
from adn_jax.runtime.stop import catch_stop
from adn_jax.training.history import DiceHistory
from adn_jax.training.optimizer import make_optimizer
from adn_jax.training.runs import (
    STAGE_MODES,
    checkpoint_folder,
    initial_params,
    mark_finished,
)
from adn_jax.training.stages import Stage
from adn_jax.training.state import TrainState, initial_state
from adn_jax.training.steps import Values, make_train_step, was_skipped
from adn_jax.types import Batch, Params, View

FETCH_SECONDS = 1.0
"""Values of updates are fetched from the device about this often."""

IN_FLIGHT = 2
"""Updates handed to the device ahead of time: it never waits, and a stop comes soon."""

MOST_SKIPPED = 5
"""Skipped updates in a row at which the training stops."""

LOOK_EVERY = 16
"""Updates after which it looks whether to stop, so that all processes do it alike."""

Validate = Callable[[Params], dict[str, float]]


@dataclass
class Session:
    """One stage under way: where it saves and logs, what it has not fetched yet."""

    stage: Stage
    manager: CheckpointManager
    log: Logbook
    history: DiceHistory
    validate: Validate
    names: Callable[[int], tuple[str, ...]]
    """Update (from 1) -> names of its cases."""
    skipped: list[int] = field(default_factory=list)
    """The latest updates, in a row, that left the parameters as they were."""
    waiting: deque[tuple[int, Values]] = field(default_factory=deque)
    last_fetch: float = field(default_factory=time.monotonic)


def train_stage(
    stage: Stage,
    recipe: Recipe,
    run: Path,
    train: Split,
    validation: Split,
    frozen: Any,
    mesh: Mesh,
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

    Returns:
      0 when the stage is finished, else the number of the signal that stopped it;
      its last state is saved then.
    """
    settings, mode = stage.settings, STAGE_MODES[stage.name]
    parts = settings.micro_batches
    check_batch(settings.batch, mesh, f"{stage.name}.batch", parts)
    everywhere, place = replicated(mesh), partial(place_cases, mesh=mesh)
    frozen = replicate(frozen, mesh)
    seed = recipe.seed + list(STAGE_MODES).index(stage.name)
    init_key, step_key = jax.random.split(jax.random.key(seed))
    optimizer = make_optimizer(settings.optimizer, settings.steps)
    train_step = make_train_step(stage.loss, optimizer, step_key, everywhere, parts)

    def fresh() -> TrainState:
        return initial_state(initial_params(init_key, recipe, stage.name), optimizer)

    folder = checkpoint_folder(run, stage.name)
    with catch_stop() as stop, checkpoints.open_checkpoints(folder, mode) as manager:
        state, sums = resume(manager, fresh, everywhere)
        step = int(state.step)
        history = DiceHistory(math.ceil(len(train) / settings.batch), sums)
        validate = make_validation(stage, frozen, validation, place, everywhere)
        with open_logbook(run, stage.name, step, settings.steps) as log:
            names = partial(names_of_update, train, settings.batch, seed)
            session = Session(stage, manager, log, history, validate, names)
            batches = train_batches(train, settings.batch, seed, step, place)
            while not is_finished(session, recipe, step):
                batch = next_batch(session, step, state, batches)
                state, values = train_step(state, frozen, batch)
                step += 1
                session.waiting.append((step, values))
                after_step(session, recipe, step, state)
                if signal := stop.after_update():
                    if manager.latest_step() != step:
                        save(session, step, state, with_score=False)
                    log.say(f"{stage.name}: stopped and saved at step {step}.")
                    return signal
        checkpoints.wait(manager)
        finish(run, session, step)
    wait_for_all(f"{stage.name} is finished")
    return 0


def names_of_update(
    split: Split, batch: int, seed: int, update: int
) -> tuple[str, ...]:
    """Names of the cases of an update (from 1)."""
    return case_names(split, batch, seed, update - 1)


def next_batch(
    session: Session, step: int, state: TrainState, batches: Iterator[Batch]
) -> Batch:
    """The next batch; where a case cannot be read, the state is saved first.

    Of several processes the one that cannot read ends all, and nothing is saved.
    """
    try:
        return next(batches)
    except UserError:
        alone = jax.process_count() == 1
        if alone and step and session.manager.latest_step() != step:
            save(session, step, state, with_score=False)
        raise


def is_finished(session: Session, recipe: Recipe, step: int) -> bool:
    """Whether all steps are done, or the stop rule holds."""
    settings = session.stage.settings
    warm_start = recipe.joint_loss.warm_start_steps
    settled = session.history.has_settled(step, settings, warm_start)
    return step >= settings.steps or settled


def after_step(session: Session, recipe: Recipe, step: int, state: TrainState) -> None:
    """Fetch values, and validate and save where it is due.

    Raises `UserError` after too many skipped updates, once the state is saved.
    """
    settings = session.stage.settings
    if len(session.waiting) > IN_FLIGHT:
        jax.block_until_ready(session.waiting[-1 - IN_FLIGHT])
    if settings.patience_epochs and step % session.history.steps_per_epoch == 0:
        fetch(session, leave=0)
    elif time.monotonic() - session.last_fetch > FETCH_SECONDS:
        fetch(session, leave=1)
    due = step % settings.validate_every == 0
    looked = 0
    if due or is_finished(session, recipe, step):
        save(session, step, state, with_score=True)
        looked = step
    elif step % LOOK_EVERY == 0:
        fetch(session, leave=IN_FLIGHT)
        looked = step - IN_FLIGHT
    row = session.skipped[:MOST_SKIPPED]
    if len(row) == MOST_SKIPPED and row[-1] <= looked:
        if session.manager.latest_step() != step:
            save(session, step, state, with_score=False)
        raise too_many_skipped(session)


def fetch(session: Session, leave: int) -> None:
    """Take the values of all but the last `leave` updates from the device and log them.

    Leaving one lets the device work on while the host writes.
    """
    count = max(len(session.waiting) - leave, 0)
    taken = [session.waiting.popleft() for _ in range(count)]
    for step, values in jax.device_get(taken):
        keep_values(session, int(step), {name: float(values[name]) for name in values})
    if taken:
        session.last_fetch = time.monotonic()


def keep_values(session: Session, step: int, numbers: dict[str, float]) -> None:
    """Log the values of one update; of a skipped one those that are numbers."""
    finite = {name: each for name, each in numbers.items() if math.isfinite(each)}
    if was_skipped(numbers):
        session.skipped.append(step)
        session.log.say(
            f"{session.stage.name} step {step}: skipped, for the loss or its gradient "
            f"is not finite ({', '.join(session.names(step))})"
        )
        finite["skipped"] = 1.0
    elif len(session.skipped) < MOST_SKIPPED:
        session.skipped.clear()
    session.log.write(step, "train", finite)
    if "dice" in finite:
        session.history.add(step, finite["dice"])
    shown = {name: numbers[name] for name in ("loss", "dice") if name in numbers}
    session.log.show(step, shown)


def too_many_skipped(session: Session) -> UserError:
    """Why the training stops, with the cases that were in the skipped updates."""
    name, steps = session.stage.name, session.skipped
    cases = sorted({case for step in steps for case in session.names(step)})
    return UserError(
        f"the loss or its gradient was not finite in steps {steps[0]} to {steps[-1]} "
        f"of stage {name!r}, with the cases {', '.join(cases)}; the weights before "
        f"them are saved. Look at these cases, or start a new run with a lower "
        f"--{name}.optimizer.learning-rate or with --{name}.optimizer.clip-norm 1."
    )


def check_validation(session: Session, step: int, numbers: dict[str, float]) -> None:
    """Raise `UserError` where a validation value is not finite."""
    for name, number in numbers.items():
        if not math.isfinite(number):
            raise UserError(
                f"validation {name} became {number} at step {step} of stage "
                f"{session.stage.name!r}; look at the cases of the split validation."
            )


def save(session: Session, step: int, state: TrainState, with_score: bool) -> None:
    """Bring the logs up to `step`, validate if asked, and save the state."""
    fetch(session, leave=0)
    stage, score = session.stage, None
    if with_score:
        numbers = session.validate(state.params)
        check_validation(session, step, numbers)
        session.log.write(step, "validation", numbers)
        score = numbers[stage.score]
        session.log.say(
            f"{stage.name} step {step}: validation {stage.score} {score:.4f}"
        )
    session.log.sync()
    checkpoints.save(
        session.manager,
        step,
        STAGE_MODES[stage.name],
        **saved_items(state),
        progress={"dice_sums": session.history.sums},
        score=score,
    )


def finish(run: Path, session: Session, step: int) -> None:
    """Note that the stage is finished and which weights are its best."""
    if not is_first():
        return
    best = session.manager.best_step()
    score = session.manager.metrics(best)["score"]
    facts = {"steps": step, "best_step": best, session.stage.score: score}
    mark_finished(run, session.stage.name, facts)


def resume(
    manager: CheckpointManager, fresh: Callable[[], TrainState], sharding: Sharding
) -> tuple[TrainState, list[float]]:
    """The latest state that can be read and its Dice history, or a fresh start.

    Damaged checkpoints are named and set aside. Raises `UserError` where all are.
    """
    steps = sorted(manager.all_steps(), reverse=True)
    if not steps:
        return jax.jit(fresh, out_shardings=sharding)(), []
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
    return TrainState(params=params, **optimizer), progress["dice_sums"]


def saved_items(state: TrainState) -> dict[str, Any]:
    """A state as the items of a checkpoint."""
    optimizer = {"step": state.step, "opt_state": state.opt_state}
    return {"params": state.params, "optimizer": optimizer}


def make_validation(
    stage: Stage,
    frozen: Any,
    split: Split,
    place: Callable[[np.ndarray], jax.Array],
    sharding: Sharding,
) -> Validate:
    """A function from parameters to the mean of every value over the split."""
    evaluate = jax.jit(stage.evaluate, out_shardings=sharding)

    def validate(params: Params) -> dict[str, float]:
        found: dict[str, list[float]] = {}
        for batch, count in epoch_batches(split, stage.settings.batch, place):
            values = jax.device_get(evaluate(params, frozen, batch))
            for name, per_case in values.items():
                found.setdefault(name, []).extend(per_case[:count].tolist())
        return {name: math.fsum(each) / len(each) for name, each in found.items()}

    return validate


def search_table(recipe: Recipe, split: Split, batch: int, mesh: Mesh) -> jax.Array:
    """Answer of the coarse search for every case of a split, by index in the data set.

    It looks as far as T can turn.
    """
    limit = recipe.view_net.rotation_limit_deg[2]

    def search_cases(batch: Batch) -> tuple[jax.Array, View]:
        return batch.case, search_view(batch.volume, recipe, limit_deg=limit)

    search = jax.jit(search_cases, out_shardings=replicated(mesh))
    table = np.zeros((len(split.manifest.cases), 6), np.float32)
    batches = epoch_batches(split, batch, partial(place_cases, mesh=mesh))
    total = math.ceil(len(split) / batch)
    for cases, count in track(batches, "search", total, transient=True):
        case, view = jax.device_get(search(cases))
        table[case[:count]] = view[:count]
    return jnp.asarray(table)
