import platform
import subprocess
import sys

import pytest

COUNT = """
import resource, sys
from adn_jax.runtime.platform import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()

def touch():
    block = bytearray(64 * 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

before = touch()
print(touch() - before)
"""


def new_pages(how: str) -> int:
    """Page faults of a second block of 64 MiB after the first was freed."""
    command = [sys.executable, "-c", COUNT, how]
    return int(subprocess.check_output(command, text=True))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_is_taken_again_without_new_pages():
    assert new_pages("keep") < 20 < new_pages("give back")
