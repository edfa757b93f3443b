"""When each instruction of a compiled program ran, from jax's profiler."""

import tempfile
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import NamedTuple

import jax
from jax.profiler import ProfileData, ProfileOptions


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
