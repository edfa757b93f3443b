"""Checkpoints by Orbax: the latest and the best of a stage, each whole or absent.

A checkpoint has three items: `params`, `optimizer` (absent if weights were
imported) and `progress` (JSON values).
"""

import logging
import shutil
import sys
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from os import PathLike
from typing import Any, Literal

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from adn_jax.distributed.hosts import is_first, sync_errors
from adn_jax.errors import UserError
from adn_jax.io.paths import Place, is_remote, move_folder, spelled_out
from adn_jax.types import Params

Mode = Literal["min", "max"]
"""Whether the lowest or the highest score is the best."""

LATEST = 2
"""Newest checkpoints that are kept: if one is damaged the other serves."""

SMALL_FILES = 500_000
"""Bytes of a checkpoint's descriptions, on top of its arrays."""


class DamagedCheckpointError(UserError):
    """A checkpoint's files cannot be read."""


WORST = {"min": float("inf"), "max": float("-inf")}

# Each device holds all of the arrays, a few megabytes. If the devices shared the work
# of writing them, the first save would compile a program for every shape to cut.
WHOLE_ARRAYS = ocp.type_handlers.create_type_handler_registry(
    (jax.Array, ocp.type_handlers.ArrayHandler(use_replica_parallel=False)),
    (np.ndarray, ocp.type_handlers.NumpyHandler()),
)
"""How Orbax writes the leaves of a checkpoint."""

