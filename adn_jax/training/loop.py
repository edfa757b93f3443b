"""Runs one stage: resume, update, validate, save, and stop when it is time.

`train_stage` sets up and ends a stage; `_run_updates` is the loop, in which every save,
validation and stop stands; below it is what a `Session` does at each of them.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, Sharding

from adn_jax.config import StageSettings
from adn_jax.config.serialization import settings_to_json
from adn_jax.config.validation import recipe_from_json
from adn_jax.data.batches import Cases, train_batches
from adn_jax.distributed.hosts import (
    SharedStop,
    catch_stop_of_any,
    is_first,
    wait_for_all,
)
from adn_jax.distributed.mesh import (
    check_batch,
    place_cases,
    placed_shapes,
    replicate,
    replicated,
)
from adn_jax.distributed.preemption import StopRequest
from adn_jax.errors import UserError
from adn_jax.runtime.platform import compiler_options
from adn_jax.training.checkpoints import Checkpoints, open_checkpoints
from adn_jax.training.differences import changed_settings
from adn_jax.training.metric_log import Logbook, open_logbook
from adn_jax.training.runs import STAGE_MODES, Run, check_unchanged
from adn_jax.training.stages import Stage
from adn_jax.training.steps import (
    ABSENT,
    Metrics,
    TrainState,
    make_term_gradients,
    was_skipped,
)
from adn_jax.training.updates import Update, make_update
from adn_jax.types import Batch, Params

FETCH_SECONDS = 1.0
"""Values of updates are fetched from the device about this often."""

IN_FLIGHT = 2
"""Updates handed to the device ahead of time: it never waits, and a stop comes soon."""

LOOK_EVERY = 16
"""Updates after which it looks whether to stop, so that all processes do it alike."""

MOST_SKIPPED = 5
"""Skipped updates in a row at which the training stops."""

Validate = Callable[[Params], dict[str, float]]
"""Parameters -> mean of every value over the validation split."""

Watch = Callable[[int, TrainState, Batch], Metrics]
"""(update from 1, state before it, its batch) -> numbers of the terms' gradients."""


