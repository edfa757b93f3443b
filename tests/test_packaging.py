"""The source archive makes the wheel, and the wheel holds what a user needs."""

import configparser
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The wheel, made from the source archive, which lies beside it."""
    folder = tmp_path_factory.mktemp("package")
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(
        listed, cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split()
    for name in names:
        if (ROOT / name).is_file():
            (folder / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / "tree" / name)
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", folder / "tree"],
        check=True,
        capture_output=True,
    )
    (wheel,) = (folder / "tree" / "dist").glob("*.whl")
    return wheel


def test_the_wheel_holds_the_whole_package_and_nothing_else(built):
    with zipfile.ZipFile(built) as wheel:
        names = set(wheel.namelist())
    package = ROOT / "adn_jax"
    wanted = {
        str(path.relative_to(ROOT))
        for path in package.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert {"adn_jax/py.typed", "adn_jax/inference/templates/niivue.js"} <= wanted
    ours = {name for name in names if name.startswith("adn_jax/")}
    assert ours == wanted
    (info,) = {name.split("/")[0] for name in names - ours}
    assert info.endswith(".dist-info")
    licences = {name for name in names if name.startswith(f"{info}/licenses/")}
    assert {name.split("licenses/")[1] for name in licences} == {
        "LICENSE",
        "vendor/niivue/NOTICES",
    }


def test_what_the_wheel_asks_for(built):
    with zipfile.ZipFile(built) as wheel:
        (info,) = {
            name.split("/")[0] for name in wheel.namelist() if "dist-info" in name
        }
        metadata = Parser().parsestr(wheel.read(f"{info}/METADATA").decode())
        scripts = configparser.ConfigParser()
        scripts.read_string(wheel.read(f"{info}/entry_points.txt").decode())
    assert dict(scripts["console_scripts"]) == {"adn": "adn_jax.cli.main:main"}
    needs = metadata.get_all("Requires-Dist")
    without_extra = [need for need in needs if "extra ==" not in need]
    assert any(need.startswith("jax") for need in without_extra)
    assert not any(need.startswith(("torch", "pytest")) for need in without_extra)
    assert {
        *("atlas", "cloud", "dev", "dicom", "docs", "export", "gpu", "onnx"),
        *("plan-cuda", "plan-tpu", "test", "torch", "tpu"),
    } <= set(metadata.get_all("Provides-Extra"))


def test_the_source_archive_holds_what_the_wheel_is_made_of(built):
    (archive,) = built.parent.glob("*.tar.gz")
    with tarfile.open(archive) as source:
        names = {name.partition("/")[2] for name in source.getnames()}
    assert {"pyproject.toml", "README.md", "requirements.txt", "LICENSE"} <= names
    assert "vendor/niivue/NOTICES" in names
    assert {"configs/adn.py", "examples/loss_terms.py", "CHANGELOG.md"} <= names
    assert not any(name.startswith("tests/") for name in names)
