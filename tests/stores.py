"""Object stores on this machine, for tests of what runs on them."""

import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from urllib.error import URLError
from urllib.request import urlopen

import pytest


@contextmanager
def serving(command: list[str], url: str, variables: Mapping[str, str]) -> Iterator:
    """A server until the end of the block, with the variables that lead to it."""
    with (
        pytest.MonkeyPatch.context() as patch,
        subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as server,
    ):
        for name, value in variables.items():
            patch.setenv(name, value)
        try:
            wait_for_answer(server, url)
            yield
        finally:
            server.terminate()


def wait_for_answer(server: subprocess.Popen, url: str) -> None:
    """Return when a server answers."""
    end = time.monotonic() + 60
    while server.poll() is None and time.monotonic() < end:
        try:
            urlopen(url).close()
        except URLError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError(f"{server.args} does not answer")
