"""Runs one stage: resume, update, validate, save, and stop when it is time."""

import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import jax
from jax.sharding import Mesh, Sharding
from orbax.checkpoint import CheckpointManager

from adn_jax.config import Recipe, StageSettings
from adn_jax.config.serialization import settings_to_json
from adn_jax.config.validation import recipe_from_json
from adn_jax.data.batches import Split, case_names, train_batches
from adn_jax.distributed.hosts import catch_stop_of_any, is_first, wait_for_all
from adn_jax.distributed.mesh import check_batch, place_cases, replicate, replicated
from adn_jax.errors import UserError
from adn_jax.io.paths import Place
from adn_jax.training import checkpoints
from adn_jax.training.metric_log import Logbook, open_logbook
from adn_jax.training.runs import STAGE_MODES, Run, check_same_settings
from adn_jax.training.stages import Stage
from adn_jax.training.steps import (
    ABSENT,
    Metrics,
    TrainState,
    make_term_gradients,
    was_skipped,
)
from adn_jax.training.updates import Update, make_update, stage_seed
from adn_jax.training.validation import Validate, make_validation
from adn_jax.types import Batch, Key, Params

FETCH_SECONDS = 1.0
"""Values of updates are fetched from the device about this often."""

IN_FLIGHT = 2
"""Updates handed to the device ahead of time: it never waits, and a stop comes soon."""

LOOK_EVERY = 16
"""Updates after which it looks whether to stop, so that all processes do it alike."""

MOST_SKIPPED = 5
"""Skipped updates in a row at which the training stops."""


def train_stage(
    stage: Stage,
    run: Run,
    train: Split,
    validation: Split,
    frozen: Any,
    mesh: Mesh,
    update: Update | None = None,
) -> int:
    """Train a stage to its end, from its latest checkpoint if there is one.

    Args:
      stage: loss, validation and settings.
      run: its recipe, and where it is saved.
      train: cases to learn from.
      validation: held-out cases that choose the best weights.
      frozen: what the stage's functions need besides the trained parameters.
      mesh: devices; the batch is split over them.
      update: the stage's compiled step; None: it is compiled at its first call.

    Returns:
      0 when the stage is finished, else the number of the signal that stopped it;
      its last state is saved then.
    """
    settings, mode, recipe = stage.settings, STAGE_MODES[stage.name], run.recipe
    parts = settings.micro_batches
    check_batch(settings.batch, mesh, f"{stage.name}.batch", parts)
    everywhere, place = replicated(mesh), partial(place_cases, mesh=mesh)
    frozen = replicate(frozen, mesh)
    seed = stage_seed(stage, recipe)
    update = update or make_update(stage, recipe, mesh)
    term_gradients = _watch_terms(stage, recipe, frozen, update.key, everywhere)
    folder = run.checkpoints(stage.name)
    with (
        catch_stop_of_any() as stop,
        checkpoints.open_checkpoints(folder, mode) as manager,
    ):
        state, progress = resume(manager, update.fresh, everywhere)
        _check_progress(progress, folder, stage.name, recipe)
        step = int(state.step)
        sums = progress.get("dice_sums", [])
        history = DiceHistory(math.ceil(len(train) / settings.batch), sums)
        validate = make_validation(stage, frozen, validation, place, everywhere)
        with open_logbook(run.folder, stage.name, step, settings.steps) as log:
            names = partial(_names_of_update, train, settings.batch, seed)
            session = Session(stage, recipe, manager, log, history, validate, names)
            batches = train_batches(train, settings.batch, seed, step, place)
            while not _is_finished(session, step):
                batch = _next_batch(session, state, batches)
                # before the update, which takes the state's memory
                gradients = term_gradients(step + 1, state, batch)
                state, values = update.step(state, frozen, batch)
                step += 1
                session.waiting.append((step, {**values, **gradients}))
                _after_step(session, step, state)
                if signal := stop.after_update():
                    saved = _save_last(session, state)
                    log.say(f"{stage.name}: stopped and saved at step {saved}.")
                    return signal
        checkpoints.wait(manager)
        finish(run, session, step)
    wait_for_all(f"{stage.name} is finished")
    run.refresh()
    return 0


