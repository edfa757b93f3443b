"""The real `adn prepare`, killed at random moments, ends as an undisturbed one does."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import psutil
import pytest

from tests.hold import PATIENCE, wait_until

ROOT = Path(__file__).parents[2]

CASES = int(os.environ.get("SURVIVAL_CASES", "16"))
KILLS = 3 if CASES >= 100 else 2
"""SURVIVAL_CASES=200 is the long run: several minutes on two cores."""

LAST = f"head_{CASES - 1:03}"
"""The case that waits until told: before that no run comes to its end."""

GRID = ["--shape", "12", "24", "24", "--spacing-mm", "12", "8", "8", "--workers", "2"]


@pytest.fixture(scope="module")
def many(make_head, tmp_path_factory):
    """Small heads that differ in brightness, and two that cannot be prepared."""
    head = make_head(shape=(24, 48, 48), spacing=(6.5, 4.4, 4.4))
    folder = tmp_path_factory.mktemp("many") / "raw"
    for number in range(CASES):
        case = folder / f"head_{number:03}"
        case.mkdir(parents=True)
        hu = np.asarray(head.ct.dataobj) + np.int16(number % 9)
        nib.Nifti1Image(hu, head.ct.affine).to_filename(case / "ct.nii.gz")
        head.lesion.to_filename(case / "lesion.nii.gz")
    for number in (1, 7):
        (folder / f"head_{number:03}" / "ct.nii.gz").write_bytes(b"no image")
    return folder


@pytest.fixture
def start(many, tmp_path):
    """Start `adn prepare`, leader of a process group, as a shell does.

    A runner in the background ignores Ctrl-C, which its children would inherit.
    """
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    started = []

    def begin(hold=None):
        held = ["tests.prepare.held", str(hold.folder), LAST] if hold else []
        verb = ["prepare", str(many), str(tmp_path / "out"), *GRID]
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", *(held or ["adn_jax"]), *verb],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        )
        return started[-1]

    yield begin
    signal.signal(signal.SIGINT, former)
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def finished(out):
    return len(list(out.glob("*/case.json")))


def contents(folder):
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def end_whole(process):
    """Wait for the end of a run that has two cases it cannot prepare."""
    output, _ = process.communicate()
    assert process.returncode == 2, output
    assert f"{CASES - 2} prepared cases" in output
    assert output.count("is left out: ") == 2


def workers_of(process):
    return psutil.Process(process.pid).children(recursive=True)


def kill(process, group):
    """SIGKILL for the process alone or its group; its workers end in either case."""
    workers = workers_of(process)
    (os.killpg if group else os.kill)(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert workers
    _, alive = psutil.wait_procs(workers, timeout=PATIENCE)
    assert not alive, "a worker outlives its parent"


@pytest.mark.slow
def test_killed_preparation_ends_with_the_same_bytes(start, new_hold, tmp_path):
    out = tmp_path / "out"
    end_whole(start())
    out.rename(tmp_path / "undisturbed")
    moments = random.Random(7)
    for part in range(KILLS):
        first, last = (CASES * end // KILLS for end in (part, part + 1))
        wanted = moments.randint(first + 1, last - 3)
        process = start(new_hold())
        wait_until(
            lambda process=process, wanted=wanted: (
                finished(out) >= wanted and workers_of(process)
            ),
            process,
        )
        time.sleep(moments.uniform(0, 0.3))
        kill(process, group=part % 2 == 1)
        assert not (out / "manifest.json").exists()
    process = start()
    end_whole(process)
    ours, theirs = contents(out), contents(tmp_path / "undisturbed")
    assert ours.keys() == theirs.keys()
    assert {"manifest.json", "quality.csv", "quality.html", "report.md"} < set(ours)
    assert [name for name in ours if ours[name] != theirs[name]] == []


@pytest.mark.slow
def test_it_stops_in_one_sentence_and_has_the_folder_to_itself(
    start, new_hold, tmp_path
):
    out = tmp_path / "out"
    for number, blow in ((signal.SIGINT, os.killpg), (signal.SIGTERM, os.kill)):
        hold = new_hold()
        process = start(hold)
        hold.until_arrived(process)
        if number == signal.SIGINT:
            refused, _ = start().communicate()
            assert refused.startswith("adn: another process is writing into"), refused
            assert process.poll() is None
        blow(process.pid, number)
        output, _ = process.communicate()
        assert process.returncode == 128 + number, output
        last = output.strip().splitlines()[-1]
        assert last == "adn: stopped; the same command continues."
        assert "Traceback" not in output
        assert not (out / "manifest.json").exists()
