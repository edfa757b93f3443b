import pytest
from jax.profiler import ProfileData

from adn_jax.benchmarks.budget import Span, read_spans, shared_seconds

STATS = {"hlo_op": 1, "hlo_module": 2, "_p": 3, "_c": 4}


def plane(name, events):
    """Text of a plane; an event is (name, start and end in ns, its statistics)."""
    names = sorted({event[0] for event in events})
    rows = [
        f"events {{ metadata_id: {names.index(event) + 1} "
        f"offset_ps: {1000 * start} duration_ps: {1000 * (end - start)} "
        f"{stats_text(stats)} }}"
        for event, start, end, stats in events
    ]
    known = [
        f'event_metadata {{ key: {i} value {{ id: {i} name: "{each}" }} }}'
        for i, each in enumerate(names, 1)
    ]
    known += [
        f'stat_metadata {{ key: {i} value {{ id: {i} name: "{each}" }} }}'
        for each, i in STATS.items()
    ]
    lines = f'lines {{ id: 1 name: "thread" {" ".join(rows)} }}'
    return f'planes {{ name: "{name}" {lines} {" ".join(known)} }}'


def stats_text(stats):
    def value_text(value):
        is_text = isinstance(value, str)
        return f'str_value: "{value}"' if is_text else f"int64_value: {value}"

    return " ".join(
        f"stats {{ metadata_id: {STATS[key]} {value_text(value)} }}"
        for key, value in stats.items()
    )


def profile_of(*planes):
    text = " ".join(planes)
    return ProfileData.from_serialized_xspace(
        ProfileData.text_proto_to_serialized_xspace(text)
    )


HOST = plane(
    "/host:CPU",
    [
        ("conv.1", 0, 10, {"hlo_op": "conv.1", "hlo_module": "jit_step", "_p": 7}),
        ("end: conv.1", 50, 51, {"_c": 7}),
        ("add.1", 20, 30, {"hlo_op": "add.1", "hlo_module": "jit_step", "_p": 8}),
        ("end: add.1", 25, 26, {"_c": 8}),
        ("add.1", 60, 70, {"hlo_op": "add.1", "hlo_module": "jit_other"}),
        ("python", 0, 100, {}),
    ],
)


def test_cpu_events_last_until_their_work_is_done():
    (spans,) = read_spans(profile_of(HOST), "jit_step", {"conv.1", "add.1"})
    assert sorted(spans) == [Span(0, 50, "conv.1"), Span(20, 30, "add.1")]


def test_devices_have_planes_of_their_own():
    kernel = ("cutlass_kernel", 0, 4, {"hlo_op": "conv.1"})
    devices = [
        plane("/device:GPU:0", [kernel]),
        plane("/device:TPU:1", [("add.1", 5, 9, {}), ("unknown", 9, 12, {})]),
        plane("/device:GPU:2", [("memset", 5, 9, {})]),
    ]
    spans = read_spans(profile_of(HOST, *devices), "jit_step", {"conv.1", "add.1"})
    assert spans == [[Span(0, 4, "conv.1")], [Span(5, 9, "add.1")]]


def test_what_runs_at_once_shares_the_time():
    spans = [
        Span(0, 40, "conv"),
        Span(10, 20, "add"),
        Span(20, 40, "conv"),
        Span(20, 40, "add"),
        Span(100, 110, "copy"),
    ]
    seconds = shared_seconds(spans)
    assert seconds == pytest.approx(
        {"conv": 15e-9 + 40e-9 / 3, "add": 5e-9 + 20e-9 / 3, "copy": 10e-9}
    )
