import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from adn_jax.errors import UserError
from adn_jax.io.files import (
    atomic_path,
    check_fetched,
    check_replaceable,
    check_writable,
    files_below,
    is_there,
    is_vacant,
    read_json,
    remove_remains,
    write_json,
    write_text,
)


def names(folder):
    return sorted(path.name for path in folder.rglob("*"))


def test_a_file_appears_whole_under_its_name(tmp_path):
    with atomic_path(tmp_path / "new" / "a.nii.gz") as temporary:
        assert temporary.name.endswith(".nii.gz")
        temporary.write_text("whole")
        assert not (tmp_path / "new" / "a.nii.gz").exists()
    assert names(tmp_path) == ["a.nii.gz", "new"]


def test_a_folder_replaces_the_older_one(tmp_path):
    for file in ("old", "new"):
        with atomic_path(tmp_path / "case") as temporary:
            temporary.mkdir()
            (temporary / file).write_text("")
    assert names(tmp_path) == ["case", "new"]


@pytest.mark.parametrize("failure", [ZeroDivisionError(), UserError("no scan.")])
def test_a_failure_keeps_the_older_file_and_leaves_no_rest(tmp_path, failure):
    write_text(tmp_path / "a", "old")

    def fail():
        with atomic_path(tmp_path / "a") as temporary:
            temporary.write_text("half")
            raise failure

    with pytest.raises(type(failure)):
        fail()
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_a_full_disk_is_one_sentence(tmp_path):
    def fail():
        with atomic_path(tmp_path / "case") as temporary:
            temporary.mkdir()
            (temporary / "half").write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")

    message = r"case could not be written \(No space left on device\); free space"
    with pytest.raises(UserError, match=message):
        fail()
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/a could not be written"):
        write_text(tmp_path / "file" / "a", "text")


def test_what_a_killed_process_left_is_removed(tmp_path):
    program = """
import os, signal
from pathlib import Path
from adn_jax.io.files import atomic_path
with atomic_path(Path("a.nii.gz")) as file, atomic_path(Path("case")) as folder:
    file.touch()
    folder.mkdir()
    (folder / "half").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    run = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=False)
    assert run.returncode == -signal.SIGKILL
    write_text(tmp_path / ".hidden", "whole")
    for wanted, left in (({"other"}, 4), ({"case"}, 2), (None, 1)):
        remove_remains(tmp_path, wanted)
        assert len(names(tmp_path)) == left
    assert names(tmp_path) == [".hidden"]
    remove_remains(tmp_path / "missing")


def test_json_and_back(tmp_path):
    write_json(tmp_path / "a.json", {"b": [1, None]})
    assert read_json(tmp_path / "a.json") == {"b": [1, None]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", float("nan"))
    assert json.loads((tmp_path / "a.json").read_text()) == {"b": [1, None]}


def test_json_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match=r"a\.json does not exist"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_bytes(b'{"b": ')
    with pytest.raises(UserError, match=r"a\.json is not readable JSON"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("way", ["is_file", "open", "read_bytes"])
@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_a_file_that_the_system_does_not_give_is_named(
    tmp_path, monkeypatch, way, number
):
    write_json(tmp_path / "a.json", {})

    def refuse(*_):
        raise OSError(number, os.strerror(number), "elsewhere")

    monkeypatch.setattr(Path, way, refuse)
    message = rf"/a\.json could not be read \({os.strerror(number)}\); check its rights"
    with pytest.raises(UserError, match=message):
        read_json(tmp_path / "a.json")
    if way == "is_file":
        with pytest.raises(UserError, match=message):
            is_there(tmp_path / "a.json")


def test_a_folder_in_the_place_of_a_file(tmp_path):
    (tmp_path / "a.json").mkdir()
    with pytest.raises(UserError, match=r"a\.json could not be read \(Is a directory"):
        read_json(tmp_path / "a.json")


def test_a_link_to_nothing_is_there_but_not_fetched(tmp_path):
    (tmp_path / "whole").write_text("whole")
    for name, target in (("good", "whole"), ("gone", "/annex/gone"), ("self", "self")):
        (tmp_path / name).symlink_to(target)
    for name in ("whole", "good"):
        assert is_there(tmp_path / name)
        check_fetched(tmp_path / name)
    for name in ("gone", "self"):
        assert is_there(tmp_path / name)
        with pytest.raises(UserError, match=rf"{name} is a link whose target is miss"):
            check_fetched(tmp_path / name)
    assert not is_there(tmp_path / "missing")
    assert not is_there(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "/annex/objects/MD5E-s1896--439b33f3.nii.gz\n",
        "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    ],
)
def test_a_pointer_is_not_the_file(tmp_path, text):
    (tmp_path / "ct.nii.gz").write_text(text)
    with pytest.raises(UserError, match=r"ct\.nii\.gz only says where"):
        check_fetched(tmp_path / "ct.nii.gz")


def test_linked_folders_are_searched_once(tmp_path):
    top, store = tmp_path / "top", tmp_path / "store"
    (store / "deep").mkdir(parents=True)
    (store / "deep" / "file").touch()
    (top / "own").mkdir(parents=True)
    (top / "own" / "up").symlink_to(top)
    (store / "deep" / "back").symlink_to(store)
    for name in ("linked", "linked_again"):
        (top / name).symlink_to(store)
    (top / "own" / "file").touch()
    (top / "gone").symlink_to("nothing")
    (top / ".#lock").symlink_to("user@machine:1")
    assert [str(path.relative_to(top)) for path in files_below(top)] == [
        "gone",
        "linked/deep/file",
        "own/file",
    ]


def test_links_to_each_other_end(tmp_path):
    for name in "abcdefghijkl":
        (tmp_path / name).mkdir()
        for other in "abcdefghijkl":
            (tmp_path / name / other).symlink_to(tmp_path / other)
        (tmp_path / name / "file").touch()
    assert len(files_below(tmp_path)) == 12


def test_a_folder_is_tried_without_a_trace(tmp_path):
    check_writable(tmp_path / "a" / "b")
    check_writable(tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "b"):
        with pytest.raises(UserError, match="Not a directory"):
            check_writable(folder)


def test_a_folder_that_may_not_be_read_is_one_sentence(tmp_path, monkeypatch):
    def refuse(_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    for look in (is_vacant, lambda folder: check_replaceable(folder, "mark", ())):
        with pytest.raises(UserError, match="Permission denied"):
            look(tmp_path)
