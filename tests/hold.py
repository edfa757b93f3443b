"""A moment at which a process waits until its test lets it go on.

Tests that end a process in the middle of its work need a middle that no machine is too
fast or too slow for.
"""

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PATIENCE = 1800.0
"""Seconds after which something has gone wrong, however busy the machine is."""

OFTEN = 0.01
"""Seconds between two looks."""


@dataclass(frozen=True)
class Hold:
    """Two files of an empty folder: the process has come, and it may go on."""

    folder: Path

    @property
    def arrived(self) -> Path:
        """There once the process waits."""
        return self.folder / "arrived"

    @property
    def released(self) -> Path:
        """There once nothing waits any more."""
        return self.folder / "released"

    def wait(self) -> None:
        """Wait, in the process itself; a test that has gone is not waited for."""
        self.arrived.touch()
        while self.folder.exists() and not self.released.exists():
            time.sleep(OFTEN)

    def until_arrived(self, process: subprocess.Popen) -> None:
        """Return once a process waits, or one that it started."""
        wait_until(self.arrived.exists, process)

    def release(self) -> None:
        """Let the process go on."""
        self.released.touch()


def wait_until(happened: Callable[[], bool], process: subprocess.Popen) -> None:
    """Return as soon as `happened()` holds; the process has to live until then."""
    end = time.monotonic() + PATIENCE
    while not happened():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "nothing happens any more"
        time.sleep(OFTEN)
