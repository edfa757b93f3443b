"""What a compiler plans for a step: memory, cycles, copies, what devices exchange."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from adn_jax.benchmarks.budget import work_of
from adn_jax.benchmarks.hlo import Instruction, read_instructions
from adn_jax.runtime.capacity import CompiledMemory

COPIES = {"copy", "copy-start", "copy-done", "transpose", "reshape", "bitcast-convert"}
"""Opcodes that only lay an array out in another way, or elsewhere."""

COLLECTIVES = {
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "collective-permute",
    "all-to-all",
}

LARGE = 1 << 20
"""From so many bytes on an array counts as a map."""


@dataclass(frozen=True)
class PartCycles:
    """What a part of the system costs in a step, on one device."""

    name: str
    """T is align, D disentangle, F segment; tissue, loss, optimizer, augment, other."""
    cycles: int
    """Estimated by a TPU's compiler; 0 elsewhere."""
    copy_cycles: int
    """Those of them that only lay arrays out in another way."""


@dataclass(frozen=True)
class Exchange:
    """What devices send each other by one kind of operation, on one device."""

    kind: str
    count: int
    bytes: int
    """Size of the results."""


@dataclass(frozen=True)
class CompiledStep:
    """A step as a compiler plans it, on each device."""

    memory: CompiledMemory
    compile_s: float
    parts: tuple[PartCycles, ...]
    """The dearest first; without cycles by name."""
    exchanges: tuple[Exchange, ...]
    map_copy_bytes: int
    """Written by copies and transposes of maps."""
    channels_first: int
    """Convolutions whose maps have their channels before z, y and x."""
    convolutions: int

    @property
    def cycles(self) -> int:
        """Of the whole step."""
        return sum(part.cycles for part in self.parts)

    @property
    def copy_share(self) -> float:
        """Fraction of the cycles that only lay arrays out in another way."""
        copies = sum(part.copy_cycles for part in self.parts)
        return copies / self.cycles if self.cycles else 0.0


def read_program(text: str, memory: CompiledMemory, compile_s: float) -> CompiledStep:
    """Figures of a compiled program from its text (`compiled.as_text()`)."""
    instructions = list(read_instructions(text).values())
    layouts = [it.layout for it in instructions if it.layout]
    return CompiledStep(
        memory=memory,
        compile_s=compile_s,
        parts=_parts(instructions),
        exchanges=_exchanges(instructions),
        map_copy_bytes=sum(
            it.result_bytes
            for it in instructions
            if _copies(it) and it.result_bytes >= LARGE
        ),
        channels_first=sum(map(_is_channels_first, layouts)),
        convolutions=len(layouts),
    )


def _copies(instruction: Instruction) -> bool:
    return instruction.opcodes <= COPIES


def _parts(instructions: Iterable[Instruction]) -> tuple[PartCycles, ...]:
    cycles, copies = Counter[str](), Counter[str]()
    for instruction in instructions:
        part, *_ = work_of(instruction)
        cycles[part] += instruction.cycles
        copies[part] += instruction.cycles * _copies(instruction)
    dearest_first = sorted(cycles, key=lambda part: (-cycles[part], part))
    return tuple(PartCycles(part, cycles[part], copies[part]) for part in dearest_first)


def _exchanges(instructions: Iterable[Instruction]) -> tuple[Exchange, ...]:
    counts, sizes = Counter[str](), Counter[str]()
    for instruction in instructions:
        for opcode in instruction.opcodes:
            kind = opcode.removesuffix("-start")
            if kind in COLLECTIVES:
                counts[kind] += 1
                sizes[kind] += instruction.result_bytes
    return tuple(Exchange(kind, counts[kind], sizes[kind]) for kind in sorted(counts))


def _is_channels_first(layout: str) -> bool:
    """Whether the channels (f) of a convolution's input stand before its last axis.

    In `b012f_012io->b01f2` a digit is an axis of space, b the batch, f the channels.
    """
    maps = layout.partition("_")[0]
    return "f" in maps and maps.index("f") < max(map(maps.rfind, "012"))
