"""One undisturbed training by the real `train.py`, shared by several tests."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from adn_jax.io.paths import Place
from tests.training.tiny import write_heads

ROOT = Path(__file__).parents[2]
CONFIG = "tests/training/tiny_config.py"


@pytest.fixture(scope="session")
def heads(tmp_path_factory) -> Path:
    """A prepared data set of tiny heads."""
    return write_heads(tmp_path_factory.mktemp("data") / "heads").folder


@pytest.fixture(scope="session")
def training_environment() -> dict[str, str]:
    """Programs that are soon compiled."""
    return {**os.environ, "XLA_FLAGS": "--xla_backend_optimization_level=0"}


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
def whole_run(tmp_path_factory, start_training) -> Path:
    """The folder of a training that nothing disturbed."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    process = start_training(run)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return run
