"""Whether a compiled program fits into memory, asked before it runs."""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adn_jax.errors import UserError, is_out_of_memory, one_line
from adn_jax.runtime.platform import compiler_options

MEMORY_OVERRIDE = "ADN_ANY_MEMORY"
"""Variable of the environment that lets programs run whatever they plan for."""

GB = 10**9

COMPILER_WANTS = re.compile(r"Used ([\d.]+)([GM]) of ([\d.]+)([GM])")
"""How a TPU's compiler says that a program does not fit."""

CGROUPS = Path("/sys/fs/cgroup")


class MemoryShortageError(UserError):
    """A program needs more memory than there is."""


@dataclass(frozen=True)
class CompiledMemory:
    """Bytes that the compiler plans for on each device."""

    arguments: int
    outputs: int
    aliased: int
    """Share of the outputs that reuses donated arguments."""
    temporaries: int

    @classmethod
    def of(cls, program: Any) -> "CompiledMemory":
        """What the compiler plans for (`program` is a `jax.stages.Compiled`)."""
        sizes = program.memory_analysis()
        return cls(
            arguments=sizes.argument_size_in_bytes,
            outputs=sizes.output_size_in_bytes,
            aliased=sizes.alias_size_in_bytes,
            temporaries=sizes.temp_size_in_bytes,
        )

    @property
    def total(self) -> int:
        """Everything that is alive at once."""
        return self.arguments + self.outputs - self.aliased + self.temporaries


@dataclass(frozen=True)
class Demand:
    """What a program needs of the memory in which it runs, in bytes."""

    fixed: int
    """Parameters, optimizer, inputs and results."""
    temporaries: int
    """Maps: they grow with the cases that are computed at once."""

    @property
    def total(self) -> int:
        """Both."""
        return self.fixed + self.temporaries


Advice = Callable[[Demand, int], str]
"""(needed, bytes that are there) -> what to do, without a full stop."""


def compile_to_fit(lowered: Any, what: str, advice: Advice, devices: int = 1) -> Any:
    """Compile a `jax.stages.Lowered`, and refuse a program that cannot run.

    Args:
        lowered: the program.
        what: how an error calls it ("stage joint").
        advice: what makes it smaller.
        devices: those of this process, which share one memory on a CPU.

    Raises:
        MemoryShortageError: it needs more than there is. With `ADN_ANY_MEMORY` in the
            environment it is tried all the same.
    """
    try:
        program = lowered.compile(compiler_options())
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise shortage_of_compiler(error, what, advice) from error
    check_memory(CompiledMemory.of(program), what, advice, devices)
    return program


def check_memory(
    planned: CompiledMemory, what: str, advice: Advice, devices: int = 1
) -> None:
    """Raise `MemoryShortageError` if a plan exceeds the memory that is there."""
    import jax

    device = jax.local_devices()[0]
    sharing = devices if device.platform == "cpu" else 1
    fixed = (planned.total - planned.temporaries) * sharing
    demand = Demand(fixed, planned.temporaries * sharing)
    there = memory_there(device)
    if there is None or demand.total <= there or MEMORY_OVERRIDE in os.environ:
        return
    owner = "this machine" if device.platform == "cpu" else f"a {device.device_kind}"
    raise _shortage(demand, there, what, advice, owner)


def _shortage(
    demand: Demand, there: int, what: str, advice: Advice, owner: str
) -> MemoryShortageError:
    """The sentence for a program that needs more than there is."""
    return MemoryShortageError(
        f"{what} needs {in_gb(demand.total)} of memory, and {owner} has "
        f"{in_gb(there)} for it; {advice(demand, there)}. ({MEMORY_OVERRIDE}=1 in the "
        "environment tries it all the same.)"
    )


def shortage_of_compiler(
    error: Exception, what: str, advice: Advice
) -> MemoryShortageError:
    """The same from the refusal of a compiler, which tells sizes or not."""
    if found := compiler_wants(str(error)):
        needed, there = found
        return _shortage(Demand(0, needed), there, what, advice, "a device")
    return MemoryShortageError(
        f"{what} does not fit into memory ({one_line(error)[:200]}); lower the batch "
        "or the grid, or take a device with more memory."
    )


def compiler_wants(message: str) -> tuple[int, int] | None:
    """Bytes that a TPU's compiler wants and has, from its refusal; None: not told."""
    if not (found := COMPILER_WANTS.search(message)):
        return None
    unit = {"G": 2**30, "M": 2**20}
    wanted, there = (
        round(float(found[place]) * unit[found[place + 1]]) for place in (1, 3)
    )
    return wanted, there


def in_gb(size: int) -> str:
    """Bytes as text."""
    return f"{size / GB:.1f} GB"


def memory_there(device: Any) -> int | None:
    """Bytes that a program may take on a jax device; None if nothing tells."""
    if device.platform == "cpu":
        return min(host_limits(), default=None)
    return (device.memory_stats() or {}).get("bytes_limit")


def host_limits() -> Iterator[int]:
    """Bytes that this process may still take: of the machine, swap included, of the
    control groups around it, and of its own address space."""
    lines = read_lines(Path("/proc/meminfo"))
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    if "MemAvailable" in kilobytes:
        free = kilobytes["MemAvailable"] + kilobytes.get("SwapFree", 0)
        yield 1024 * free
    yield from cgroup_limits()
    yield from own_limit()


def cgroup_limits() -> Iterator[int]:
    """What the control groups (version 1 or 2) of this process leave."""
    for line in read_lines(Path("/proc/self/cgroup")):
        _, kinds, path = line.split(":", 2)
        if kinds == "":
            yield from limits_upwards(
                CGROUPS, path, "memory.max", "memory.current", "inactive_file"
            )
        elif "memory" in kinds.split(","):
            yield from limits_upwards(
                CGROUPS / "memory",
                path,
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                "total_inactive_file",
            )


def limits_upwards(
    root: Path, path: str, limit: str, used: str, cached: str
) -> Iterator[int]:
    """What a group and those above it leave; what they only cache counts as free."""
    group = root / path.lstrip("/")
    for folder in (group, *group.parents):
        if not folder.is_relative_to(root):
            return
        most, now = read_lines(folder / limit), read_lines(folder / used)
        if most and now and most[0].isdigit():
            stat = dict(line.split() for line in read_lines(folder / "memory.stat"))
            yield max(int(most[0]) - int(now[0]) + int(stat.get(cached, 0)), 0)


def own_limit() -> Iterator[int]:
    """What `ulimit -v` leaves, if it is set."""
    try:
        import resource
    except ImportError:  # Windows
        return
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    pages = read_lines(Path("/proc/self/statm"))
    if most != resource.RLIM_INFINITY and pages:
        yield max(most - int(pages[0].split()[0]) * resource.getpagesize(), 0)


def read_lines(path: Path) -> list[str]:
    """Lines of a file of the system; none if it cannot be read."""
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
