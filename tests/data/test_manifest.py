import pytest

from adn_jax.config import PrepareSettings
from adn_jax.data.manifest import Manifest, read_manifest
from adn_jax.errors import UserError
from adn_jax.io.files import read_json, write_json


@pytest.fixture
def manifest(tmp_path) -> Manifest:
    settings = PrepareSettings(shape=(8, 16, 16), tissue="none")
    splits = {"train": ("a", "b"), "validation": (), "test": ("c",)}
    return Manifest(
        settings,
        ("a", "b", "c"),
        splits,
        tmp_path,
        failed={"d": "a reason"},
        left_out={"e": "not wanted"},
        layout="plain",
        lacking={"lesion": ("c",), "tissue": ()},
    )


def test_manifest_there_and_back(manifest):
    manifest.write()
    assert read_manifest(manifest.folder) == manifest


def test_no_manifest(tmp_path):
    with pytest.raises(UserError, match=r"is no prepared data set .* `adn prepare"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("splits"), "lacks or spoils 'splits'"),
        (lambda content: content.pop("lacking"), "lacks or spoils 'lacking'"),
        (lambda content: content.update(splits=[]), "lacks or spoils"),
        (
            lambda content: content["settings"].update(shaper=1),
            "unknown field 'shaper'; perhaps 'shape' is meant",
        ),
    ],
)
def test_a_spoiled_manifest(manifest, change, message):
    manifest.write()
    path = manifest.folder / "manifest.json"
    content = read_json(path)
    change(content)
    write_json(path, content)
    with pytest.raises(UserError, match=message):
        read_manifest(manifest.folder)