TRY_AGAIN = "free space, then run the command again"


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of a stage, opened by `open_checkpoints`."""

    manager: ocp.CheckpointManager
    mode: Mode

    @property
    def steps(self) -> list[int]:
        """Steps of which there is a checkpoint, the latest first."""
        return sorted(self.manager.all_steps(), reverse=True)

    def save(
        self,
        step: int,
        params: Params,
        optimizer: Any = None,
        progress: dict[str, Any] | None = None,
        score: float | None = None,
    ) -> None:
        """Save in the background; a checkpoint without `score` is never the best.

        Raises `UserError`, before anything is written, if the disk has no room.
        """
        folder = self.manager.directory
        items = {
            "params": ocp.args.PyTreeSave(params),
            "progress": ocp.args.JsonSave(progress or {}),
        }
        if optimizer is not None:
            items["optimizer"] = ocp.args.PyTreeSave(optimizer)
        if not is_remote(folder):
            arrays = jax.tree.leaves((params, optimizer))
            needed = SMALL_FILES + sum(leaf.nbytes for leaf in arrays)
            free = shutil.disk_usage(folder).free
            if free < needed:
                raise UserError(
                    f"the disk of {folder} has {free / 1e6:.1f} MB left and a "
                    f"checkpoint needs {needed / 1e6:.1f} MB; free space, then run the "
                    "same command again: it continues."
                )
        with _as_user_error(folder, "written", TRY_AGAIN):
            self.manager.save(
                step,
                args=ocp.args.Composite(**items),
                metrics={"score": WORST[self.mode] if score is None else score},
            )

    def wait(self) -> None:
        """Return when every save is on disk."""
        with _as_user_error(self.manager.directory, "written", TRY_AGAIN):
            self.manager.wait_until_finished()

    def restore_params(self, step: int, like: Params) -> Params:
        """Parameters of a step; shapes, dtypes and sharding as in `like`."""
        self._check_architecture(step, like)
        return self._restore(step, params=_restore_as(like)).params

    def restore_training(
        self, step: int, params: Params, optimizer: Any
    ) -> tuple[Params, Any, dict[str, Any]]:
        """Params, optimizer and progress of a step; the first two like those given.

        Raises `DamagedCheckpointError` if the files cannot be read.
        """
        self._check_architecture(step, params)
        restored = self._restore(
            step,
            params=_restore_as(params),
            optimizer=_restore_as(optimizer),
            progress=ocp.args.JsonRestore(),
        )
        return restored.params, restored.optimizer, restored.progress

    def restore_latest(
        self, params: Params, optimizer: Any
    ) -> tuple[Params, Any, dict[str, Any]]:
        """As `restore_training`, of the latest step that can be read.

        Damaged checkpoints are named and moved out of the way, for whoever wants to
        look at them. Raises `DamagedCheckpointError` if all are.
        """
        folder = self.manager.directory
        for step in self.steps[:-1]:
            try:
                return self.restore_training(step, params, optimizer)
            except DamagedCheckpointError:
                aside = folder.with_name(f"{folder.name}_damaged") / str(step)
                with sync_errors():
                    if is_first():
                        advice = "move it, then run the command again"
                        with _as_user_error(folder, "moved", advice):
                            move_folder(folder / str(step), aside)
                self.manager.reload()
                print(
                    f"adn: checkpoint {step} of {folder} is damaged; it is now "
                    f"{aside}, and an earlier one is used.",
                    file=sys.stderr,
                )
        return self.restore_training(self.steps[-1], params, optimizer)

    def _restore(self, step: int, **items: Any) -> Any:
        """Items of a step."""
        with self._unless_damaged(step):
            return self.manager.restore(step, args=ocp.args.Composite(**items))

    def _check_architecture(self, step: int, like: Params) -> None:
        """Raise `UserError` naming the first parameters that do not fit `like`."""
        with self._unless_damaged(step):
            metadata = self.manager.item_metadata(step).params
            if metadata is None:
                raise FileNotFoundError("params/_METADATA is missing")
            saved = shapes(metadata.tree)
        wanted = shapes(like)
        wrong = [
            f"{name} ({saved.get(name, 'absent')} instead of "
            f"{wanted.get(name, 'absent')})"
            for name in sorted(saved.keys() | wanted.keys())
            if saved.get(name) != wanted.get(name)
        ]
        if wrong:
            raise UserError(
                f"the checkpoint in {self.manager.directory} is of another "
                f"architecture: {', '.join(wrong[:3])}"
                f"{' and more' if len(wrong) > 3 else ''}; use the recipe that it was "
                "trained with."
            )

    def _unless_damaged(self, step: int) -> AbstractContextManager[None]:
        """What Orbax raises while it reads becomes a `DamagedCheckpointError`."""
        return _as_user_error(
            self.manager.directory,
            f"read at step {step}",
            "restore it from a copy, or train again in another folder",
            DamagedCheckpointError,
        )


@contextmanager
def open_checkpoints(
    folder: Place, mode: Mode, read_only: bool = False, alone: bool = False
) -> Generator[Checkpoints]:
    """The checkpoints in `folder`; the end of the block waits for running saves.

    Unless `read_only`, remains of saves that were cut short are removed. All processes
    open them together, unless each does it `alone`. Raises `UserError` if the folder
    cannot be opened, and for one in s3://.
    """
    if str(folder).startswith("s3://"):  # Orbax takes such a name for a path on disk
        raise UserError(
            f"the checkpoints in {folder} cannot be opened: of the object stores they "
            "can be in gs:// alone; copy the run there or to a disk."
        )

    def score(metrics: dict[str, float]) -> float:
        return metrics["score"]

    keep = policies.AnyPreservationPolicy(
        [
            policies.LatestN(LATEST),
            policies.BestN(get_metric_fn=score, reverse=mode == "min", n=1),
        ]
    )
    registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
    for item in ("params", "optimizer"):
        handler = ocp.PyTreeCheckpointHandler(type_handler_registry=WHOLE_ARRAYS)
        registry.add(item, ocp.args.PyTreeSave, handler)
        registry.add(item, ocp.args.PyTreeRestore, handler)
    handler = ocp.JsonCheckpointHandler()
    registry.add("progress", ocp.args.JsonSave, handler)
    registry.add("progress", ocp.args.JsonRestore, handler)
    processes = ocp.options.MultiprocessingOptions()
    if alone:
        this = jax.process_index()
        processes = ocp.options.MultiprocessingOptions(
            primary_host=this,
            active_processes={this},
            barrier_sync_key_prefix=f"alone_{this}",
        )
    options = ocp.CheckpointManagerOptions(
        best_fn=score,
        best_mode=mode,
        preservation_policy=keep,
        cleanup_tmp_directories=not read_only,
        create=False,
        multiprocessing_options=processes,
    )
    with _as_user_error(folder, "opened", "choose a folder that can be written"):
        if not read_only:
            folder.mkdir(parents=True, exist_ok=True)
        manager = ocp.CheckpointManager(
            spelled_out(folder), options=options, handler_registry=registry
        )
    with _quiet_orbax():
        try:
            opened = Checkpoints(manager, mode)
            yield opened
            opened.wait()
        except BaseException:
            with suppress(Exception):  # it waits for saves, which may have failed, too
                manager.close()
            raise
        manager.close()


@contextmanager
def _quiet_orbax() -> Generator[None]:
    """Keep Orbax from printing tracebacks: what it logs it raises as well.

    After a failure it stays quiet: threads of the save still come to their own ends.
    """

    def print_unraisable(unraisable: Any) -> None:
        # but not TensorStore's word to a closed loop, which no caller could catch
        if str(unraisable.exc_value) != "Event loop is closed":
            sys.__unraisablehook__(unraisable)

    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels, hook = [logger.level for logger in loggers], sys.unraisablehook
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    sys.unraisablehook = print_unraisable
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
    sys.unraisablehook = hook


@contextmanager
def _as_user_error(
    folder: PathLike[str], done: str, advice: str, kind: type[UserError] = UserError
) -> Generator[None]:
    """Turn what Orbax raises for bad files and full disks into a `UserError`."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise kind(
            f"the checkpoint in {folder} could not be {done} ({reason}); {advice}."
        ) from error


def _restore_as(like: Any) -> ocp.args.PyTreeRestore:
    """A restore to the shapes, dtypes and sharding of `like`."""
    arguments = ocp.checkpoint_utils.construct_restore_args(like)
    return ocp.args.PyTreeRestore(like, restore_args=arguments)


def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Shape of every leaf by its dotted name."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): tuple(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
