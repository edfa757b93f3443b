"""Processes that train as one, by the real `train.py`, beside one alone."""

import fcntl
import json
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager, suppress

import jax
import numpy as np
import pytest

from adn_jax.training.checkpoints import open_checkpoints
from adn_jax.training.metric_log import read_metrics
from adn_jax.training.runs import read_finished
from tests.hold import PATIENCE
from tests.training.test_survival import held

FOURS = (
    *("--align.batch", 4, "--joint.batch", 4, "--joint.steps", 16),
    *("--joint.optimizer.learning-rate", 1e-4),
)
"""20 updates on batches that up to four devices share, so small that Adam's first ones,
which follow the gradient's signs, do not blow up the rounding of another order."""

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
def start_together(start_training):
    """Start so many processes of one training, each with so many devices."""
    started = []

    def start(run, processes, *given, devices=1, introduce=by_address, **program):
        port = free_port(SLURM_PORTS)
        for number in range(processes):
            options, variables = introduce(number, processes, port)
            options = (*FOURS, *given, *(options if processes > 1 else ()))
            process = start_training(
                run, *options, devices=devices, **program, **variables
            )
            started.append(process)
        return started[-processes:]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def alone(start_training, tmp_path_factory):
    """What one process on two devices does, undisturbed."""
    run = tmp_path_factory.mktemp("alone") / "run"
    codes, output = ends([start_training(run, *FOURS)])
    assert codes == [0], output
    return run


def ends(processes):
    """Exit codes and outputs, once all have ended."""
    outputs = [process.communicate(timeout=PATIENCE)[0] for process in processes]
    return [process.returncode for process in processes], "\n".join(outputs)


def losses(run, stages):
    return {
        (line["stage"], line["step"]): line["loss"]
        for line in read_metrics(run)
        if line["split"] == "train" and line["stage"] in stages
    }


def assert_same_losses(one, other, tolerance, stages=("align", "joint")):
    first, second = losses(one, stages), losses(other, stages)
    assert first.keys() == second.keys()
    np.testing.assert_allclose(
        list(first.values()), [second[key] for key in first], rtol=tolerance
    )


