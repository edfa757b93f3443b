import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from adn_jax.data.manifest import read_manifest
from adn_jax.errors import UserError
from adn_jax.io.files import only_one
from adn_jax.io.paths import read_bytes, to_place
from adn_jax.prepare import export
from adn_jax.prepare.export import in_shards, pack_dataset
from tests.training.tiny import drop_volume, write_heads


@pytest.fixture(scope="module")
def five_heads(tmp_path_factory):
    """A prepared data set."""
    return write_heads(tmp_path_factory.mktemp("pack") / "heads", 3, 2).folder


@pytest.fixture
def heads(five_heads, tmp_path):
    """A copy that a test may change."""
    return Path(shutil.copytree(five_heads, tmp_path / "heads"))


@pytest.fixture(params=["disk", "gcs"])
def out(request, tmp_path):
    """Where to pack to, here or in a store."""
    if request.param == "disk":
        return tmp_path / "packed"
    bucket = request.getfixturevalue(request.param).bucket
    return to_place(f"{bucket}/{tmp_path.name}/packed")


def contents(folder):
    files = (path for path in folder.iterdir() if path.name != ".lock")
    return {path.name: read_bytes(path) for path in files}


def count_shards(monkeypatch):
    """Numbers of cases of the shards that are written from now on."""
    written, write = [], export.write_shard

    def counted(path, folders):
        written.append(len(folders))
        write(path, folders)

    monkeypatch.setattr(export, "write_shard", counted)
    return written


def test_a_packed_data_set_has_few_files(heads, out):
    manifest = pack_dataset(heads, out, cases_per_shard=2)
    assert read_manifest(out) == manifest
    assert manifest.cases == read_manifest(heads).cases
    assert manifest.splits == read_manifest(heads).splits
    assert len(manifest.shards) == 3
    assert set(contents(out)) == {"manifest.json", *manifest.shards}


def test_a_second_call_does_what_is_missing_or_changed(heads, out, monkeypatch):
    first = pack_dataset(heads, out, cases_per_shard=2)
    before, written = contents(out), count_shards(monkeypatch)
    pack_dataset(heads, out, cases_per_shard=2)
    assert written == []
    assert contents(out) == before

    (out / first.shards[2]).unlink()
    pack_dataset(heads, out, cases_per_shard=2)
    assert written == [1]
    assert contents(out) == before

    drop_volume(heads, "tissue", "head02")
    second = pack_dataset(heads, out, cases_per_shard=2)
    assert written == [1, 2]
    assert second.lacking == {"tissue": ("head02",)}
    kept = [a == b for a, b in zip(first.shards, second.shards, strict=True)]
    assert kept == [True, False, True]
    assert set(contents(out)) == {"manifest.json", *second.shards}


KILLED = """
import os, signal, sys
from pathlib import Path
from adn_jax.prepare import export
from adn_jax.io.paths import to_place

zipped, calls = export.write_shard.__globals__["zipped"], []

def killed(folder):
    calls.append(folder)
    if len(calls) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return zipped(folder)

export.write_shard.__globals__["zipped"] = killed
export.pack_dataset(Path(sys.argv[1]), to_place(sys.argv[2]), 2)
"""
"""Ends in the middle of the second shard."""


def test_a_killed_call_is_finished_by_the_next(heads, out, tmp_path):
    call = [sys.executable, "-c", KILLED, str(heads), str(out)]
    assert subprocess.run(call, check=False).returncode == -signal.SIGKILL
    assert len(list(out.glob("cases-*"))) == 1
    pack_dataset(heads, out, cases_per_shard=2)
    pack_dataset(heads, tmp_path / "undisturbed", cases_per_shard=2)
    assert contents(out) == contents(tmp_path / "undisturbed")


def test_what_a_killed_call_left_is_removed(heads, tmp_path):
    half = tmp_path / "packed" / ".4711.cases-0.array_record"
    half.parent.mkdir()
    half.write_bytes(b"half")
    pack_dataset(heads, tmp_path / "packed")
    assert not half.exists()


def test_files_of_others_stay(heads, tmp_path):
    other = tmp_path / "packed" / "other.array_record"
    other.parent.mkdir()
    other.write_bytes(b"other")
    pack_dataset(heads, tmp_path / "packed")
    assert other.read_bytes() == b"other"


def refuse(heads, out, cases_per_shard=2):
    with pytest.raises(UserError) as caught:
        pack_dataset(heads, out, cases_per_shard)
    return str(caught.value)


def test_a_case_that_has_changed_is_not_packed(heads, tmp_path):
    with (heads / "head03" / "ct.nii").open("ab") as file:
        file.write(b"more")
    said = refuse(heads, tmp_path / "packed")
    assert "head03/ct.nii is missing or has changed since it was prepared" in said
    assert not (tmp_path / "packed" / "manifest.json").exists()


def test_what_cannot_be_read_is_named(heads, tmp_path):
    (heads / "head03" / "notes").mkdir()
    said = refuse(heads, tmp_path / "packed")
    assert "head03/notes could not be read (Is a directory)" in said
    assert not (tmp_path / "packed" / "manifest.json").exists()


def test_what_cannot_be_packed(heads, tmp_path):
    assert "it has to be at least 1" in refuse(heads, tmp_path / "packed", 0)
    assert "is no prepared data set" in refuse(tmp_path, tmp_path / "packed")
    assert "holds a data set that is not packed" in refuse(heads, heads)
    pack_dataset(heads, tmp_path / "packed")
    assert "is packed already" in refuse(tmp_path / "packed", tmp_path / "again")


def test_a_folder_in_use_is_refused(heads, tmp_path):
    with only_one(tmp_path / "packed"):
        said = refuse(heads, tmp_path / "packed")
    assert "another process is writing into" in said


def test_the_last_shard_takes_the_rest():
    assert in_shards("abcde", 2) == [("a", "b"), ("c", "d"), ("e",)]
    assert in_shards("ab", 9) == [("a", "b")]


def test_a_case_that_is_gone_is_named(heads, tmp_path):
    shutil.rmtree(heads / "head03")
    with pytest.raises(UserError, match=r"head03/case.json is missing; restore or"):
        pack_dataset(heads, tmp_path / "packed")
    assert not list((tmp_path / "packed").glob("cases-*"))
