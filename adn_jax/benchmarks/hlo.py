"""What each instruction of a compiled program does, and for which part of the code."""

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


@dataclass(frozen=True)
class Instruction:
    """One step of a compiled program that may take time of its own."""

    opcodes: frozenset[str]
    """What it does: its opcode, or those of the computation that it fuses."""
    scope: str
    """Where it comes from: jax's name stack; empty: unknown."""


@dataclass(frozen=True)
class _Line:
    opcode: str
    operands: tuple[str, ...]
    fused: str
    scope: str


def module_name(text: str) -> str:
    """Name of a compiled program, as `compiled.as_text()` tells it."""
    return text.split(maxsplit=2)[1].rstrip(",")


def read_instructions(text: str) -> dict[str, Instruction]:
    """Every instruction of a compiled program by its name.

    The compiler makes instructions without an origin: they take that of what they
    fuse, else of the nearest instruction that uses their result, else of an operand.
    """
    computations = _read_computations(text)
    found = {}
    for lines in computations.values():
        scopes = _fill_scopes(lines, computations)
        for name, line in lines.items():
            fused = computations.get(line.fused, {}).values()
            opcodes = {inner.opcode for inner in fused} - PLUMBING or {line.opcode}
            found[name] = Instruction(frozenset(opcodes), scopes[name])
    return found


def _read_computations(text: str) -> dict[str, dict[str, _Line]]:
    computations: dict[str, dict[str, _Line]] = {}
    lines: dict[str, _Line] = {}
    for row in text.splitlines():
        if start := COMPUTATION.match(row):
            lines = computations.setdefault(start[1], {})
        elif match := INSTRUCTION.match(row):
            lines[match["name"]] = _read_line(match["opcode"], match["rest"])
    return computations


def _read_line(opcode: str, rest: str) -> _Line:
    operands, _, attributes = rest.partition(")")
    fused = re.search(r"calls=%?([\w.\-]+)", attributes)
    scope = re.search(r'op_name="([^"]*)"', attributes)
    target = re.search(r'custom_call_target="([^"]*)"', attributes)
    return _Line(
        opcode=target[1] if target else opcode,
        operands=tuple(re.findall(r"%([\w.\-]+)", operands)),
        fused=fused[1] if fused else "",
        scope=scope[1] if scope else "",
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
