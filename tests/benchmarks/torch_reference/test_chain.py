"""The peer's chain equals ours: every map between the scan and the prediction."""

from dataclasses import fields, replace
from functools import partial

import jax
import numpy as np
import pytest

from adn_jax.config import AlignmentNetSettings, AlignmentSettings, AsymmetrySettings
from adn_jax.errors import UserError
from adn_jax.pipeline.adn import apply_adn, init_adn
from tests.benchmarks.torch_reference.ours import (
    NET,
    RECIPE,
    SHAPE,
    by_name,
    channels_first,
    draw_params,
)

torch = pytest.importorskip("torch")
from benchmarks.torch_reference.chain import Adn, compensated_volume  # noqa: E402
from benchmarks.torch_reference.parameters import state_of  # noqa: E402

RECIPES = {
    "paper": RECIPE,
    "authors, centred": RECIPE.with_fields(
        alignment=AlignmentSettings(centre=True),
        asymmetry=AsymmetrySettings("positive_part", "clipped"),
    ),
    "centre alone": RECIPE.with_fields(
        alignment=AlignmentSettings(network=False, centre=True)
    ),
    "in a box": RECIPE.with_fields(box=(2, 4, 8)),
    "parts of A": RECIPE.with_fields(asymmetry=AsymmetrySettings(pathological="part")),
    "both sides": RECIPE.with_fields(
        disentangle_input="mirror_pair",
        segment_input="salient_triple",
        disentangle_net=replace(NET, groups=1),
        segment_net=replace(NET, groups=1),
    ),
    "out of plane": RECIPE.with_fields(
        alignment_net=AlignmentNetSettings((2,), (10.0, 20.0, 30.0), (0.1, 0.2, 0.3))
    ),
}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_every_map_equals_ours(recipe):
    params = draw_params(partial(init_adn, system=recipe.system))
    volume = np.random.default_rng(1).random((2, *SHAPE, 1), np.float32)
    volume *= volume > 0.2
    with jax.default_matmul_precision("highest"):
        expected = jax.jit(partial(apply_adn, system=recipe.system))(params, volume)
    adn = Adn(recipe.system).eval()
    for field in fields(params):
        network = getattr(adn, field.name)
        if network is not None:
            network.load_state_dict(state_of(getattr(params, field.name)))
    with torch.inference_mode():
        outputs = adn(torch.tensor(channels_first(volume)))
    found = {field.name: getattr(outputs, field.name) for field in fields(outputs)}
    found["compensated"] = compensated_volume(outputs, recipe.system.asymmetry)
    ours = by_name(expected)
    assert found.keys() == ours.keys() - {"auxiliary_predictions"}
    equal = partial(np.testing.assert_allclose, rtol=0, atol=2e-5)
    pose = found.pop("pose")
    equal(pose.rotation, ours["pose"].rotation)
    equal(pose.translation, ours["pose"].translation)
    for name, value in found.items():
        equal(value, channels_first(ours[name]), err_msg=name)


@pytest.mark.parametrize(
    "alignment",
    [AlignmentSettings(search_limit_deg=4.0), AlignmentSettings(refine_steps=3)],
)
def test_search_and_refinement_are_refused(alignment):
    with pytest.raises(UserError, match="refine-steps 0 for both"):
        Adn(RECIPE.with_fields(alignment=alignment).system)
