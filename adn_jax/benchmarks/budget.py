"""Where the time of a step goes, part by part, beside what the hardware would allow.

jax's profiler tells when each instruction of the compiled step ran; the instruction's
name stack in `compiled.as_text()` tells its part of the system (`jax.named_scope`), its
layer (flax's module names) and its direction (`transpose(` is backward). A fused
instruction counts as what its last operation is, unless it holds a convolution.

Tried on CPUs, where instructions overlap and share the time (`shared_seconds`). The
parsing asks for nothing that is particular to a CPU, but has not met a GPU's profile
yet. There, kernels inside a CUDA graph may lack names: graphs are turned off by
`XLA_FLAGS=--xla_gpu_enable_command_buffer=`.
"""

import re
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
from jax.profiler import ProfileData, ProfileOptions
from jax.stages import Compiled

from adn_jax.benchmarks.hlo import Instruction, module_name, read_instructions
from adn_jax.models.cost import NetworkCost

PARTS = ("augment", "align", "disentangle", "segment", "tissue", "loss", "optimizer")
"""Named scopes of the parts of a step; the outermost counts."""

GRADIENTS = {
    "input_gradient": "input gradient",
    "kernel_gradient": "kernel gradient",
}
"""Named scopes of the two halves of a convolution's own gradient."""

KINDS = {
    "dropout": r"/dropout\b",
    "pooling": r"/max_pool\b",
    "normalisation": r"/norm(_\d+)?/",
    "layout of convolution": r"/(convolution|conv_\d+|down|head)/",
    "up-sampling": r"/up_\d+/",
    "activation": r"jit\(relu\)|/(encoder|decoder|stage)_\d+/[\w.\-]+$",
}
"""Work of a network that is no convolution, by what its name stack holds; the first
that fits. An activation takes the sum of a residual block with it."""

CONVOLUTION = re.compile(r"convolution|conv(Forward|Backward)", re.IGNORECASE)

PRODUCT = re.compile(r"dot|gemm|matmul", re.IGNORECASE)

LAYER = re.compile(r"/(convolution|conv_\d+|down|head|up_\d+)/[^,]*$")
"""A product in a layer is its convolution, unless it is an einsum, which has commas."""

CONTAINERS = {"while", "call", "conditional"}
"""Instructions whose time is that of others."""

SAMPLING = {"gather", "scatter"}

MOVING = {"copy", "transpose", "reshape", "slice", "pad", "concatenate"}

REDUCING = {"reduce", "reduce-window"}

Work = tuple[str, str, str]
"""Part of the system, kind of work, direction."""


class Span(NamedTuple):
    """One run of an instruction; times in nanoseconds."""

    start: float
    end: float
    name: str


def record_profile(run: Callable[[], object], steps: int) -> tuple[ProfileData, float]:
    """Profile `steps` calls of `run`, each until its result is there.

    Returns:
        The profile, and the seconds of a call on the clock.
    """
    options = ProfileOptions()
    options.python_tracer_level = 0
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            start = time.perf_counter()
            for _ in range(steps):
                jax.block_until_ready(run())
            seconds = (time.perf_counter() - start) / steps
        (path,) = Path(folder).rglob("*.xplane.pb")
        return ProfileData.from_file(str(path)), seconds


def read_spans(
    profile: ProfileData, module: str, names: Collection[str]
) -> list[list[Span]]:
    """The runs of the instructions `names` of the program `module`, for each device.

    An event belongs to the instruction that its statistic `hlo_op` tells, else to the
    one of its own name. On a CPU an event ends when its thread is free again; the work
    that it has handed to other threads is over at a second event, `end: ` and the name.
    Where devices have planes of their own, the host's are left out.
    """
    with warnings.catch_warnings():
        # Python 3.12 warns of jaxlib's types; made an error, that ends the process
        warnings.filterwarnings("ignore", "builtin type", DeprecationWarning)
        found = {
            plane.name: _read_plane(plane, module, names) for plane in profile.planes
        }
    filled = {name: spans for name, spans in found.items() if spans}
    devices = [spans for name, spans in filled.items() if name.startswith("/device:")]
    return devices or list(filled.values())


def _read_plane(plane, module: str, names: Collection[str]) -> list[Span]:
    started, ends = [], {}
    for line in plane.lines:
        for event in line.events:
            stats = dict(event.stats)
            name = stats.get("hlo_op", event.name)
            if event.name.startswith("end: "):
                ends[stats.get("_c")] = event.start_ns
            elif name in names and stats.get("hlo_module", module) == module:
                started.append((event.start_ns, event.end_ns, name, stats.get("_p")))
    return [
        Span(start, max(end, ends.get(work, end)), name)
        for start, end, name, work in started
    ]


def shared_seconds(spans: Iterable[Span]) -> dict[str, float]:
    """Seconds of each name, where what runs at the same moment shares it equally.

    So the sum is the time in which anything ran.
    """
    moments = sorted(
        (time, step, span.name)
        for span in spans
        for time, step in ((span.start, 1), (span.end, -1))
    )
    seconds: dict[str, float] = defaultdict(float)
    running: Counter[str] = Counter()
    last = 0.0
    for now, step, name in moments:
        for each, count in running.items():
            seconds[each] += (now - last) * 1e-9 * count / running.total()
        running[name] += step
        if not running[name]:
            del running[name]
        last = now
    return dict(seconds)


