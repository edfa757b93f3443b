"""ONNX of a chain gives our maps in onnxruntime."""

import json
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest

from adn_jax.config import AlignmentSettings, AsymmetrySettings
from adn_jax.errors import UserError
from adn_jax.inference.export import MEANINGS, export_model
from adn_jax.pipeline.adn import apply_adn, init_adn
from adn_jax.training.runs import write_run
from tests.benchmarks.torch_reference.ours import (
    NET,
    RECIPE,
    SHAPE,
    by_name,
    draw_params,
)

pytest.importorskip("torch")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

BOTH_SIDES = RECIPE.with_fields(
    asymmetry=AsymmetrySettings(pathological="part", rim_mm=2.4),
    disentangle_input="mirror_pair",
    segment_input="salient_triple",
    disentangle_net=replace(NET, groups=1),
    segment_net=replace(NET, groups=1),
)
"""As `adn_parts`: D and F see X', too, and P is a part of A."""

SEARCHED = AlignmentSettings(search_limit_deg=4.0, refine_steps=3)


@pytest.mark.parametrize(
    ("recipe", "inputs"),
    [
        (RECIPE, ["volume"]),
        (RECIPE.with_fields(alignment=SEARCHED), ["volume", "matrix"]),
        (BOTH_SIDES, ["volume"]),
    ],
    ids=["whole", "pose given", "both sides"],
)
def test_onnxruntime_computes_our_maps(recipe, inputs, tmp_path):
    params = draw_params(partial(init_adn, system=recipe.system))
    write_run(tmp_path / "run", recipe, params)
    path = export_model(tmp_path / "run", tmp_path / "out", "onnx")
    described = json.loads((tmp_path / "out" / "model.json").read_text())
    assert list(described["inputs"]) == inputs
    assert set(described["outputs"]) | set(inputs) == set(MEANINGS) | {"volume"}
    volume = np.random.default_rng(1).random((3, *SHAPE, 1), np.float32)
    volume *= volume > 0.2
    with jax.default_matmul_precision("highest"):
        expected = jax.jit(partial(apply_adn, system=recipe.system))(params, volume)
    ours = {name: np.asarray(one) for name, one in by_name(expected).items()}
    given = {"volume": volume[..., 0], "matrix": ours["matrix"]}
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs()]
    assert set(names) == set(described["outputs"])
    found = session.run(None, {name: given[name] for name in inputs})
    for name, one in zip(names, found, strict=True):
        wanted = ours[name] if name == "matrix" else ours[name][..., 0]
        np.testing.assert_allclose(one, wanted, rtol=0, atol=5e-5, err_msg=name)


def test_a_system_without_pytorch_form_is_refused(tmp_path):
    plain = RECIPE.with_fields(
        segment_input="aligned",
        joint_loss=replace(RECIPE.joint_loss, regularisation=0.0),
    )
    params = draw_params(partial(init_adn, system=plain.system))
    write_run(tmp_path / "run", plain, params)
    with pytest.raises(UserError, match="has no D; take --format stablehlo"):
        export_model(tmp_path / "run", tmp_path / "out", "onnx")
    assert not (tmp_path / "out").exists()
