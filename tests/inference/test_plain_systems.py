"""Systems without D, and without alignment: what they have is scored and shown."""

import json
from dataclasses import replace

import numpy as np
import pytest

from adn_jax.config import AlignmentSettings
from adn_jax.data.cases import read_case
from adn_jax.evaluation.case import evaluate_case
from adn_jax.evaluation.evaluate import evaluate_run
from adn_jax.inference.chain import on_scan_grid
from adn_jax.inference.figures import maps_figure, overview_figure, scan_figure
from adn_jax.inference.predict import predict_scans
from adn_jax.inference.system import infer_case, load_system
from tests.tiny_runs import make_shown

OF_D = ("pathological", "anatomical", "salient", "compensated")


def without_d(maps, **more):
    return replace(maps, **dict.fromkeys(OF_D), **more)


def titles(figure):
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


def side_labels(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_a_run_without_d_is_evaluated(write_tiny_run, plain_recipe, tiny_data):
    evaluation = evaluate_run(write_tiny_run("plain", plain_recipe), tiny_data)
    assert evaluation.summary["disentanglement"] is None
    assert evaluation.summary["alignment_error_deg"]["network_alone"]["n"] == 3
    case = json.loads((evaluation.folder / "cases" / "turned.json").read_text())
    assert case["disentanglement"] == {}
    assert "auroc" not in (evaluation.folder / "per_case.csv").read_text()
    figures = {"overview", "segmentation", "maps", "alignment", "scores"}
    figures |= {"calibration"}
    written = (evaluation.folder / "figures").iterdir()
    assert {path.stem for path in written} == figures
    assert "X̂" not in (evaluation.folder / "report.html").read_text()


@pytest.fixture
def unaligned_run(write_tiny_run, plain_recipe):
    """F on the scan as it lies, beside its mirror image."""
    still = AlignmentSettings(network=False)
    recipe = plain_recipe.with_fields(segment_input="mirror_pair", alignment=still)
    return write_tiny_run("unaligned", recipe)


def test_a_run_without_alignment_claims_no_pose(unaligned_run, tiny_data):
    system, case = load_system(unaligned_run), read_case(tiny_data / "turned")
    maps, outputs = infer_case(system.model.params, case, system.model.recipe)
    assert maps.plane is maps.first_plane is maps.pathological is None
    np.testing.assert_array_equal(maps.aligned, case.volume)
    assert set(on_scan_grid(outputs)) == {"asymmetry"}
    result = evaluate_case(system, case, tiny_data / "turned", "penalise")
    assert result.pose == result.alignment == result.disentanglement == {}
    assert result.grids["native"].label_ml > 0


def test_a_report_without_alignment_draws_no_asymmetry(unaligned_run, tiny_data):
    evaluation = evaluate_run(unaligned_run, tiny_data)
    figures = {path.stem for path in (evaluation.folder / "figures").iterdir()}
    assert figures == {"overview", "segmentation", "scores", "calibration"}
    assert "symmetry" not in (evaluation.folder / "report.html").read_text()


def test_a_prediction_writes_what_there_is(unaligned_run, raw_head, tmp_path):
    assert predict_scans(unaligned_run, [raw_head], tmp_path / "out") == {}
    (folder,) = (tmp_path / "out").iterdir()
    volumes = {"lesion", "probability", "ct"}
    assert {path.name for path in folder.glob("*.nii.gz")} == {
        f"{name}.nii.gz" for name in volumes
    }
    facts = json.loads((folder / "scan.json").read_text())
    assert set(facts["units"]) == volumes
    of_the_mid_line = {"head_rotation_deg", "head_offset_mm", "pose_signs"}
    assert not {*of_the_mid_line, "lesion_side"} & set(facts)


def test_figures_draw_what_there_is(make_maps):
    plain = without_d(make_maps())
    assert titles(overview_figure(plain)) == [
        "scan I",
        "aligned X",
        "asymmetry A",
        "prediction",
    ]
    assert titles(maps_figure([plain], ["head"])) == ["X", "label", "prediction", "A"]
    words = side_labels(scan_figure(make_shown(plain), slices=2))
    assert "A" in words
    assert "P" not in words


def test_figures_draw_no_midline_that_was_not_looked_for(make_maps):
    still = without_d(make_maps(), plane=None, first_plane=None)
    figure = overview_figure(still)
    assert titles(figure) == ["scan I", "prediction"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "label",
        "prediction",
    ]
    legend = scan_figure(make_shown(still), slices=2).legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["prediction"]
