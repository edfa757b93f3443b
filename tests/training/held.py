"""`train.py` that waits at one moment until the test lets it go on.

    python -m tests.training.held FOLDER MOMENT STAGE STEP ...

MOMENT is "logged" (the first update from STEP on has its line in metrics.jsonl),
"saving" (the first save from STEP on is not yet whole), or "logged_until_notice": the
same as "logged", and it goes on by itself once a SIGTERM to any of several processes
has come to all of them.
"""

import sys
from pathlib import Path

import orbax.checkpoint as ocp
from jax._src import distributed

from adn_jax.cli.main import main
from adn_jax.distributed.hosts import is_first
from adn_jax.training.metric_log import Logbook
from tests.hold import PATIENCE, Hold

FOLDER, MOMENT, STAGE, STEP, *ARGUMENTS = sys.argv[1:]
HOLD = Hold(Path(FOLDER))

write = Logbook.write


def write_and_wait(log, step, split, values):
    """Write a line; after the one that was asked for, wait."""
    write(log, step, split, values)
    if split == "train" and is_here(log.stage, step):
        HOLD.wait()


def write_and_wait_for_notice(log, step, split, values):
    """The same, until the notice of a SIGTERM reaches this process."""
    write(log, step, split, values)
    if split == "train" and is_here(log.stage, step) and not HOLD.arrived.exists():
        HOLD.arrived.touch()
        client = distributed.global_state.client
        client.blocking_key_value_get(
            "RECEIVED_PREEMPTION_NOTICE", int(1000 * PATIENCE)
        )


def is_here(stage, step):
    """Whether this process waits at that step or later."""
    return is_first() and stage == STAGE and step >= int(STEP)


class WaitingSave(ocp.JsonCheckpointHandler):
    """An item that is not written before its test says so."""

    async def async_save(self, directory, *arguments, **named):
        futures = await super().async_save(directory, *arguments, **named)
        *_, stage, step, _ = directory.parts
        here = is_here(stage, int(step.split(".")[0]))
        return [*futures, *([self] if here else [])]

    def result(self, timeout=None):  # noqa: ARG002
        """As of a future: the save waits for it."""
        HOLD.wait()


match MOMENT:
    case "logged":
        Logbook.write = write_and_wait
    case "logged_until_notice":
        Logbook.write = write_and_wait_for_notice
    case "saving":
        ocp.JsonCheckpointHandler = WaitingSave

if __name__ == "__main__":
    main(["train", *ARGUMENTS])
