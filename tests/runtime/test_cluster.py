import os
import signal
import subprocess
import sys
import time

import pytest

from adn_jax.errors import UserError
from adn_jax.runtime import cluster
from adn_jax.runtime.cluster import KilledWorker, cluster_client, local_client, run_jobs
from tests.hold import PATIENCE

MIB = 1 << 20


def job(item):
    """Fine, or what can go wrong with a case."""
    if item == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if item == "hungry":
        held = bytearray(1000 * MIB)
        for page in range(0, len(held), 4096):
            held[page] = 1
        time.sleep(PATIENCE)
    if item == "wrong":
        raise ZeroDivisionError("in the middle")
    if item.endswith("once") and not os.path.exists(item):  # noqa: PTH110
        os.mkdir(item)  # noqa: PTH102
        os.kill(os.getpid(), signal.SIGKILL)
    return f"{item} done", os.environ["OMP_NUM_THREADS"], signal.getsignal(2).name


@pytest.mark.slow
def test_a_process_that_ends_costs_its_own_job_alone(tmp_path):
    once = str(tmp_path / "once")
    items = ["a", "killed", "b", "hungry", "c", "wrong", once, "d"]
    with local_client(2, 700 * MIB) as client:
        results = dict(run_jobs(client, job, items))
    assert set(results) == set(items)
    for item in ("a", "b", "c", "d", once):
        assert results[item] == (f"{item} done", "1", "SIG_IGN")
    assert isinstance(results["killed"], KilledWorker)
    assert isinstance(results["hungry"], KilledWorker)
    assert isinstance(results["wrong"], ZeroDivisionError)


def test_processes_that_do_not_start_are_one_sentence(monkeypatch):
    def refuse(**_):
        raise RuntimeError("Cluster failed to start:\nno port")

    monkeypatch.setattr(cluster, "LocalCluster", refuse)
    with (
        pytest.raises(UserError, match=r"did not start \(Cluster failed .*: no port\)"),
        local_client(2, MIB),
    ):
        pass


@pytest.mark.parametrize(
    "address", ["tcp://127.0.0.1:1", "nonsense", "http://127.0.0.1:8786", "x y:1"]
)
def test_no_scheduler_is_one_sentence(monkeypatch, address):
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 1)
    with (
        pytest.raises(UserError, match="no Dask scheduler answers at") as caught,
        cluster_client(address),
    ):
        pass
    assert repr(address) in str(caught.value)
    assert "start one with `dask scheduler`" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "seconds", [(0, PATIENCE), (0, 0, PATIENCE)], ids=["running", "done"]
)
def test_a_scheduler_that_goes_away_is_one_sentence(scheduler, start_dask, seconds):
    """While a job runs, and while the result of one that is done is fetched."""
    worker = start_dask("worker", scheduler.address, "--no-nanny", "--nthreads", "3")
    try:
        with cluster_client(scheduler.address) as client:
            results = run_jobs(client, time.sleep, seconds)
            assert next(results) == (0, None)
            scheduler.process.kill()
            with pytest.raises(UserError, match="the Dask scheduler went away; run"):
                next(results)
    finally:
        worker.kill()  # it would wait for the job


@pytest.mark.slow
def test_ctrl_c_before_a_call_has_begun_leaves_no_traceback():
    stopped = subprocess.run(
        [sys.executable, "-c", STOPPED], capture_output=True, text=True, check=False
    )
    assert (stopped.stdout, stopped.stderr) == ("stopped\n", "")


STOPPED = """
import os, signal, threading, time
from adn_jax.runtime.cluster import local_client

if __name__ == "__main__":
    with local_client(1, 1 << 30) as client:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        client.loop.add_callback(time.sleep, 2)
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            client.nthreads()
        except KeyboardInterrupt:
            print("stopped")
"""
