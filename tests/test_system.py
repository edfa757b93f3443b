"""From raw head CT to scores and maps: the verbs a user types, on small phantoms."""

import json
import shutil
from pathlib import Path

import highdicom
import nibabel as nib
import numpy as np
import pytest

from adn_jax.cli.main import main

CONFIG = str(Path(__file__).parents[1] / "configs" / "demo.py")
SMALL = [
    *("--prepare.shape", "8", "32", "32", "--prepare.spacing-mm", "18.0", "6.0", "6.0"),
    *("--alignment-net.widths", "4", "8", "--alignment.search-limit-deg", "30"),
    *("--disentangle-net.widths", "4", "8", "--segment-net.widths", "4", "8"),
    *("--disentangle-net.groups", "4", "--segment-net.groups", "4"),
    *("--align.steps", "2", "--align.batch", "2", "--align.validate-every", "2"),
    *("--joint.steps", "3", "--joint.batch", "2", "--joint.validate-every", "3"),
]
"""The demo's recipe, small enough for a test."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Phantoms, and a run trained and evaluated on them."""
    folder = tmp_path_factory.mktemp("system")
    raw, run = str(folder / "raw"), str(folder / "run")
    counts = ["--cases", "7", "--validation", "2", "--test", "3"]
    main(["phantom", raw, *counts, "--seed", "5", "--workers", "1"])
    data = ["--data", raw, "--run", run, "--workers", "1"]
    main(["train", CONFIG, *data, *SMALL])
    shutil.copyfile(folder / "run/index.html", folder / "trained.html")
    main(["evaluate", run])
    return folder


@pytest.fixture(scope="module")
def summary(folder):
    return json.loads((folder / "run/evaluation/test/summary.json").read_text())


@pytest.mark.slow
def test_scores_of_every_held_out_case(folder, summary):
    assert summary["cases"] == 3
    assert summary["grid"] == "native"
    for score in ("dice", "hd95_mm"):
        assert {"mean", "median", "std", "ci95", "n"} <= set(summary[score])
        assert summary[score]["n"] == 3
    table = (folder / "run/evaluation/test/per_case.csv").read_text().splitlines()
    assert len({line.split(",")[0] for line in table[1:]}) == 3


@pytest.mark.slow
def test_heads_are_upright_whatever_t_knows(summary):
    error = summary["alignment_error_deg"]
    assert error["median"] <= 1.5
    assert error["median"] < error["network_alone"]["median"]


@pytest.mark.slow
def test_disentanglement_is_scored_against_the_truth(summary):
    found = summary["disentanglement"]
    assert 0 <= found["auroc"]["mean"] <= 1
    assert found["auroc_asymmetry"]["mean"] > 0.5


@pytest.mark.slow
def test_report_and_figures_are_written(folder):
    evaluation = folder / "run/evaluation/test"
    assert "<html" in (evaluation / "report.html").read_text()
    assert len(list((evaluation / "figures").glob("*.png"))) >= 4


@pytest.mark.slow
def test_the_runs_first_page_tells_what_there_is(folder):
    trained = (folder / "trained.html").read_text()
    assert "None yet: <code>adn evaluate run</code>" in trained
    assert trained.count("data:image/svg+xml") == 4
    evaluated = (folder / "run/index.html").read_text()
    assert "None yet" not in evaluated
    for page in ("evaluation/test/report.html", "prepared/quality.html", "scans/"):
        assert page in evaluated


def assert_same_grid(results, scan):
    volumes = set(results.glob("*.nii.gz")) - set(results.glob("*_as_taken.nii.gz"))
    assert len(volumes) == 8
    for path in volumes:
        image = nib.load(path)
        assert image.shape == scan.shape
        np.testing.assert_allclose(image.affine, scan.affine, atol=1e-4)


@pytest.mark.slow
def test_prediction_lies_on_the_scans_grid(folder):
    scan = folder / "raw/phantom_0006/ct.nii.gz"
    main(["predict", str(folder / "run"), str(scan), "--out", str(folder / "out")])
    (results,) = (folder / "out").iterdir()
    assert_same_grid(results, nib.load(scan))
    assert json.loads((results / "scan.json").read_text())["lesion_volume_ml"] >= 0


@pytest.mark.slow
def test_training_again_finds_nothing_to_do(folder):
    stages = folder / "run/stages.json"
    before = stages.read_text(), stages.stat().st_mtime_ns
    data = ["--data", str(folder / "raw"), "--run", str(folder / "run")]
    main(["train", CONFIG, *data, "--workers", "1", *SMALL])
    assert (stages.read_text(), stages.stat().st_mtime_ns) == before


def assert_same_on_slices(results):
    """DICOM and NIfTI on the slices as taken hold the same, to a step of the former."""
    for name, step in (("lesion", 0), ("probability", 1 / 255)):
        path = results / "dicom" / f"{name}_seg.dcm"
        frames = highdicom.seg.segread(path).pixel_array.astype(float)
        wanted = np.asarray(nib.load(results / f"{name}_as_taken.nii.gz").dataobj)
        wanted = wanted.transpose(2, 1, 0)[::-1, ::-1]  # frames begin at the vertex
        if name == "probability":
            frames /= 255
        np.testing.assert_allclose(frames, wanted, rtol=0, atol=step / 2 + 1e-3)


@pytest.mark.shared
@pytest.mark.slow
def test_a_real_tilted_scan_comes_back_on_its_corrected_grid(folder, shared):
    dicom = shared / "data" / "ge_head_ct"
    run, out = str(folder / "run"), str(folder / "real")
    main(["predict", run, str(dicom), "--out", out, "--dicom"])
    (results,) = (folder / "real").iterdir()
    assert_same_on_slices(results)
    corrected = nib.load(results / "ct.nii.gz")
    assert_same_grid(results, corrected)
    assert corrected.shape == (512, 611, 38)
    assert nib.load(results / "lesion_as_taken.nii.gz").shape == (512, 512, 28)
    facts = json.loads((results / "scan.json").read_text())
    assert facts["flags"] == []
    assert 1000 < facts["quality"]["brain_ml"] < 1700
