import contextlib
from importlib.metadata import version
from io import StringIO
from pathlib import Path

import pytest
from dask.distributed import KilledWorker
from distributed import system
from rich.console import Console

from adn_jax.cli.main import main
from adn_jax.datasets.raw import FileCase
from adn_jax.errors import UserError
from adn_jax.runtime import cluster
from adn_jax.runtime.jobs import (
    GIB,
    Processes,
    check_cluster,
    outcome,
    probe_worker,
    progress_bar,
)
from tests.hold import PATIENCE

GRID = ["--shape", "12", "24", "20", "--spacing-mm", "12", "8", "8"]


@pytest.mark.parametrize(
    ("processes", "cases", "count", "gib"),
    [
        (Processes(2), 400, 2, 8.0),
        (Processes(8), 3, 3, 16 / 3),
        (Processes(64), 400, 64, 0.5),
        (Processes(), 400, 4, 4.0),
        (Processes(), 2, 2, 8.0),
        (Processes(memory_gib=1.0), 400, 6, 1.0),
        (Processes(memory_gib=6.0), 400, 2, 6.0),
        (Processes(memory_gib=99.0), 400, 1, 99.0),
    ],
)
def test_as_many_processes_as_fit(monkeypatch, processes, cases, count, gib):
    monkeypatch.setattr(system, "MEMORY_LIMIT", 16 * GIB)
    monkeypatch.setattr("adn_jax.runtime.jobs.usable_processors", lambda: 6)
    monkeypatch.setattr(cluster, "local_client", lambda *called: called)
    assert processes.pool(cases) == (count, pytest.approx(gib * GIB, abs=1))


def test_brackets_of_a_bars_title_are_printed():
    with progress_bar(console=Console(file=(shown := StringIO()))) as bar:
        bar.add_task("adn[v2] [/b]", total=1)
    assert "adn[v2] [/b]" in shown.getvalue()


def test_what_is_no_number_of_processes_or_gib():
    with pytest.raises(UserError, match="--workers is 0"):
        Processes(0)
    with pytest.raises(
        UserError, match=r"--memory-gib is 0\.4; a process needs at least"
    ):
        Processes(memory_gib=0.4)
    assert Processes(1).here
    assert not Processes(1, scheduler="tcp://a:1").here


def test_outcomes_of_lost_processes():
    assert outcome("a", ("a", None)) == ("a", None)
    name, reason = outcome("a", KilledWorker("task", None, 1))
    assert name == "a"
    assert "ended, twice, perhaps for want of memory; allow each more" in reason
    assert outcome("a", TypeError("x")) == ("a", "unexpected TypeError: x")
    assert outcome("a", KeyError()) == ("a", "unexpected KeyError")
    with pytest.raises(UserError, match="disk"):
        outcome("a", UserError("the disk is full"))


class FakeClient:
    """A cluster of one process with this answer."""

    def __init__(self, answer):
        self.answer = answer

    def run(self, job, folders):
        if isinstance(self.answer, Exception):
            raise self.answer
        return {"tcp://far:1": self.answer or job(folders)}


def test_a_cluster_that_lacks_something(tmp_path):
    there, missing = tmp_path, tmp_path / "missing"
    check_cluster(FakeClient(None), [there])
    assert probe_worker([there, missing]) == (version("adn-jax"), [missing])
    for answer, folders, message in (
        (None, [there, missing], r"far:1 does not see .*missing; use folders"),
        (("0.0.0", []), [there], "far:1 has another version of adn_jax"),
        (ModuleNotFoundError("adn_jax"), [there], "cannot run adn_jax .*install"),
    ):
        with pytest.raises(UserError, match=message):
            check_cluster(FakeClient(answer), folders)


def full_disk(name):
    raise UserError(f"{name} could not be written (No space left on device).")


def test_a_full_disk_in_a_process_ends_it(monkeypatch):
    @contextlib.contextmanager
    def here(*_):
        yield None

    def run_jobs(_, job, items):
        for item in items:
            try:
                yield item, job(item)
            except Exception as error:
                yield item, error

    monkeypatch.setattr(Processes, "pool", here)
    monkeypatch.setattr(cluster, "run_jobs", run_jobs)
    with pytest.raises(UserError, match="No space left on device"):
        list(Processes(2).outcomes(full_disk, [FileCase("a", Path("ct.nii"))]))


def knock_and_hurry(patch):
    """Wait for the scheduler's answer as long as it takes, for workers a second."""
    check_reachable = cluster.check_reachable

    async def knock_first(address):
        await check_reachable(address)
        patch.setattr(cluster, "CONNECT_SECONDS", 1)

    return knock_first


@pytest.mark.slow
def test_a_cluster_prepares_the_same_bytes(
    raw, tmp_path, scheduler, start_dask, monkeypatch, capsys
):
    address = scheduler.address
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", PATIENCE)
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(cluster, "check_reachable", knock_and_hurry(patch))
        with pytest.raises(SystemExit) as stop:
            main(["prepare", "raw", "far/out", *GRID, "--scheduler", address])
    assert stop.value.code == 2
    assert "has no workers; start some with `dask worker" in capsys.readouterr().err

    for _ in range(2):
        start_dask("worker", address, "--no-dashboard", "--nthreads", "1")
    main(["prepare", "raw", "far/out", *GRID, "--scheduler", address])
    near = tmp_path / "near" / "out"
    main(["prepare", str(raw), str(near), *GRID, "--workers", "1"])
    ours = contents(near)
    assert contents(tmp_path / "far" / "out") == {
        name: content.replace(b"/near/", b"/far/") for name, content in ours.items()
    }


def contents(folder):
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