def train_stage(
    stage: Stage,
    run: Run,
    train: Cases,
    validation: Cases,
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
    settings, everywhere = stage.settings, replicated(mesh)
    place = partial(place_cases, mesh=mesh)
    batch, parts = settings.batch, settings.micro_batches
    check_batch(batch, mesh, f"{stage.name}.batch", parts)
    frozen = replicate(frozen, mesh)
    update = update or make_update(stage, run.recipe, mesh)
    folder, mode = run.checkpoints(stage.name), STAGE_MODES[stage.name]
    with (
        catch_stop_of_any() as stop,
        open_checkpoints(folder, mode) as checkpoints,
    ):
        state, progress = resume(checkpoints, update.fresh, everywhere)
        if "recipe" in progress:  # of another run, if the checkpoint was brought here
            saved = recipe_from_json(progress["recipe"], f"{folder}: recipe")
            check_unchanged(folder, changed_settings(stage.name, saved, run.recipe))
        done, begins = int(state.step), not checkpoints.steps
        start = None if begins else done
        with open_logbook(run.folder, stage.name, start, settings.steps) as log:
            session = Session(
                stage=stage,
                run=run,
                update=update,
                frozen=frozen,
                watch=_watch_terms(stage, run, frozen, update, everywhere),
                checkpoints=checkpoints,
                log=log,
                history=DiceHistory(
                    math.ceil(len(train) / batch), progress.get("dice_sums", [])
                ),
                validate=make_validation(stage, frozen, validation, place, everywhere),
                names=lambda step: train.names_in(batch, update.seed, step - 1),
            )
            if begins and stage.name in run.pretrained:
                session.save(state, with_score=True)  # nothing later may be as good
            batches = train_batches(train, batch, update.seed, done, place)
            signal = _run_updates(session, state, batches, stop)
        if signal:
            return signal
        checkpoints.wait()
        if is_first():
            session.finish()
    wait_for_all(f"{stage.name} is finished")
    run.refresh()
    return 0


def _run_updates(
    session: "Session",
    state: TrainState,
    batches: Iterator[Batch],
    stop: StopRequest | SharedStop,
) -> int:
    """Update, validate and save until the stage is finished, or a signal that came.

    Raises `UserError`, once the state is saved, if a case cannot be read, and after too
    many skipped updates in a row.
    """
    settings, step = session.stage.settings, int(state.step)
    while not session.is_finished(step):
        try:
            batch = next(batches)
        except UserError:
            session.save_last(state)
            raise
        # before the update, which takes the state's memory
        gradients = session.watch(step + 1, state, batch)
        state, values = session.update.step(state, session.frozen, batch)
        step += 1
        session.waiting.append((step, {**values, **gradients}))
        if len(session.waiting) > IN_FLIGHT:
            jax.block_until_ready(session.waiting[-1 - IN_FLIGHT])

        # Values are fetched when something depends on them, else now and then. What
        # ends the training is looked for in the same updates by every process.
        if settings.patience_epochs and step % session.history.steps_per_epoch == 0:
            session.fetch(leave=0)
        elif time.monotonic() - session.last_fetch > FETCH_SECONDS:
            session.fetch(leave=1)
        due = step % settings.validate_every == 0 or session.is_finished(step)
        looked = 0
        if due:
            session.fetch(leave=0)
            looked = step
        elif step % LOOK_EVERY == 0:
            session.fetch(leave=IN_FLIGHT)
            looked = step - IN_FLIGHT
        if 0 < session.absent <= looked:
            session.save_last(state)
            raise session.case_absent()
        if due:
            session.save(state, with_score=True)
        row = session.skipped[:MOST_SKIPPED]
        if len(row) == MOST_SKIPPED and row[-1] <= looked:
            session.save_last(state)
            raise session.too_many_skipped()
        if signal := stop.after_update():
            saved = session.save_last(state)
            session.log.say(f"{session.stage.name}: stopped and saved at step {saved}.")
            return signal
    return 0


def _watch_terms(
    stage: Stage, run: Run, frozen: Any, update: Update, sharding: Sharding
) -> Watch:
    """What measures each term's gradient before an update (from 1); no numbers if the
    stage has no terms or the recipe does not watch that update."""
    every = run.recipe.joint_loss.gradient_norms_every
    if stage.terms is None or not every:
        return lambda *_: {}
    measure = make_term_gradients(stage.terms, sharding, stage.settings.micro_batches)

    def watch(number: int, state: TrainState, batch: Batch) -> Metrics:
        if number % every:
            return {}
        return measure(state.params, frozen, batch, update.key, state.step)

    return watch


def make_validation(
    stage: Stage,
    frozen: Any,
    split: Cases,
    place: Callable[[np.ndarray], jax.Array],
    sharding: Sharding,
) -> Validate:
    """A function from parameters to the mean of every value over the split."""

    def evaluate_cases(
        params: Params, frozen: Any, batch: Batch
    ) -> tuple[jax.Array, Mapping[str, jax.Array]]:
        return batch.case, stage.evaluate(params, frozen, batch)

    evaluate = jax.jit(
        evaluate_cases, out_shardings=sharding, compiler_options=compiler_options()
    )

    def validate(params: Params) -> dict[str, float]:
        found: dict[str, list[float]] = {}
        for batch, count in split.once(stage.settings.batch, place):
            case, values = jax.device_get(evaluate(params, frozen, batch))
            split.check_present(case)
            for name, per_case in values.items():
                found.setdefault(name, []).extend(per_case[:count].tolist())
        return {name: mean_of_known(each) for name, each in found.items()}

    return validate


def mean_of_known(values: Sequence[float]) -> float:
    """The mean of those that are not NaN; NaN if all are."""
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan


def finite_of(numbers: Mapping[str, float]) -> dict[str, float]:
    """Those of the named numbers that are numbers."""
    return {name: each for name, each in numbers.items() if math.isfinite(each)}


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

        Epochs that touch the warm start do not count, nor does a Dice of 0, at which
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
    run: Run
    update: Update
    frozen: Any
    """Weights of the stages before, on the devices."""
    watch: Watch
    checkpoints: Checkpoints
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

    def is_finished(self, step: int) -> bool:
        """Whether all steps are done, or the stop rule holds."""
        settings = self.stage.settings
        warm_start = self.run.recipe.joint_loss.warm_steps
        settled = self.history.has_settled(step, settings, warm_start)
        return step >= settings.steps or settled

    def fetch(self, leave: int) -> None:
        """Take the values of all but the last `leave` updates from the device, and log
        them. Leaving one lets the device work on while the host writes."""
        count = max(len(self.waiting) - leave, 0)
        taken = [self.waiting.popleft() for _ in range(count)]
        for step, values in jax.device_get(taken):
            self._log(int(step), {name: float(values[name]) for name in values})
        if taken:
            self.last_fetch = time.monotonic()

    def _log(self, step: int, numbers: dict[str, float]) -> None:
        """Log the values of one update; of a skipped one those that are numbers."""
        if numbers.pop(ABSENT):
            self.absent = self.absent or step
            return
        finite = finite_of(numbers)
        if was_skipped(numbers):
            self.skipped.append(step)
            self.log.say(
                f"{self.stage.name} step {step}: skipped, for the loss or its gradient "
                f"is not finite ({', '.join(self.names(step))})"
            )
            finite["skipped"] = 1.0
        elif len(self.skipped) < MOST_SKIPPED:
            self.skipped.clear()
        self.log.write(step, "train", finite)
        if "dice" in finite:
            self.history.add(step, finite["dice"])
        shown = {name: numbers[name] for name in ("loss", "dice") if name in numbers}
        self.log.show(step, shown)

    def save(self, state: TrainState, with_score: bool) -> None:
        """Bring the logs up to the state, validate if asked, and save it.

        Raises `UserError` if a validation value that has to be there is not finite.
        """
        self.fetch(leave=0)
        stage, step, score = self.stage, int(state.step), None
        if with_score:
            numbers = self.validate(state.best_params)
            for name, number in numbers.items():
                if not math.isfinite(number) and name not in stage.may_lack:
                    raise UserError(
                        f"validation {name} is {number} at step {step} of stage "
                        f"{stage.name!r}; look at the cases of the split validation, "
                        "or, where heads are drawn, set more "
                        "--stream.validation-heads: one of them has to show an infarct."
                    )
            self.log.write(step, "validation", finite_of(numbers))
            score = numbers[stage.score]
            self.log.say(
                f"{stage.name} step {step}: validation {stage.score} {score:.4f}"
            )
        self.log.sync()
        self.checkpoints.save(
            step,
            **saved_items(state),
            progress={
                "dice_sums": self.history.sums,
                "recipe": settings_to_json(self.run.recipe),
            },
            score=score,
        )

    def save_last(self, state: TrainState) -> int:
        """Return the state's step once a checkpoint of it is whole: training ends."""
        step = int(state.step)
        if step and self.checkpoints.manager.latest_step() != step:
            self.save(state, with_score=False)
        self.checkpoints.wait()
        return step

    def finish(self) -> None:
        """Note that the stage is finished and which weights are its best."""
        manager = self.checkpoints.manager
        last, best = manager.latest_step(), manager.best_step()
        assert best is not None  # the last step is saved
        metrics: Any = manager.metrics(best)
        facts = {"steps": last, "best_step": best, self.stage.score: metrics["score"]}
        self.run.mark_finished(self.stage.name, facts)
        if best == 0:
            self.log.say(
                f"{self.stage.name}: no update made the weights better that it began "
                f"with ({self.run.pretrained[self.stage.name]}), so these are kept."
            )

    def case_absent(self) -> UserError:
        """Why the training stops if a process could not read a case."""
        name, step = self.stage.name, self.absent
        cases = sorted(set(self.names(step)))
        return UserError(
            f"a process could not read a case of step {step} of stage {name!r}, and "
            f"names it; it is one of {', '.join(cases)}. What was learnt before is "
            "saved: restore the case, then run the same command again: it continues."
        )

    def too_many_skipped(self) -> UserError:
        """Why the training stops, with the cases that were in the skipped updates."""
        name, steps = self.stage.name, self.skipped
        cases = sorted({case for step in steps for case in self.names(step)})
        return UserError(
            f"the loss or its gradient was not finite in steps {steps[0]} to "
            f"{steps[-1]} of stage {name!r}, with the cases {', '.join(cases)}; the "
            "weights before them are saved. Look at these cases, or start a new run "
            f"with a lower --{name}.optimizer.learning-rate or with "
            f"--{name}.optimizer.clip-norm 1."
        )


def resume(
    checkpoints: Checkpoints, fresh: Callable[[], TrainState], sharding: Sharding
) -> tuple[TrainState, dict[str, Any]]:
    """The latest state that can be read and what was noted with it, or a fresh start.

    Raises `UserError` if there are checkpoints and all are damaged.
    """
    if not checkpoints.steps:
        return jax.jit(fresh, out_shardings=sharding)(), {}
    like = placed_shapes(jax.eval_shape(lambda: saved_items(fresh())), sharding)
    params, optimizer, progress = checkpoints.restore_latest(**like)
    return state_from_items(params, optimizer), progress


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
