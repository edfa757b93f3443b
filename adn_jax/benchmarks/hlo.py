"""What each instruction of a compiled program does, and for which part of the code."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
INSTRUCTION = re.compile(
    r"^\s+(?:ROOT )?%?(?P<name>[\w.\-]+) = "
    r"(?P<type>\((?:[^()]|\([^()]*\))*\)|\S+) "
    r"(?P<opcode>[\w\-]+)\((?P<rest>.*)$"
)
PLUMBING = {"parameter", "constant", "bitcast", "tuple", "get-tuple-element"}
"""Opcodes that move and compute nothing."""
ARRAY = re.compile(r"(?:pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")
"""An array's type, as bf16[1,40,256,256,32]: its bits (a pred has 8) and sizes."""
UNKNOWN_CYCLES = 1 << 60
"""A TPU's compiler writes such numbers where it has no estimate."""


@dataclass(frozen=True)
class Instruction:
    """One step of a compiled program that may take time of its own."""

    opcodes: frozenset[str]
    """What it does: its opcode, or those of the computation that it fuses."""
    scope: str
    """Where it comes from: jax's name stack; empty: unknown."""
    result_bytes: int = 0
    """Size of what it writes."""
    cycles: int = 0
    """What a TPU's compiler estimates for it, in all calls; 0 elsewhere."""
    layout: str = ""
    """Of a convolution, where batch, axes and channels stand (XLA's dim_labels)."""


@dataclass(frozen=True)
class _Line:
    opcode: str
    operands: tuple[str, ...]
    fused: str
    scope: str
    result_bytes: int
    cycles: int
    layout: str
    body: str
    trips: int


def module_name(text: str) -> str:
    """Name of a compiled program, as `compiled.as_text()` tells it."""
    return text.split(maxsplit=2)[1].rstrip(",")


def read_instructions(text: str) -> dict[str, Instruction]:
    """Every instruction of a compiled program by its name.

    The compiler makes instructions without an origin: they take that of what they
    fuse, else of the nearest instruction that uses their result, else of an operand.
    """
    computations = _read_computations(text)
    calls = _calls(computations)
    found = {}
    for computation, lines in computations.items():
        scopes = _fill_scopes(lines, computations)
        for name, line in lines.items():
            fused = computations.get(line.fused, {}).values()
            opcodes = {inner.opcode for inner in fused} - PLUMBING or {line.opcode}
            layouts = (inner.layout for inner in (line, *fused))
            found[name] = Instruction(
                opcodes=frozenset(opcodes),
                scope=scopes[name],
                result_bytes=line.result_bytes,
                cycles=line.cycles * calls[computation],
                layout=next(filter(None, layouts), ""),
            )
    return found


def _calls(computations: dict[str, dict[str, _Line]]) -> dict[str, int]:
    """How often each computation runs: bodies of loops as often as the loop turns."""
    calls = dict.fromkeys(computations, 1)
    # a computation stands before those that call it
    for computation in reversed(computations):
        for line in computations[computation].values():
            if line.body:
                calls[line.body] = calls[computation] * line.trips
    return calls


def array_bytes(types: str) -> int:
    """Bytes of the arrays in a type, of all in a tuple."""
    total = 0
    for bits, sizes in ARRAY.findall(types):
        count = math.prod(map(int, filter(None, sizes.split(","))))
        total += count * int(bits or 8) // 8
    return total


def _read_computations(text: str) -> dict[str, dict[str, _Line]]:
    computations: dict[str, dict[str, _Line]] = {}
    lines: dict[str, _Line] = {}
    for row in text.splitlines():
        if start := COMPUTATION.match(row):
            lines = computations.setdefault(start[1], {})
        elif match := INSTRUCTION.match(row):
            lines[match["name"]] = _read_line(*match.group("type", "opcode", "rest"))
    return computations


def _read_line(types: str, opcode: str, rest: str) -> _Line:
    operands, _, attributes = rest.partition(")")

    def attribute(pattern: str) -> str:
        found = re.search(pattern, attributes)
        return found[1] if found else ""

    cycles = int(attribute(r'"estimated_cycles":"(\d+)"') or 0)
    return _Line(
        opcode=attribute(r'custom_call_target="([^"]*)"') or opcode,
        operands=tuple(re.findall(r"%([\w.\-]+)", operands)),
        fused=attribute(r"calls=%?([\w.\-]+)"),
        scope=attribute(r'op_name="([^"]*)"'),
        result_bytes=array_bytes(types),
        cycles=cycles if cycles < UNKNOWN_CYCLES else 0,
        layout=attribute(r"dim_labels=(\w+->\w+|\w+)"),
        body=attribute(r"body=%?([\w.\-]+)"),
        trips=int(attribute(r'"known_trip_count":\{"n":"(\d+)"') or 1),
    )


def _fill_scopes(
    lines: Mapping[str, _Line], computations: Mapping[str, Mapping[str, _Line]]
) -> dict[str, str]:
    """The scope of each instruction of a computation, found or taken over."""
    users = defaultdict(list)
    for name, line in lines.items():
        for operand in line.operands:
            users[operand].append(name)
    scopes = {}
    for name, line in lines.items():
        fused = computations.get(line.fused, {}).values()
        inside = Counter(inner.scope for inner in fused if inner.scope)
        scopes[name] = line.scope or next(iter(dict(inside.most_common(1))), "")
    # instructions stand after their operands, so one pass each way is enough
    for name in reversed(scopes):
        near = (scopes[user] for user in users[name])
        scopes[name] = scopes[name] or next(filter(None, near), "")
    for name, line in lines.items():
        near = (scopes.get(operand, "") for operand in line.operands)
        scopes[name] = scopes[name] or next(filter(None, near), "")
    return scopes
