"""One undisturbed training by the real `train.py`, shared by several tests."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from adn_jax.io.paths import Place
from tests import quick
from tests.training.tiny import write_heads

ROOT = Path(__file__).parents[2]
CONFIG = "tests/training/small_config.py"


@pytest.fixture(scope="session")
def heads(made_once) -> Path:
    """A prepared data set of tiny heads."""
    return made_once("heads", write_heads)


@pytest.fixture(scope="session")
def training_environment() -> dict[str, str]:
    """Programs that are soon compiled."""
    return {**os.environ, "XLA_FLAGS": quick.FLAGS}


@pytest.fixture(scope="session")
def start_training(heads, training_environment) -> Callable[..., subprocess.Popen]:
    """Start `train.py` on a run folder, on so many devices; `heads` are its data.

    `program` is another program with the same arguments; without `data` heads are
    drawn.
    """

    def start(
        run: Place,
        *options: Any,
        data: Place | None = heads,
        devices: int = 2,
        program: Sequence[Any] = ("train.py",),
        **variables: str,
    ) -> subprocess.Popen:
        count = {"JAX_NUM_CPU_DEVICES": str(devices)}
        source = () if data is None else ("--data", data)
        command = [sys.executable, *program, CONFIG, *source, "--run", run]
        return subprocess.Popen(
            [str(part) for part in (*command, *options)],
            cwd=ROOT,
            env=training_environment | count | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start


@pytest.fixture(scope="session")
def whole_run(made_once, start_training) -> Path:
    """The folder of a training that nothing disturbed, to be read alone.

    `seconds` beside it says how long it took.
    """

    def train(folder: Path) -> None:
        start = time.monotonic()
        process = start_training(folder / "run")
        output, _ = process.communicate()
        assert process.returncode == 0, output
        (folder / "seconds").write_text(f"{time.monotonic() - start}")

    return made_once("whole_run", train) / "run"
