import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from adn_jax.errors import UserError
from adn_jax.io.files import read_json, write_json
from adn_jax.io.paths import (
    at_hand,
    is_remote,
    move_folder,
    read_bytes,
    spelled_out,
    to_place,
    upload,
)

PACKAGES = {"gs": "gcsfs", "s3": "s3fs"}


@pytest.fixture(params=["gcs", "s3"])
def place(request, tmp_path):
    """A folder of this test alone in either store."""
    store = request.getfixturevalue(request.param)
    return to_place(f"{store.bucket}/{tmp_path.name}")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_on_a_disk_is_an_ordinary_path(tmp_path):
    place = to_place(str(tmp_path))
    assert place == tmp_path
    assert not is_remote(place)
    with at_hand(place) as here:
        assert here == tmp_path


@pytest.mark.parametrize("address", ["http://host/data", "az://a/b", "file:///data"])
def test_other_stores_are_refused(address):
    with pytest.raises(UserError, match="is in no object store that is known here"):
        to_place(address)


def test_files_go_there_and_back(place, tmp_path):
    assert not place.exists()
    for name in ("b.json", "b[1].json", "b*.json"):
        write_json(place / "a" / name, {"c": name})
        assert read_json(place / "a" / name) == {"c": name}
    assert is_remote(place)
    assert spelled_out(place) == str(place)
    (tmp_path / "folder" / "below").mkdir(parents=True)
    (tmp_path / "folder" / "below" / "d").write_bytes(b"whole")
    upload(tmp_path / "folder", place)
    assert names(place) == ["a", "below"]
    assert read_bytes(place / "below" / "d") == b"whole"
    with pytest.raises(FileNotFoundError):
        read_bytes(place / "nothing")


@pytest.mark.parametrize("kind", ["disk", "gcs"])
def test_a_folder_moves_over_another(tmp_path, kind, request):
    place = tmp_path
    if kind != "disk":
        place = to_place(f"{request.getfixturevalue(kind).bucket}/{tmp_path.name}")
    write_json(place / "folder" / "below" / "a.json", 1)
    write_json(place / "moved" / "old.json", 2)
    move_folder(place / "folder", place / "moved")
    assert names(place) == ["moved"]
    assert names(place / "moved") == ["below"]
    assert read_json(place / "moved" / "below" / "a.json") == 1


def test_what_others_write_is_seen(place):
    write_json(place / "mine", 1)
    assert names(place) == ["mine"]
    protocol = str(place).partition("://")[0]
    theirs = f"fsspec.filesystem({protocol!r}).pipe({f'{place}/theirs'!r}, b'2')"
    subprocess.run([sys.executable, "-c", f"import fsspec; {theirs}"], check=True)
    assert names(place) == ["mine", "theirs"]
    assert (place / "theirs").exists()


def test_a_folder_at_hand_starts_with_copies(place):
    write_json(place / "wanted", 1)
    write_json(place / "other", 2)
    with at_hand(place, "wanted", "absent") as here:
        assert names(here) == ["wanted"]
        assert read_json(here / "wanted") == 1
        (here / "new").write_text("")
    assert not here.exists()
    assert names(place) == ["other", "wanted"]


@pytest.mark.parametrize("kind", ["gcs", "s3"])
def test_a_bucket_that_does_not_exist(kind, request):
    store = request.getfixturevalue(kind)
    place = to_place(store.bucket + "-elsewhere") / "file"
    assert not place.exists()
    with pytest.raises(UserError, match="file could not be written, for its bucket"):
        write_json(place, 1)


def pack(out, **variables):
    """What `pack` says of a folder in a store, and its exit code."""
    program = "from adn_jax.cli.main import main; main()"
    call = subprocess.run(
        [sys.executable, "-c", program, "pack", "nowhere", out],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert call.stdout == ""
    return call.returncode, call.stderr


class Refusing(BaseHTTPRequestHandler):
    """A store that wants other credentials."""

    def refuse(self):
        answer = b'{"error": {"code": 401, "message": "not you"}}'
        self.send_response(401)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer)

    do_GET = do_HEAD = refuse  # noqa: N815

    def log_message(self, *_):
        pass


def test_without_credentials_it_ends_with_one_sentence(gcs):
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        Thread(target=server.serve_forever).start()
        host = f"http://127.0.0.1:{server.server_port}"
        variables = {**gcs.variables, "STORAGE_EMULATOR_HOST": host}
        code, said = pack("gs://bucket/run", **variables)
        server.shutdown()
    assert code == 2
    assert said.startswith("adn: gs://bucket/run cannot be reached (not you, 401); ")
    assert said.count("\n") == 1


@pytest.mark.parametrize("store", PACKAGES)
def test_a_missing_package_is_named(store, tmp_path):
    absent = f'raise ImportError("No module named {PACKAGES[store]}")'
    (tmp_path / f"{PACKAGES[store]}.py").write_text(absent)
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    code, said = pack(f"{store}://bucket/run", PYTHONPATH=path)
    assert code == 2
    assert "needs the package of its object store" in said
    assert "pip install 'adn-jax[cloud]'" in said
    assert said.count("\n") == 1


def test_a_name_that_is_no_unicode_is_refused():
    with pytest.raises(UserError, match=r"the name caf\?\.nii is not UTF-8; rename it"):
        to_place(os.fsdecode(b"caf\xe9.nii"))
