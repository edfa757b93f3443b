"""Strict numbers for every test, several simulated devices, and the shared data."""

import atexit
import os
import shutil
import tempfile

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    compiled = tempfile.mkdtemp(prefix="adn-compiled-")
    atexit.register(shutil.rmtree, compiled, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled
# Workers and child processes inherit it: what one has compiled the others read.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import jax
import pytest
from filelock import FileLock

from tests import quick
from tests.hold import Hold, wait_until
from tests.stores import Store, fake_gcs, fake_s3

os.environ.setdefault(
    "XLA_FLAGS", f"--xla_force_host_platform_device_count=2 {quick.FLAGS}"
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: no worker ends with them, alone."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


pytest_plugins = ["tests.browser", "tests.made_heads", "tests.tiny_runs"]

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of the development data (golden values, a real scan, an atlas)."""
    if not SHARED.is_dir():
        pytest.skip(f"the development data folder {SHARED} is absent")
    return SHARED


@pytest.fixture(scope="session")
def made_once(tmp_path_factory, worker_id) -> Callable[..., Path]:
    """Let `write(folder)` make a folder once for all workers; nobody changes it."""
    base = tmp_path_factory.getbasetemp()
    shared = (base if worker_id == "master" else base.parent) / "made_once"
    shared.mkdir(exist_ok=True)

    def make(name: str, write: Callable[[Path], Any]) -> Path:
        folder, made = shared / name, shared / f"{name}.made"
        with FileLock(shared / f"{name}.lock"):
            if not made.exists():
                shutil.rmtree(folder, ignore_errors=True)
                write(folder)
                made.touch()
        return folder

    return make


@pytest.fixture(autouse=True, scope="session")
def ordinary_memory():
    """Nothing changes how the tests' own process keeps its memory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("adn_jax.runtime.platform.find_spec", lambda _: True)
        yield


@pytest.fixture(scope="session")
def gcs() -> Iterator[Store]:
    """A bucket at gs://."""
    with fake_gcs() as store:
        yield store


@pytest.fixture(scope="session")
def s3() -> Iterator[Store]:
    """A bucket at s3://."""
    with fake_s3() as store:
        yield store


STRICT_FOLDERS = {"geometry", "losses", "models"}
"""Our own arithmetic; optax, which the rest calls, needs ordinary promotion."""


@pytest.fixture(autouse=True)
def strict_promotion(request):
    """Implicit changes of dtype are errors in the numerical folders."""
    strict = request.path.parent.name in STRICT_FOLDERS
    with jax.numpy_dtype_promotion("strict" if strict else "standard"):
        yield


@pytest.fixture
def set_constant(monkeypatch) -> Iterator[Callable[[str, Any], None]]:
    """Set a constant of a CPU's convolutions; nothing that jax has traced with another
    value is used again."""

    def set_it(name: str, value: Any) -> None:
        monkeypatch.setattr(f"adn_jax.models.convolution_cpu.{name}", value)
        jax.clear_caches()

    yield set_it
    jax.clear_caches()


@pytest.fixture
def new_hold(tmp_path) -> Callable[[], Hold]:
    """Make a moment at which a process waits, each with a folder of its own."""
    numbers = count()

    def make():
        folder = tmp_path / f"hold_{next(numbers)}"
        folder.mkdir()
        return Hold(folder)

    return make


@pytest.fixture
def start_dask(tmp_path):
    """Start a Dask program of its own, as on another machine; ends with the test."""
    with ExitStack() as stack:

        def start(*arguments):
            program = [sys.executable, "-m", "dask", *arguments]
            process = subprocess.Popen(
                program,
                cwd=tmp_path,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            stack.enter_context(process)
            stack.callback(process.terminate)
            return process

        yield start


class Scheduler(NamedTuple):
    """A Dask scheduler that answers."""

    process: subprocess.Popen
    address: str


@pytest.fixture
def scheduler(start_dask, tmp_path) -> Scheduler:
    """A Dask scheduler without workers."""
    written = tmp_path / "scheduler.json"
    process = start_dask(
        "scheduler", "--port", "0", "--dashboard-address", "127.0.0.1:0",
        "--host", "127.0.0.1", "--scheduler-file", str(written))  # fmt: skip
    wait_until(lambda: written.is_file() and written.stat().st_size, process)
    return Scheduler(process, json.loads(written.read_text())["address"])
