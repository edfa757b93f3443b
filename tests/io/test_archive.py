import io
import resource
import tarfile
import zipfile

import pytest

from adn_jax.errors import UserError
from adn_jax.io import archive
from adn_jax.io.archive import unpack

FILES = {"a/1.dcm": b"first", "b/1.dcm": b"second"}


def pack(path, files):
    if path.name.endswith(".zip"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, content in files.items():
                packed.writestr(name, content)
        return path
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as packed:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            packed.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "a.tgz", "a.tar", "A.ZIP"])
def test_files_of_the_same_name_are_both_there(tmp_path, name):
    packed = pack(tmp_path / name.lower(), FILES).rename(tmp_path / name)
    folder = unpack(packed, tmp_path / "out")
    assert [path.read_bytes() for path in sorted(folder.iterdir())] == [
        b"first",
        b"second",
    ]


@pytest.mark.parametrize("name", ["a.zip", "a.tar"])
def test_names_cannot_lead_outside(tmp_path, name):
    packed = pack(tmp_path / name, {"../../evil": b"x", "/tmp/evil": b"y"})
    folder = unpack(packed, tmp_path / "deep" / "out")
    assert len(list(folder.iterdir())) == 2
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {
        name,
        "000000",
        "000001",
    }


def test_links_are_left_out(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as packed:
        member = tarfile.TarInfo("link")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        packed.addfile(member)
    assert not list(unpack(tmp_path / "a.tar", tmp_path / "out").iterdir())


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "a.tar"])
@pytest.mark.parametrize("kept", [0, 20, 60])
def test_damaged_archives_are_named(tmp_path, name, kept):
    packed = pack(tmp_path / name, {"a": bytes(range(256)) * 9})
    packed.write_bytes(packed.read_bytes()[:kept])
    with pytest.raises(UserError, match="is no whole archive"):
        unpack(packed, tmp_path / "out")


def test_bombs_are_stopped(tmp_path, monkeypatch):
    packed = pack(tmp_path / "a.zip", {"a": bytes(5_000_000)})
    assert packed.stat().st_size < 10_000
    monkeypatch.setattr(archive, "LARGEST_BYTES", 2_000_000)
    with pytest.raises(UserError, match="unpacks to more than"):
        unpack(packed, tmp_path / "out")


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
def test_a_full_disk_is_not_told_as_damage(tmp_path, name):
    """A disk that takes no more than a file of 4,000 bytes."""
    packed = pack(tmp_path / name, {"a": bytes(50_000)})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
    try:
        with pytest.raises(UserError, match="there is no room to unpack"):
            unpack(packed, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
