"""What a training says while it runs: metrics.jsonl, TensorBoard, one progress bar."""

import json
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rich.progress import Progress, TaskID, TimeElapsedColumn, TimeRemainingColumn

from adn_jax.distributed.hosts import is_first
from adn_jax.io.files import write_text
from adn_jax.io.paths import Place, at_hand, is_remote, upload
from adn_jax.runtime.jobs import progress_bar

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter

METRICS = "metrics.jsonl"

SPEED_SECONDS = 300.0
"""The time left is estimated from the speed over this time."""


@dataclass(frozen=True)
class Logbook:
    """Open logs of one stage; a step is counted by the updates done."""

    stage: str
    steps: int
    run: Place
    here: Path
    """Where the files are written: `run` itself, unless that is in an object store."""
    lines: TextIO
    events: "SummaryWriter"
    progress: Progress
    task: TaskID

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Add one line to metrics.jsonl and the same values to TensorBoard."""
        line = {"stage": self.stage, "step": step, "split": split, **values}
        self.lines.write(json.dumps(line, allow_nan=False) + "\n")
        for name, value in values.items():
            self.events.add_scalar(f"{split}/{name}", value, step)

    def show(self, step: int, values: Mapping[str, float]) -> None:
        """Move the bar to `step`, with these values beside it."""
        text = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        self.progress.update(self.task, completed=step, values=text)

    def say(self, sentence: str) -> None:
        """Print a line that stays above the bar."""
        if not self.progress.disable:
            self.progress.console.print(sentence, highlight=False, markup=False)

    def sync(self) -> None:
        """Return when everything written is on disk, or in the object store."""
        self.lines.flush()
        if self.lines.name != os.devnull:
            os.fsync(self.lines.fileno())
        self.events.flush()
        if is_remote(self.run) and is_first():
            upload(self.here, self.run)


@contextmanager
def open_logbook(
    run: Place, stage: str, start: int | None, steps: int
) -> Generator[Logbook]:
    """Logs of a stage that goes on from step `start`; what came after it is dropped.

    None: it begins, and nothing of it is kept, as step 0 can have a score. Of several
    processes only the first writes.
    """
    last_kept = -1 if start is None else start
    # here, for it imports PyTorch where that is installed: seconds and 200 MB
    from tensorboardX import SummaryWriter

    writes = is_first()
    progress = progress_bar(
        "{task.fields[values]}",
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        speed_estimate_period=SPEED_SECONDS,
        refresh_per_second=2,
        disable=not writes,
    )
    with at_hand(run, *([METRICS] if writes else [])) as here:
        path = here / METRICS if writes else Path(os.devnull)
        if writes:
            _drop_lines(path, stage, last_kept)
        events = SummaryWriter(
            str(here / "tensorboard" / stage),
            purge_step=last_kept + 1,
            write_to_disk=writes,
        )
        with path.open("a", buffering=1, encoding="utf-8") as lines, progress:
            task = progress.add_task(
                stage, total=steps, completed=start or 0, values="compiling"
            )
            try:
                yield Logbook(stage, steps, run, here, lines, events, progress, task)
            finally:
                events.close()


def _drop_lines(path: Path, stage: str, step: int) -> None:
    """Drop a stage's lines after `step` and any line that a kill cut short."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines()
    kept = []
    for line in lines:
        content = _parse_line(line)
        if content and (content["stage"] != stage or content["step"] <= step):
            kept.append(line)
    if kept != lines:
        write_text(path, "".join(line + "\n" for line in kept))


def _parse_line(line: str) -> dict[str, Any] | None:
    """Content of one line; None if it is damaged."""
    try:
        content = json.loads(line)
    except ValueError:
        return None
    known = isinstance(content, dict) and {"stage", "step"} <= content.keys()
    return content if known else None


def read_metrics(run: Place) -> list[dict[str, Any]]:
    """Every whole line of a run's metrics.jsonl, in its order."""
    text = (run / METRICS).read_text(encoding="utf-8")
    return [content for line in text.splitlines() if (content := _parse_line(line))]
