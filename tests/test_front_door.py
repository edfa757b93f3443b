import doctest
import importlib
import pydoc
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import adn_jax

README = Path(__file__).parents[1] / "README.md"
PACKAGE = Path(adn_jax.__file__).parent
WITH_EXAMPLES = [path for path in PACKAGE.rglob("*.py") if ">>> " in path.read_text()]


def test_help_fits_a_page_and_a_half_and_names_everything():
    page = pydoc.plain(pydoc.render_doc(adn_jax)).splitlines()
    assert len(page) <= 70
    assert max(map(len, page)) <= 92
    assert 30 <= len(dir(adn_jax)) <= 40
    assert all(name in adn_jax.__doc__ for name in dir(adn_jax))


def test_every_name_has_a_docstring():
    for name in dir(adn_jax):
        assert getattr(adn_jax, name).__doc__, name


def test_importing_it_starts_no_jax():
    program = "import sys, adn_jax; adn_jax.UserError; print('jax' in sys.modules)"
    said = subprocess.check_output([sys.executable, "-c", program], text=True)
    assert said == "False\n"


def test_the_docstrings_have_examples():
    assert len(WITH_EXAMPLES) >= 7


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_of_docstrings_do_what_they_say(path):
    names = path.relative_to(PACKAGE.parent).with_suffix("").parts
    failed, tried = doctest.testmod(importlib.import_module(".".join(names)))
    assert tried == path.read_text().count(">>> ")
    assert failed == 0


def test_the_programs_of_the_readme_do_what_it_says(
    tiny_run, tiny_data, raw_head, tmp_path, monkeypatch
):
    shutil.copytree(tiny_run, tmp_path / "demo" / "run")
    (tmp_path / "demo" / "run" / "prepared").symlink_to(tiny_data)
    shutil.copytree(raw_head.parent, tmp_path / "demo" / "raw" / "phantom_0000")
    monkeypatch.chdir(tmp_path)
    failed, tried = doctest.testfile(str(README), module_relative=False)
    assert tried == 16
    assert failed == 0
