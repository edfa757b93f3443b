import subprocess

import pytest

from adn_jax.cli.completion import options
from adn_jax.cli.main import main


@pytest.fixture
def complete(tmp_path, capsys):
    """What bash offers for the last of these words, with the script sourced."""
    main(["completion"])
    script = tmp_path / "adn.sh"
    script.write_text(capsys.readouterr().out)

    def offered(*words):
        line = f"source {script}; COMP_WORDS=(adn {' '.join(words)})"
        line += f"; COMP_CWORD={len(words)}; _adn; echo ${{COMPREPLY[@]}}"
        done = subprocess.run(
            ["bash", "-c", line], capture_output=True, text=True, check=True
        )
        assert done.stderr == ""
        return done.stdout.split()

    return offered


def test_bash_completes_verbs_and_their_options(complete):
    assert complete("pre") == ["prepare", "predict"]
    assert complete("export") == ["export", "export-model"]
    found = complete("train", "configs/adn.py", "--joint-loss.tiss")
    assert found == ["--joint-loss.tissue", "--joint-loss.tissue-one-way"]
    assert complete("evaluate", "run", "--no-such") == []
    assert complete("predict", "run", "sca") == []  # bash then completes files


def test_options_are_those_of_the_help():
    assert options("import-torch") == ["--help", "--t", "--df", "--tissue", "--recipe"]
    assert {"--dicom", "--no-dicom"} <= set(options("predict"))
