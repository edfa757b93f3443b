import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from adn_jax.cli.arguments import parse_with_recipe
from adn_jax.cli.main import main
from adn_jax.config import Recipe
from adn_jax.config.recipe_file import load_recipe
from adn_jax.config.sizes import Size, at_size
from adn_jax.errors import UserError

HEAD = "from adn_jax.config import Recipe, StageSettings\ndef get_config():\n    "


@dataclass(frozen=True)
class Command:
    """A command of the tests."""

    data: Path
    """Some folder."""


@dataclass(frozen=True)
class SizedCommand(Command):
    """The same with a size."""

    size: Size = "full"
    """Some size."""


@pytest.fixture
def config(tmp_path):
    """Write a config file whose get_config() has this body; its path."""

    def write(body="return Recipe(name='a', seed=4)"):
        path = tmp_path / "config.py"
        path.write_text(HEAD + body + "\n")
        return path

    return write


def test_recipe_of_a_file(config):
    assert load_recipe(config()) == Recipe(name="a", seed=4)


def test_a_recipe_finds_modules_in_the_folder_of_the_call(
    config, tmp_path, monkeypatch
):
    (tmp_path / "of_the_lab.py").write_text("NAME = 'theirs'\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])
    found = load_recipe(config("import of_the_lab\n    return Recipe(of_the_lab.NAME)"))
    assert found.name == "theirs"


@pytest.mark.parametrize("verb", ["predict", "phantom", "prepare", "export-model"])
def test_results_are_not_written_into_a_folder_called_as_a_store(
    verb, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    place = "gs://bucket/results"
    rest = {
        "predict": ["scan.nii.gz", "--out", place],
        "phantom": [place, "--cases", "1"],
        "prepare": ["raw", place],
        "export-model": ["run", place],
    }[verb]
    with pytest.raises(SystemExit) as stop:
        main([verb, *rest])
    assert stop.value.code == 2
    assert f"adn: {place} is in an object store, but" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return Recipe(name='a', sead=4)", "unexpected .*perhaps 'seed' is meant"),
        (
            "return Recipe(name='a', joint=StageSettings(stepps=4))",
            "unexpected .*perhaps 'steps' is meant",
        ),
        ("return 1 / 0", "failed with ZeroDivisionError: division by zero; correct"),
        ("return {}", r"gives no recipe; it needs a function get_config\(\)"),
        ("return Recipe(name='a', threshold=7.0)", r"threshold is 7\.0"),
        (
            "return Recipe(name='a', joint=StageSettings(steps=-3))",
            r"joint\.steps is -3; it has to be at least 0",
        ),
        ("syntax error", "failed with SyntaxError"),
    ],
)
def test_wrong_config(config, body, message):
    with pytest.raises(UserError, match=message):
        load_recipe(config(body))


def test_missing_config_and_missing_function(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.py does not exist; see configs/"):
        load_recipe(tmp_path / "nowhere.py")
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(UserError, match="gives no recipe"):
        load_recipe(tmp_path / "empty.py")
    (tmp_path / "text.md").write_text("")
    with pytest.raises(UserError, match="is no Python file"):
        load_recipe(tmp_path / "text.md")


def parse(config, *arguments):
    return parse_with_recipe(Command, "train", [str(config), *arguments])


def test_options_change_the_recipe(config):
    command, recipe = parse(
        config(),
        *("--data", "heads", "--joint-loss.tissue", "3", "--seed", "9"),
        *("--joint-loss.extra", "a:b", "c:d:2", "--prepare.shape", "8", "16", "16"),
        *("--alignment.no-network", "--joint.optimizer.clip-norm", "None"),
    )
    assert command == Command(data=Path("heads"))
    assert (recipe.name, recipe.seed) == ("a", 9)
    assert recipe.joint_loss.tissue == 3.0
    assert recipe.joint_loss.extra == ("a:b", "c:d:2")
    assert recipe.system.prepare.shape == (8, 16, 16)
    assert recipe.system.alignment.network is False
    assert recipe.joint.optimizer.clip_norm is None


@pytest.mark.parametrize(
    ("options", "size"),
    [
        (["--size", "demo"], "demo"),
        (["--size", "demo", "--size", "full"], "full"),
        (["--size=full", "--seed", "9", "--size=demo"], "demo"),
        (["--data", "a --size demo"], "full"),
    ],
)
def test_the_last_size_counts_for_command_and_recipe_alike(config, options, size):
    command, recipe = parse_with_recipe(
        SizedCommand, "train", [str(config()), "--data", "heads", *options]
    )
    assert command.size == size
    assert recipe == at_size(Recipe(name="a", seed=recipe.seed), size)


def test_unknown_option_is_refused_with_a_near_one(config, capsys):
    with pytest.raises(SystemExit) as end:
        parse(config(), "--data", "heads", "--joint-loss.tisue", "3")
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert "Perhaps you meant" in said
    assert "--joint-loss.tissue" in said


def test_value_of_another_type_is_refused(config, capsys):
    with pytest.raises(SystemExit) as end:
        parse(config(), "--data", "heads", "--joint.steps", "many")
    assert end.value.code == 2
    assert "--joint.steps" in capsys.readouterr().err


def test_impossible_value_is_one_sentence(config):
    with pytest.raises(UserError, match=r"joint\.batch is 0; it has to be above 0"):
        parse(config(), "--data", "heads", "--joint.batch", "0")


def test_config_comes_first():
    for arguments in ([], ["--data", "heads"]):
        with pytest.raises(UserError, match="config file is missing; it comes first"):
            parse_with_recipe(Command, "train", arguments)


def test_help_without_a_config(capsys):
    with pytest.raises(SystemExit) as end:
        parse_with_recipe(Command, "train", ["--help"])
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert "A command of the tests." in said
    assert "--joint-loss.tissue" in said
