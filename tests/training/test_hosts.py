"""Two processes that train as one, by the real `train.py`, beside one alone."""

import json
import signal
import socket
import subprocess
import sys
from contextlib import suppress

import numpy as np
import pytest

from adn_jax.runtime.logbook import read_metrics
from adn_jax.training.runs import read_finished
from tests.training.conftest import CONFIG, ROOT
from tests.training.test_survival import has_line, wait_for

SLURM_PORTS = 61440
"""From here on jax counts a port by the job's number."""


def free_port(first):
    """The first free port from that one on."""
    for port in range(first, first + 4096):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def by_address(number, processes, port):
    """Options and variables that tell a process of the others."""
    numbers = ("--processes", processes, "--process-id", number)
    return ("--coordinator", f"127.0.0.1:{port}", *numbers), {}


def by_slurm(number, processes, port):
    """The same, as under `srun`."""
    variables = {
        "SLURM_JOB_ID": str(port - SLURM_PORTS),
        "SLURM_STEP_NODELIST": "127.0.0.1",
        "SLURM_NTASKS": str(processes),
        "SLURM_PROCID": str(number),
        "SLURM_LOCALID": str(number),
    }
    return ("--coordinator", "auto"), variables


@pytest.fixture
def start_together(heads, training_environment):
    """Start so many processes of one training, each with one device."""
    environment = {
        **training_environment,
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "JAX_NUM_CPU_DEVICES": "1",
    }
    started = []

    def start(run, processes, introduce=by_address):
        port = free_port(SLURM_PORTS)
        for number in range(processes):
            options, variables = introduce(number, processes, port)
            command = [
                *(sys.executable, "train.py", CONFIG, "--data", heads, "--run", run),
                *(options if processes > 1 else ()),
            ]
            started.append(
                subprocess.Popen(
                    [str(part) for part in command],
                    cwd=ROOT,
                    env=environment | variables,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
        return started[-processes:]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def ends(processes):
    """Exit codes and outputs, once all have ended."""
    outputs = [process.communicate(timeout=400)[0] for process in processes]
    return [process.returncode for process in processes], "\n".join(outputs)


def losses(run):
    return {
        (line["stage"], line["step"]): line["loss"]
        for line in read_metrics(run)
        if line["split"] == "train"
    }


def assert_same_losses(one, other, tolerance):
    first, second = losses(one), losses(other)
    assert first.keys() == second.keys()
    np.testing.assert_allclose(
        list(first.values()), [second[key] for key in first], rtol=tolerance
    )


@pytest.mark.slow
def test_two_processes_train_as_one_does(start_together, tmp_path, whole_run):
    """SIGTERM to one ends both in between; one alone then goes on to the end."""
    together = tmp_path / "together"
    pair = start_together(together, 2)
    wait_for(lambda: has_line(together, "align", 1), pair[0])
    pair[1].send_signal(signal.SIGTERM)
    codes, output = ends(pair)
    assert codes == [143, 143], output
    assert "joint" not in read_finished(together)
    codes, output = ends(start_together(together, 1))
    assert codes == [0], output
    assert_same_losses(whole_run, together, 1e-5)


@pytest.mark.slow
def test_two_processes_from_start_to_end(start_together, tmp_path, whole_run):
    codes, output = ends(start_together(tmp_path / "pair", 2, by_slurm))
    assert codes == [0, 0], output
    assert_same_losses(whole_run, tmp_path / "pair", 1e-5)
    assert output.count("joint step 10: validation") == 1
    config = json.loads((tmp_path / "pair" / "config.json").read_text())
    assert config["recipe"]["name"] == "tiny"
    assert any((tmp_path / "pair" / "tensorboard" / "joint").iterdir())