def _watch_terms(
    stage: Stage, recipe: Recipe, frozen: Any, key: Key, sharding: Sharding
) -> Callable[[int, TrainState, Batch], Metrics]:
    """What measures each term's gradient before an update (from 1); nothing where the
    stage has no terms or the update is not one that the recipe watches."""
    terms, every = stage.terms, recipe.joint_loss.gradient_norms_every
    if terms is None or not every:
        return lambda *_: {}
    measure = make_term_gradients(terms, sharding, stage.settings.micro_batches)

    def watch(update: int, state: TrainState, batch: Batch) -> Metrics:
        if update % every:
            return {}
        return measure(state.params, frozen, batch, key, state.step)

    return watch


def _names_of_update(
    split: Split, batch: int, seed: int, update: int
) -> tuple[str, ...]:
    """Names of the cases of an update (from 1)."""
    return case_names(split, batch, seed, update - 1)


@dataclass
class DiceHistory:
    """Sum of the training Dice of each epoch; plain numbers, saved as JSON."""

    steps_per_epoch: int
    sums: list[float]

    def add(self, step: int, dice: float) -> None:
        """Count the Dice of update number `step` (from 1)."""
        epoch = (step - 1) // self.steps_per_epoch
        self.sums.extend([0.0] * (epoch + 1 - len(self.sums)))
        self.sums[epoch] += dice

    def means(self, step: int) -> list[float]:
        """Mean Dice of every epoch that is complete after `step` updates."""
        complete = step // self.steps_per_epoch
        return [total / self.steps_per_epoch for total in self.sums[:complete]]

    def has_settled(
        self, step: int, settings: StageSettings, warm_start_steps: int = 0
    ) -> bool:
        """Whether the mean Dice moved less than the tolerance for `patience_epochs`.

        Epochs that touch the warm start do not count, nor does a Dice of 0, where
        training has not begun to find anything.
        """
        patience = settings.patience_epochs
        warm = -(-warm_start_steps // self.steps_per_epoch)
        means = self.means(step)[warm:]
        if patience == 0 or step % self.steps_per_epoch or len(means) <= patience:
            return False
        recent = means[-patience - 1 :]
        moves = [abs(b - a) for a, b in pairwise(recent)]
        return min(recent) > 0 and max(moves) <= settings.patience_tolerance


@dataclass
class Session:
    """One stage under way: where it saves and logs, what it has not fetched yet."""

    stage: Stage
    recipe: Recipe
    manager: CheckpointManager
    log: Logbook
    history: DiceHistory
    validate: Validate
    names: Callable[[int], tuple[str, ...]]
    """Update (from 1) -> names of its cases."""
    skipped: list[int] = field(default_factory=list)
    """The latest updates, in a row, that left the parameters as they were."""
    absent: int = 0
    """First update for which a process could not read a case; 0: none."""
    waiting: deque[tuple[int, Metrics]] = field(default_factory=deque)
    last_fetch: float = field(default_factory=time.monotonic)


def _next_batch(session: Session, state: TrainState, batches: Iterator[Batch]) -> Batch:
    """The next batch; where a case cannot be read, the state is saved first."""
    try:
        return next(batches)
    except UserError:
        _save_last(session, state)
        raise


def _is_finished(session: Session, step: int) -> bool:
    """Whether all steps are done, or the stop rule holds."""
    settings = session.stage.settings
    warm_start = session.recipe.joint_loss.warm_start_steps
    settled = session.history.has_settled(step, settings, warm_start)
    return step >= settings.steps or settled


def _after_step(session: Session, step: int, state: TrainState) -> None:
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
    due = step % settings.validate_every == 0 or _is_finished(session, step)
    looked = 0
    if due:
        fetch(session, leave=0)
        looked = step
    elif step % LOOK_EVERY == 0:
        fetch(session, leave=IN_FLIGHT)
        looked = step - IN_FLIGHT
    if 0 < session.absent <= looked:
        _save_last(session, state)
        raise _case_absent(session)
    if due:
        save(session, state, with_score=True)
    row = session.skipped[:MOST_SKIPPED]
    if len(row) == MOST_SKIPPED and row[-1] <= looked:
        _save_last(session, state)
        raise _too_many_skipped(session)


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


def _check_progress(
    progress: dict[str, Any], folder: Place, stage: str, recipe: Recipe
) -> None:
    """Raise `UserError` where a stage's checkpoint in `folder` is of another recipe.

    One that was brought here from another run is: `config.json` cannot tell.
    """
    if "recipe" in progress:
        saved = recipe_from_json(progress["recipe"], f"{folder}: recipe")
        check_same_settings(folder, stage, saved, recipe)


def save(session: Session, state: TrainState, with_score: bool) -> None:
    """Bring the logs up to the state, validate if asked, and save it."""
    fetch(session, leave=0)
    stage, step, score = session.stage, int(state.step), None
    if with_score:
        numbers = session.validate(state.best_params)
        _check_validation(session, step, numbers)
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
        progress={
            "dice_sums": session.history.sums,
            "recipe": settings_to_json(session.recipe),
        },
        score=score,
    )