@dataclass(frozen=True)
class Hardware:
    """What a step has to do, and what the machine can do at best."""

    networks: tuple[NetworkCost, ...]
    """The networks of the step, for one volume."""
    batch: int
    bytes_a_number: int
    """Size of a number in a feature map."""
    flops: float
    """Multiplications and additions a second."""
    bytes_a_second: float
    """Bytes read and written a second."""


@dataclass(frozen=True)
class BudgetRow:
    """Work of one kind in one part of a step; times in seconds a step."""

    part: str
    kind: str
    direction: str
    seconds: float
    share: float
    """Of the step's time on the clock."""
    compute_floor: float
    """Time for its multiplications, as accelerators compute them, at the best rate."""
    memory_floor: float
    """Least time for its feature maps' way from and to memory."""


@dataclass(frozen=True)
class Budget:
    """A step's time, split up; the rows' shares need not add up to one."""

    step_s: float
    """Seconds of a step on the clock, while it was profiled."""
    rows: tuple[BudgetRow, ...]
    """The longest first."""

    @property
    def coverage(self) -> float:
        """Share of the time on the clock that the rows explain."""
        return sum(row.share for row in self.rows)


def step_budget(
    run: Callable[[], object],
    compiled: Compiled,
    hardware: Hardware | None = None,
    steps: int = 3,
) -> Budget:
    """Profile `steps` calls of a compiled step and split their time up.

    Args:
        run: makes one call of `compiled`, of no other program; called before.
        compiled: the step's executable. Where it may come from the persistent cache,
            that has to keep names apart
            (`jax_compilation_cache_include_metadata_in_key`), or they may be those of
            older code.
        hardware: what the floors are counted with; None: floors are 0.
        steps: calls to profile.

    With several devices, times are those of the average device.
    """
    text = compiled.as_text()
    assert text is not None  # every XLA backend has it
    instructions = {
        name: instruction
        for name, instruction in read_instructions(text).items()
        if not instruction.opcodes & CONTAINERS
    }
    profile, step_s = record_profile(run, steps)
    devices = read_spans(profile, module_name(text), instructions)
    seconds: dict[Work, float] = defaultdict(float)
    for spans in devices:
        for name, busy in shared_seconds(spans).items():
            seconds[work_of(instructions[name])] += busy / steps / len(devices)
    return make_budget(seconds, step_s, floors(hardware) if hardware else {})


def make_budget(
    seconds: Mapping[Work, float],
    step_s: float,
    floors: Mapping[Work, tuple[float, float]],
) -> Budget:
    """The rows of measured times and of floors, the longest first."""
    rows = [
        BudgetRow(*work, time, time / step_s, *floors.get(work, (0.0, 0.0)))
        for work in {*seconds, *floors}
        for time in [seconds.get(work, 0.0)]
    ]
    return Budget(step_s, tuple(sorted(rows, key=lambda row: -row.seconds)))


def work_of(instruction: Instruction) -> Work:
    """Part, kind and direction of an instruction."""
    names = re.findall(r"\w+", instruction.scope)
    part = next((name for name in names if name in PARTS), "other")
    kind = kind_of_work(instruction)
    direction = "backward" if "transpose(" in instruction.scope else "forward"
    if kind == "convolution" and direction == "backward":
        asked = (GRADIENTS[name] for name in names if name in GRADIENTS)
        direction = next(asked, direction)
    return part, kind, direction


def kind_of_work(instruction: Instruction) -> str:
    """What an instruction does: by its name stack in a network, else by its opcodes."""
    opcodes, scope = instruction.opcodes, instruction.scope
    words = " ".join(opcodes)
    if CONVOLUTION.search(words) or (PRODUCT.search(words) and LAYER.search(scope)):
        return "convolution"
    for kind, pattern in KINDS.items():
        if re.search(pattern, scope):
            return kind
    if opcodes & SAMPLING:
        return "sampler"
    if opcodes <= MOVING:
        return "copy"
    return "reduction" if opcodes & REDUCING else "elementwise"


def floors(hardware: Hardware) -> dict[Work, tuple[float, float]]:
    """Least seconds for the multiplications and for the memory traffic, by work.

    Forms with fewer multiplications than the accelerators' may take less.
    """
    flops: dict[Work, float] = defaultdict(float)
    numbers: dict[Work, float] = defaultdict(float)
    for network in hardware.networks:
        for direction, count in network.computed_flops.items():
            flops[network.part, "convolution", direction] += count
        for (kind, direction), count in network.elements.items():
            numbers[network.part, kind, direction] += count
    number_s = hardware.bytes_a_number / hardware.bytes_a_second
    return {
        work: (
            hardware.batch * flops[work] / hardware.flops,
            hardware.batch * numbers[work] * number_s,
        )
        for work in {*flops, *numbers}
    }