@contextmanager
def damaged(volume):
    """A file is cut short until the end of the block."""
    content = volume.read_bytes()
    volume.write_bytes(content[: len(content) // 2])
    try:
        yield
    finally:
        volume.write_bytes(content)


@pytest.mark.slow
def test_one_process_goes_on_where_two_were_stopped(
    start_together, new_hold, tmp_path, heads, alone
):
    """SIGTERM to one ends both at the same step, and so does a case one cannot read."""
    run, hold = tmp_path / "pair", new_hold()
    # a copy of its own: other tests have the heads in their memory at the same time
    own = shutil.copytree(heads, tmp_path / "heads")
    program = held(hold, "logged_until_notice", "joint", 1)
    pair = start_together(run, 2, data=own, program=program)
    hold.until_arrived(pair[0])
    pair[1].send_signal(signal.SIGTERM)
    codes, output = ends(pair)
    assert codes == [143, 143], output
    assert output.count("stopped and saved at step") == 1
    assert "joint" not in read_finished(run)
    with damaged(own / "head02" / "ct.nii"):
        codes, output = ends(start_together(run, 2, data=own))
    assert codes == [2, 2], output
    assert "Traceback" not in output
    assert f"adn: {own}/head02/ct.nii" in output
    assert output.count("adn: a process could not read a case of step") == 2
    codes, output = ends(start_together(run, 1, data=own, devices=2))
    assert codes == [0], output
    assert_same_losses(alone, run, 1e-6)


@pytest.mark.slow
def test_a_training_moves_from_four_devices_to_two_and_one(
    start_training, new_hold, tmp_path, alone
):
    """Of the four, two share the rows of each case."""
    run = tmp_path / "moving"
    for devices, space, step in ((4, 2, 1), (2, 1, 4)):
        hold = new_hold()
        program = held(hold, "logged", "joint", step)
        process = start_training(
            run, *FOURS, "--spatial-shards", space, devices=devices, program=program
        )
        hold.until_arrived(process)
        process.send_signal(signal.SIGTERM)
        hold.release()
        codes, output = ends([process])
        assert codes == [143], output
        assert "joint" not in read_finished(run)
    codes, output = ends([start_training(run, *FOURS, devices=1)])
    assert codes == [0], output
    assert_same_losses(alone, run, 1e-5)


@pytest.mark.slow
def test_all_end_where_process_0_cannot_begin(start_together, tmp_path):
    run = tmp_path / "taken"
    run.mkdir()
    with (run / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        pair = start_together(run, 2)
        outputs = [process.communicate(timeout=PATIENCE)[0] for process in pair]
    assert [process.returncode for process in pair] == [2, 2], outputs
    assert "adn: another process is writing into" in outputs[0]
    assert "adn: process 0 cannot go on" in outputs[1]
    assert not any("Traceback" in output for output in outputs)


def by_address_without_data(number, processes, port):
    """The same, where all processes but the first look for the data elsewhere."""
    options, variables = by_address(number, processes, port)
    return options + (("--data", "nowhere") if number else ()), variables


@pytest.mark.slow
def test_all_end_where_one_lacks_the_data(start_together, tmp_path):
    run = tmp_path / "run"
    pair = start_together(run, 2, introduce=by_address_without_data)
    outputs = [process.communicate(timeout=PATIENCE)[0] for process in pair]
    assert [process.returncode for process in pair] == [2, 2], outputs
    assert "adn: process 1 cannot go on; look at what it says." in outputs[0]
    assert "adn: the data folder nowhere does not exist" in outputs[1]
    assert not run.exists()


def by_address_otherwise(number, processes, port):
    """The same, where all processes but the first have another option."""
    options, variables = by_address(number, processes, port)
    return options + (("--joint.steps", 17) if number else ()), variables


@pytest.mark.slow
def test_all_end_where_one_was_called_otherwise(start_together, tmp_path):
    pair = start_together(tmp_path / "run", 2, introduce=by_address_otherwise)
    outputs = [process.communicate(timeout=PATIENCE)[0] for process in pair]
    assert [process.returncode for process in pair] == [2, 2], outputs
    assert "adn: process 1 cannot go on; look at what it says." in outputs[0]
    assert "adn: this process was called otherwise than the one" in outputs[1]
    assert "joint.steps 16 -> 17" in outputs[1].replace("\n", " ")


TAKE_WEIGHTS = """
import sys
from pathlib import Path
import jax
from adn_jax.distributed.hosts import is_first, join_processes, sync_errors
from adn_jax.training.runs import Run
from tests.training.tiny import tiny_recipe

join_processes(sys.argv[1], 2, int(sys.argv[2]))
with sync_errors():
    if is_first():
        run = Run(Path(sys.argv[3]), tiny_recipe())
        run.write_stage("tissue", {"w": jax.numpy.arange(3.0)})
"""


@pytest.mark.slow
def test_weights_of_another_run_are_written_by_process_0(tmp_path):
    address = f"127.0.0.1:{free_port(SLURM_PORTS)}"
    pair = [
        subprocess.Popen(
            [sys.executable, "-c", TAKE_WEIGHTS, address, str(number), str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(2)
    ]
    codes, output = ends(pair)
    assert codes == [0, 0], output
    folder = tmp_path / "checkpoints" / "tissue"
    with open_checkpoints(folder, "max", read_only=True) as checkpoints:
        like = {"w": jax.ShapeDtypeStruct((3,), jax.numpy.float32)}
        np.testing.assert_array_equal(
            checkpoints.restore_params(0, like)["w"], range(3)
        )


@pytest.mark.slow
def test_four_processes_train_as_one_does(start_together, tmp_path, alone):
    run = tmp_path / "four"
    aligned = ("--align-run", alone)
    codes, output = ends(start_together(run, 4, *aligned, introduce=by_slurm))
    assert codes == [0] * 4, output
    assert_same_losses(alone, run, 1e-5, ("joint",))
    assert output.count("joint step 16: validation") == 1
    config = json.loads((run / "config.json").read_text())
    assert config["recipe"]["name"] == "tiny"
    assert any((run / "tensorboard" / "joint").iterdir())
