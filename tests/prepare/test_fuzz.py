"""500 damaged scans: each is refused in a sentence or prepared (see `fuzz.py`)."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.hold import PATIENCE

NIFTIS, DICOMS = 440, 60
SECONDS_A_CASE = 60


@pytest.mark.slow
def test_every_damaged_scan_is_refused_or_prepared():
    done = subprocess.run(
        [sys.executable, "-m", "tests.prepare.fuzz", str(NIFTIS), str(DICOMS)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    results = json.loads(done.stdout)
    assert len(results) == NIFTIS + DICOMS
    broken = [one for one in results if one["found"] == "broken"]
    assert not broken, broken[0]["words"]
    assert max(one["seconds"] for one in results) < SECONDS_A_CASE
    counts = Counter(one["found"] for one in results)
    assert min(counts["refused"], counts["prepared"]) > 100
    assert all(one["words"] for one in results if one["found"] == "refused")
