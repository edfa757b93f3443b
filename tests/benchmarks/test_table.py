import io
from dataclasses import replace

from rich.console import Console

from adn_jax.benchmarks.job import PeakFigures
from adn_jax.benchmarks.table import report_sections
from adn_jax.report.tables import print_sections, to_markdown
from tests.benchmarks.records import JAX, full_record, ours, record, result


def printed(found, width=80):
    file = io.StringIO()
    print_sections(found, Console(file=file, width=width))
    return file.getvalue()


def test_a_column_for_each_system():
    machine, joint = report_sections(full_record())
    assert machine.title == "Fast CPU, 4 cores, 16 GB"
    assert machine.notes[0] == "jax 1.2, torch 3.4, Python 3.11.7"
    assert "float32 matrix product 200 GFLOP/s, copy 30.0 GB/s" in machine.notes[1]
    assert "Threads 4 and 2, load average 0.3 before and 2.1 after." in machine.notes[2]
    assert machine.notes[3].endswith("adn benchmark c.py")
    assert joint.title.startswith("Train step of D and F: tiny, batch 2, 16 x 16 x 16")
    assert joint.columns == ("", "ours", "peer eager")
    rows = {name: values for name, *values in joint.rows}
    assert rows["call, median"] == ["350 ms", "650 ms"]
    assert rows["quartiles"] == ["275 to 400", "575 to 725"]
    assert rows["calls"] == ["4", "4"]
    assert rows["scans/s"] == ["5.71", "3.08"]
    assert rows["compile, empty cache"] == ["10.0 s", "–"]
    assert rows["peak memory"] == ["2.00 GB", "4.00 GB"]
    assert rows["planned donated"] == ["0.0 MB", "–"]
    assert "call, many in a row" not in rows


def test_sentences_below_a_table():
    (_, joint) = report_sections(full_record())
    assert joint.notes == (
        "Ours takes 0.54 of the time of the fastest peer (peer eager) and 0.50 of its "
        "memory.",
        "peer compiled: no compiler; install one.",
        "Input: the pipeline alone gives 200 scans/s; a step takes 300 ms with one "
        "batch and 309 ms with a new one from disk each time, 1.030 of it.",
    )


def test_what_failed_is_told_without_a_table():
    failed = result(failure="too big.", what="inference")
    broken = result(failure="no data.", task="input")
    _, joint, inference = report_sections(record(failed, broken))
    assert (inference.rows, inference.notes) == ((), ("ours: too big.",))
    assert joint.notes == ("ours, input: no data.",)


def test_an_accelerator_names_itself():
    gpu = replace(JAX, platform="gpu", kind="H200", count=2)
    found = record(result(ours(2.5, pipelined_s=1.25)))
    found.peaks = PeakFigures(gpu, 7.9e14, 4.3e12)
    found.machine = replace(found.machine, driver="570.1")
    machine, joint = report_sections(found)
    assert machine.title == "2 x H200, Fast CPU, 4 cores, 16 GB"
    assert machine.notes[0].endswith("driver 570.1")
    assert ("call, many in a row", "1.25 s") in joint.rows


def test_terminal_and_markdown_tell_the_same():
    found = report_sections(full_record())
    terminal, markdown = printed(found), to_markdown(found)
    for text in (terminal, markdown):
        assert "350 ms" in text
        assert "peer compiled: no compiler; install one." in text
    assert "…" not in terminal
    assert (
        "|  | ours | peer eager |\n| --- | ---: | ---: |\n| call, median |" in markdown
    )
