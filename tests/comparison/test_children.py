import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from adn_jax.comparison import work as children
from adn_jax.comparison.work import (
    RunJob,
    evaluate_command,
    failure_sentence,
    plan_runs,
    run_child,
    train_command,
)
from adn_jax.config.fields import set_fields
from adn_jax.errors import UserError
from tests.comparison.made_up import make_system

JOB = RunJob(Path("data"), "test", "demo", Path("logs"))


def test_commands():
    system = make_system("adn")
    changed = set_fields(system.recipe, {"joint.steps": "100"})
    systems = [system, replace(system, name="more", recipe=changed)]
    first, second = plan_runs(systems, (3,), Path("runs"))
    train = ["train", "adn.py", "--data", "data", "--run", "runs/more-seed3"]
    train += ["--size", "demo", "--align-run", "runs/adn-seed3"]
    train += ["--seed", "3", "--joint.steps", "100"]
    assert train_command(second, JOB, first) == train
    full = train_command(first, replace(JOB, size="full"))
    assert full[5:] == ["runs/adn-seed3", "--seed", "3"]
    shared = train_command(first, replace(JOB, spatial_shards=2))
    assert shared[8:] == ["--spatial-shards", "2", "--seed", "3"]
    scoring = ["evaluate", "runs/adn-seed3", "--split", "test", "--data", "data"]
    assert evaluate_command(first, JOB) == scoring


def test_a_child_leaves_a_log_and_a_sentence(tmp_path):
    log = tmp_path / "logs" / "run.log"
    assert run_child(["--help"], log) == ""
    assert "usage: adn VERB" in log.read_text()
    assert run_child(["dance"], log).startswith("adn VERB --help tells more")
    assert log.read_text().count("usage: adn VERB") == 2


def test_a_log_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(UserError, match=r"could not be written \(.*\); choose another"):
        run_child(["--help"], tmp_path / "out" / "logs" / "run.log")


def test_an_interrupt_reaches_the_child_once_and_waits(tmp_path, monkeypatch):
    class Child:
        def __init__(self, *_, **__):
            self.calls = []
            made.append(self)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def wait(self):
            self.calls.append("wait")
            if len(self.calls) == 1:
                raise KeyboardInterrupt(signal.SIGTERM)

        def terminate(self):
            self.calls.append("terminate")

    made = []
    monkeypatch.setattr(children.subprocess, "Popen", Child)
    with pytest.raises(KeyboardInterrupt):
        run_child(["train"], tmp_path / "log")
    assert made[0].calls == ["wait", "terminate", "wait"]


@pytest.mark.parametrize(
    ("code", "said", "sentence"),
    [
        (2, "adn: the data is missing; give it.\n", "the data is missing; give it."),
        (1, "Traceback\nValueError: 3 is odd\n╰────╯\n", "ValueError: 3 is odd"),
        (
            -signal.SIGKILL,
            "step 3\n",
            "train was ended by SIGKILL; the memory may not suffice.",
        ),
        (9, "", "train ended with exit code 9."),
    ],
)
def test_a_failing_child(code, said, sentence):
    assert failure_sentence("train", code, said) == sentence


def test_an_exception_inside_jax_is_told_by_its_own_line():
    """JAX adds a note below it on frames that it has left out."""
    program = "import jax; jax.jit(lambda x: x.missing)(1.0)"
    child = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    sentence = failure_sentence("train", child.returncode, child.stderr)
    assert sentence.startswith("AttributeError: ")
    assert sentence.endswith(" has no attribute missing")
    assert "JAX has removed" in child.stderr.splitlines()[-1]
