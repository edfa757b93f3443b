import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from adn_jax.errors import is_out_of_memory
from adn_jax.runtime import capacity
from adn_jax.runtime.capacity import (
    CompiledMemory,
    MemoryShortageError,
    cgroup_limits,
    check_memory,
    compile_to_fit,
    host_limits,
    limits_upwards,
    shortage_of_compiler,
)

GB = 10**9

PLAN = CompiledMemory(arguments=3 * GB, outputs=GB, aliased=GB, temporaries=9 * GB)


def advice(demand, there):
    return f"{demand.fixed} and {demand.temporaries} of {there}"


@pytest.fixture
def memory(monkeypatch):
    """Lets the machine have as much as a test says."""

    def set_to(size):
        monkeypatch.setattr(capacity, "memory_there", lambda _: size)

    return set_to


def test_a_plan_that_exceeds_the_memory_is_refused_with_what_is_needed(memory):
    memory(10 * GB)
    with pytest.raises(MemoryShortageError, match=r"^it needs 12\.0 GB .* 10\.0 GB"):
        check_memory(PLAN, "it", advice)
    memory(12 * GB)
    check_memory(PLAN, "it", advice)
    memory(None)
    check_memory(PLAN, "it", advice)


def test_devices_of_a_cpu_share_its_memory(memory):
    memory(20 * GB)
    wanted = "6000000000 and 18000000000 of 20000000000"
    with pytest.raises(MemoryShortageError, match=wanted):
        check_memory(PLAN, "it", advice, devices=2)


def test_it_can_be_tried_all_the_same(memory, monkeypatch):
    memory(1)
    monkeypatch.setenv(capacity.MEMORY_OVERRIDE, "1")
    check_memory(PLAN, "it", advice)


def test_the_compiled_program_is_the_one_that_was_checked(memory):
    memory(2**40)
    lowered = jax.jit(lambda x: x + 1).lower(jnp.zeros(3))
    program = compile_to_fit(lowered, "it", advice)
    assert program(jnp.ones(3)).tolist() == [2, 2, 2]
    memory(5)
    with pytest.raises(MemoryShortageError):
        compile_to_fit(lowered, "it", advice)


def test_the_refusal_of_a_tpu_compiler_becomes_the_same_sentence():
    said = (
        "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. "
        "Used 27.50G of 15.75G hbm."
    )
    error = jax.errors.JaxRuntimeError(said)
    assert is_out_of_memory(error)
    sentence = str(shortage_of_compiler(error, "it", advice))
    assert sentence.startswith("it needs 29.5 GB of memory, and a device has 16.9 GB")
    other = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: no sizes")
    assert "no sizes" in str(shortage_of_compiler(other, "it", advice))
    assert not is_out_of_memory(jax.errors.JaxRuntimeError("INTERNAL: it broke"))


def test_the_machine_has_some_memory_left():
    meminfo = Path("/proc/meminfo").read_text().splitlines()
    total = next(int(line.split()[1]) for line in meminfo if "MemTotal" in line)
    swap = next(int(line.split()[1]) for line in meminfo if "SwapTotal" in line)
    assert 0 < min(host_limits()) <= 1024 * (total + swap)


def write_group(folder, limit, used, cached):
    folder.mkdir(parents=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 1\ninactive_file {cached}\n")


def test_every_control_group_above_limits(tmp_path):
    write_group(tmp_path / "pod", 1000, 700, 50)
    write_group(tmp_path / "pod/job", "max", 300, 0)
    write_group(tmp_path / "pod/job/step", 400, 500, 0)
    names = ("memory.max", "memory.current", "inactive_file")
    assert [*limits_upwards(tmp_path, "/pod/job/step", *names)] == [0, 350]
    assert [*limits_upwards(tmp_path, "/not/here", *names)] == []


def test_a_group_of_version_1_is_read(tmp_path, monkeypatch):
    lines = {"/proc/self/cgroup": ["5:cpu:/", "4:memory:/job"]}
    group = f"{tmp_path}/memory/job"
    lines[f"{group}/memory.limit_in_bytes"] = ["900"]
    lines[f"{group}/memory.usage_in_bytes"] = ["100"]
    monkeypatch.setattr(capacity, "CGROUPS", tmp_path)
    monkeypatch.setattr(capacity, "read_lines", lambda path: lines.get(str(path), []))
    assert [*cgroup_limits()] == [800]


LIMITED = """
import resource
from adn_jax.runtime.capacity import own_limit
assert not list(own_limit())
_, most = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (2**32, most))
print(*own_limit())
"""


def test_the_limit_of_the_shell_counts():
    left = int(subprocess.check_output([sys.executable, "-c", LIMITED], text=True))
    assert 2**31 < left < 2**32
