"""One stage under way: what it logs and saves, and what it has yet to fetch."""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
from orbax.checkpoint import CheckpointManager

from adn_jax.config import Recipe
from adn_jax.config.serialization import settings_to_json
from adn_jax.distributed.hosts import is_first
from adn_jax.errors import UserError
from adn_jax.io.paths import Place
from adn_jax.runtime import checkpoints
from adn_jax.runtime.logbook import Logbook
from adn_jax.training.history import DiceHistory
from adn_jax.training.passes import Validate
from adn_jax.training.runs import STAGE_MODES, mark_finished
from adn_jax.training.stages import Stage
from adn_jax.training.steps import ABSENT, TrainState, Values, was_skipped
from adn_jax.types import Params

MOST_SKIPPED = 5
"""Skipped updates in a row at which the training stops."""


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
    waiting: deque[tuple[int, Values]] = field(default_factory=deque)
    last_fetch: float = field(default_factory=time.monotonic)


def save(session: Session, state: TrainState, with_score: bool) -> None:
    """Bring the logs up to the state, validate if asked, and save it."""
    fetch(session, leave=0)
    stage, step, score = session.stage, int(state.step), None
    if with_score:
        numbers = session.validate(state.best_params)
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
        progress={
            "dice_sums": session.history.sums,
            "recipe": settings_to_json(session.recipe),
        },
        score=score,
    )


def save_last(session: Session, state: TrainState) -> int:
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
        keep_values(session, int(step), {name: float(values[name]) for name in values})
    if taken:
        session.last_fetch = time.monotonic()


def keep_values(session: Session, step: int, numbers: dict[str, float]) -> None:
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


def case_absent(session: Session) -> UserError:
    """Why the training stops where a process could not read a case."""
    name, step = session.stage.name, session.absent
    cases = sorted(set(session.names(step)))
    return UserError(
        f"a process could not read a case of step {step} of stage {name!r}, and names "
        f"it; it is one of {', '.join(cases)}. What was learnt before is saved: "
        "restore the case, then run the same command again: it continues."
    )


def check_validation(session: Session, step: int, numbers: dict[str, float]) -> None:
    """Raise `UserError` where a validation value is not finite."""
    for name, number in numbers.items():
        if not math.isfinite(number):
            raise UserError(
                f"validation {name} became {number} at step {step} of stage "
                f"{session.stage.name!r}; look at the cases of the split validation."
            )


def finish(run: Place, session: Session, step: int) -> None:
    """Note that the stage is finished and which weights are its best."""
    if not is_first():
        return
    best = session.manager.best_step()
    score = session.manager.metrics(best)["score"]
    facts = {"steps": step, "best_step": best, session.stage.score: score}
    mark_finished(run, session.stage.name, facts)


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
