import subprocess
import sys
from contextlib import ExitStack

import pytest

from adn_jax.errors import UserError
from adn_jax.io import files
from adn_jax.io.files import only_one

HOLD = """
import sys
from pathlib import Path
from adn_jax.io.files import only_one
with only_one(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_holder_is_refused_until_the_first_has_ended(tmp_path):
    folder = tmp_path / "new" / "out"
    busy = pytest.raises(UserError, match=r"another process is writing into .*out;")
    with only_one(folder), busy, only_one(folder):
        pass
    with only_one(folder):
        assert folder.is_dir()


def test_a_holder_can_be_waited_for(tmp_path, monkeypatch):
    held, said = ExitStack(), []
    held.enter_context(only_one(tmp_path))

    def leave(sentence, **_):  # once it is told that another waits
        said.append(sentence)
        held.close()

    monkeypatch.setattr(files, "print", leave, raising=False)
    with only_one(tmp_path, wait=True):
        assert said == [f"adn: waiting for another process to leave {tmp_path}."]
        with pytest.raises(UserError, match="another process"), only_one(tmp_path):
            pass


def test_a_killed_process_holds_nothing(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="another process"), only_one(tmp_path):
            pass
        process.kill()
    with only_one(tmp_path):
        pass


def test_the_lock_ends_with_an_error_in_the_block(tmp_path):
    with pytest.raises(ZeroDivisionError), only_one(tmp_path):
        raise ZeroDivisionError
    with only_one(tmp_path):
        pass


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match=r"file/out could not be written \(Not a dir"),
        only_one(tmp_path / "file" / "out"),
    ):
        pass