def _save_last(session: Session, state: TrainState) -> int:
    """Return the state's step once a checkpoint of it is whole: the training ends."""
    step = int(state.step)
    if step and session.manager.latest_step() != step:
        save(session, state, with_score=False)
    checkpoints.wait(session.manager)
    return step


def fetch(session: Session, leave: int) -> None:
    """Take the values of all but the last `leave` updates from the device and log them.

    Leaving one lets the device work on while the host writes.
    """
    count = max(len(session.waiting) - leave, 0)
    taken = [session.waiting.popleft() for _ in range(count)]
    for step, values in jax.device_get(taken):
        _keep_values(session, int(step), {name: float(values[name]) for name in values})
    if taken:
        session.last_fetch = time.monotonic()


def _keep_values(session: Session, step: int, numbers: dict[str, float]) -> None:
    """Log the values of one update; of a skipped one those that are numbers."""
    if numbers.pop(ABSENT):
        session.absent = session.absent or step
        return
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


def _too_many_skipped(session: Session) -> UserError:
    """Why the training stops, with the cases that were in the skipped updates."""
    name, steps = session.stage.name, session.skipped
    cases = sorted({case for step in steps for case in session.names(step)})
    return UserError(
        f"the loss or its gradient was not finite in steps {steps[0]} to {steps[-1]} "
        f"of stage {name!r}, with the cases {', '.join(cases)}; the weights before "
        f"them are saved. Look at these cases, or start a new run with a lower "
        f"--{name}.optimizer.learning-rate or with --{name}.optimizer.clip-norm 1."
    )


def _case_absent(session: Session) -> UserError:
    """Why the training stops where a process could not read a case."""
    name, step = session.stage.name, session.absent
    cases = sorted(set(session.names(step)))
    return UserError(
        f"a process could not read a case of step {step} of stage {name!r}, and names "
        f"it; it is one of {', '.join(cases)}. What was learnt before is saved: "
        "restore the case, then run the same command again: it continues."
    )


def _check_validation(session: Session, step: int, numbers: dict[str, float]) -> None:
    """Raise `UserError` where a validation value is not finite."""
    for name, number in numbers.items():
        if not math.isfinite(number):
            raise UserError(
                f"validation {name} became {number} at step {step} of stage "
                f"{session.stage.name!r}; look at the cases of the split validation."
            )


def finish(run: Run, session: Session, step: int) -> None:
    """Note that the stage is finished and which weights are its best."""
    if not is_first():
        return
    best = session.manager.best_step()
    assert best is not None  # the last step is saved
    metrics: Any = session.manager.metrics(best)
    score = metrics["score"]
    facts = {"steps": step, "best_step": best, session.stage.score: score}
    run.mark_finished(session.stage.name, facts)


def saved_items(state: TrainState) -> dict[str, Any]:
    """A state as the items of a checkpoint; of two sets of parameters `params` is the
    one that is used."""
    optimizer = {"step": state.step, "opt_state": state.opt_state}
    if state.ema is not None:
        optimizer["params"] = state.params
    return {"params": state.best_params, "optimizer": optimizer}


def state_from_items(params: Params, optimizer: Mapping[str, Any]) -> TrainState:
    """The state that `saved_items` took apart."""
    step, opt_state = optimizer["step"], optimizer["opt_state"]
    if "params" in optimizer:
        return TrainState(step, optimizer["params"], opt_state, ema=params)
    return TrainState(step, params, opt_state)
